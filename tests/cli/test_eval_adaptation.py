"""`edgesteer eval --adaptation` on a tiny random model: page, JSON, scores; and what is refused, before any work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click.testing
import numpy as np
import pytest

from edgesteer.bundle import Bundle, StrengthRange, read_model_info, save
from edgesteer.cli import opening
from edgesteer.evaluate.adaptation import measurement as adaptation
from edgesteer.evaluate.adaptation.side_effects import Passage
from tests.lora import write_lora
from tests.report.html_pages import self_contained
from tests.tiny import tiny_model

Run = Callable[..., click.testing.Result]


@pytest.fixture(scope="module")
def tiny(model: Callable[[str], Path]) -> Path:
    return model("llama")


def made(model: Path, path: Path, **training: str) -> Path:
    info = read_model_info(str(model))
    drawn = np.random.default_rng(0).standard_normal(info.n_embd).astype(np.float32)
    strength = StrengthRange(1.0, 0.0, 2.0)
    save(
        Bundle.build(name="drawn", directions={1: drawn}, model=info, strength=strength, training=training),
        path,
    )
    return path


@pytest.fixture
def steer(tiny: Path, tmp_path: Path) -> Path:
    return made(tiny, tmp_path / "drawn.steer", trait="Talk like a pirate.")


@pytest.fixture
def evaluate(run: Run, tiny: Path, steer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    (tmp_path / "questions.txt").write_text("Why is it so?\n")
    monkeypatch.setattr(adaptation, "passages_of_the_project", lambda: (Passage("one", "2 and 2 is 4."),))

    def call(*args: object) -> click.testing.Result:
        given = () if "--steer" in args else ("--steer", steer)
        asked = () if "--questions" in args else ("--questions", "questions.txt")
        return run("eval", tiny, *given, *asked, "-n", 3, "-t", 1, "-c", 1024, *args)

    return call


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model may be opened."""

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("a model was opened")

    monkeypatch.setattr(opening, "open_model", refuse)


def test_a_page_its_json_and_a_line_for_each(evaluate: Run, tiny: Path, tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "small.gguf", tiny)
    result = evaluate("--adaptation", "out.html", "--lora", lora)
    assert result.exit_code == 0, result.stderr
    self_contained((tmp_path / "out.html").read_text("utf-8"))
    told = json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert [row["kind"] for row in told["rows"]] == ["unadapted", "prompt", "constant", "LoRA"]
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    assert [line.split()[0] for line in lines[1:5]] == ["unadapted", "prompt", "drawn", "small"]
    assert "out.html" in lines[-1]
    assert "out.json" in lines[-1]


def test_json_on_stdout_is_the_file(evaluate: Run, steer: Path, tmp_path: Path) -> None:
    result = evaluate("--adaptation", "out.html", "--json", "--trait", "Be brief.", "--steer", f"{steer}:0")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told == json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert told["trait"] == "Be brief."
    assert told["rows"][2]["strength"] == 0
    assert told["rows"][2]["drift"]["kl"]["value"] == 0


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("--adaptation", "out.json"), 2, "expected NAME.html"),
        (("--adaptation", "out"), 2, "expected NAME.html"),
        (("--adaptation", "nowhere/out.html"), 1, "nowhere"),
        (("--lora", "x.gguf"), 2, "--adaptation"),
        (("--adaptation", "out.html", "--lora", "missing.gguf"), 1, "missing.gguf"),
        (("--adaptation", "out.html", "--lora", "questions.txt"), 1, "questions.txt"),
        (("--adaptation", "out.html", "--count", "pirate"), 2, "--count"),
        (("--adaptation", "out.html", "--sentiment"), 2, "--sentiment"),
        (("--adaptation", "out.html", "--trait", "  "), 2, "--trait is empty"),
        (("--adaptation", "out.html", "--steer", "missing.steer"), 1, "missing.steer"),
        (("--adaptation", "out.html", "--questions", "missing.txt"), 1, "missing.txt"),
        (
            ("--adaptation", "out.html", "--equal-coherence", "--steer", "drawn.steer:1"),
            2,
            "finds the strength",
        ),
    ],
)
def test_bad_input_is_one_line_before_the_model_is_opened(
    evaluate: Run, tmp_path: Path, args: tuple[str, ...], code: int, message: str
) -> None:
    before = sorted(tmp_path.iterdir())
    result = evaluate(*args)
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("name", ["out.html", "out.json"])
def test_an_existing_output_stays(evaluate: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    result = evaluate("--adaptation", "out.html")
    assert result.exit_code == 1
    assert name in result.stderr
    assert "--force" in result.stderr
    assert (tmp_path / name).read_text() == "mine"


def test_force_replaces_it(evaluate: Run, tmp_path: Path) -> None:
    (tmp_path / "out.html").write_text("old")
    assert evaluate("--adaptation", "out.html", "--force").exit_code == 0
    self_contained((tmp_path / "out.html").read_text("utf-8"))


@pytest.mark.usefixtures("closed")
def test_without_a_bundle_or_a_trait_it_says_what_to_give(
    evaluate: Run, run: Run, tiny: Path, tmp_path: Path
) -> None:
    result = evaluate("--adaptation", "out.html", "--steer", made(tiny, tmp_path / "mute.steer"))
    assert result.exit_code == 2
    assert "give --trait TEXT" in result.stderr
    result = run("eval", tiny, "--adaptation", "out.html")
    assert result.exit_code == 2
    assert "--steer" in result.stderr


@pytest.mark.usefixtures("closed")
def test_an_adapter_of_another_model_is_one_line(evaluate: Run, tmp_path: Path) -> None:
    wide = tiny_model("llama", tmp_path, n_embd=128)
    lora = write_lora(tmp_path / "wide-lora.gguf", wide)
    result = evaluate("--adaptation", "out.html", "--lora", lora)
    assert result.exit_code == 1
    assert "wide-lora.gguf" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out.html").exists()


def test_an_adapter_that_llama_cpp_refuses_is_one_line(evaluate: Run, tiny: Path, tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "cut.gguf", tiny)
    lora.write_bytes(lora.read_bytes()[:-40])
    result = evaluate("--adaptation", "out.html", "--lora", lora)
    assert result.exit_code == 1
    assert "cut.gguf" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_bundle_for_another_model_leaves_nothing(evaluate: Run, tmp_path: Path) -> None:
    other = made(tiny_model("llama", tmp_path, n_embd=128), tmp_path / "wide.steer", trait="Arr.")
    result = evaluate("--adaptation", "out.html", "--steer", other)
    assert result.exit_code == 1
    assert "wide" in result.stderr
    assert not list(tmp_path.glob("out.*"))
