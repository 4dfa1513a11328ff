"""`edgesteer adaptation` on a tiny random model: page, JSON, scores; and what is refused, before any work."""

from __future__ import annotations

import json
from pathlib import Path

import click.testing
import pytest

from tests.cli.support import NAME, Run, random_bundle, refused
from tests.lora import write_lora
from tests.report.html_pages import self_contained
from tests.tiny import tiny_model


@pytest.fixture
def measure(run: Run, tiny: Path, steer: Path) -> Run:
    Path("questions.txt").write_text("Why is it so?\n")

    def call(*args: object, model: object = tiny) -> click.testing.Result:
        given = () if {"--steer", "--way"} & {*args} else ("--steer", steer)
        questions = () if "--questions" in args else ("--questions", "questions.txt")
        page = () if "-o" in args else ("-o", "out.html")
        return run("adaptation", model, *given, *questions, *page, "-n", 3, "-t", 1, "-c", 1024, *args)

    return call


def test_a_page_its_json_and_a_line_for_each(measure: Run, tiny: Path, tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "small.gguf", tiny)
    result = measure("--lora", lora)
    assert result.exit_code == 0, result.stderr
    self_contained(Path("out.html").read_text("utf-8"))
    data = json.loads(Path("out.json").read_text("utf-8"))
    assert [row["kind"] for row in data["rows"]] == ["unadapted", "prompt", "constant", "LoRA"]
    lines = result.stdout.splitlines()
    assert max(map(len, lines[:-1])) <= 100
    assert [line.split()[0] for line in lines[1:5]] == ["unadapted", "prompt", NAME.split()[0], "small"]
    assert lines[-1] == f"{tmp_path / 'out.html'}, {tmp_path / 'out.json'}"


def test_json_on_stdout_is_the_file_and_force_replaces_it(measure: Run, steer: Path) -> None:
    Path("out.html").write_text("old")
    result = measure("--force", "--json", "--trait", "Be brief.", "--way", f"off={steer}:0")
    assert result.exit_code == 0, result.stderr
    self_contained(Path("out.html").read_text("utf-8"))
    data = json.loads(result.stdout)
    assert data == json.loads(Path("out.json").read_text("utf-8"))
    assert data["trait"] == "Be brief."
    assert (data["rows"][2]["name"], data["rows"][2]["strength"]) == ("off", 0)
    assert data["rows"][2]["drift"]["kl"]["value"] == 0


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("-o", "out.json"), 2, "expected NAME.html"),
        (("-o", "nowhere/out.html"), 1, "nowhere"),
        (("--trait", "  "), 2, "--trait is empty"),
        (("--steer", "missing.steer"), 1, "missing.steer"),
        (("--questions", "missing.txt"), 1, "missing.txt"),
        (("--at", "matched"), 2, "No such option"),
        (("--count", "pirate"), 2, "--count"),
    ],
)
def test_bad_input_is_one_line_before_a_model_is_looked_for(
    measure: Run, args: tuple[str, ...], code: int, message: str
) -> None:
    refused(measure(*args, model="no-such-model"), message, code=code)
    assert not list(Path().glob("out.*"))


@pytest.mark.parametrize("name", ["out.html", "out.json"])
def test_an_existing_output_stays(measure: Run, name: str) -> None:
    Path(name).write_text("mine")
    refused(measure(model="no-such-model"), name, "--force")
    assert Path(name).read_text() == "mine"


def test_without_a_bundle_or_a_trait_it_says_what_to_give(
    measure: Run, run: Run, tiny: Path, tmp_path: Path
) -> None:
    mute = random_bundle(tiny, tmp_path / "mute.steer")
    refused(measure("--steer", mute), "give --trait TEXT", code=2)
    refused(run("adaptation", tiny, "-o", "out.html"), "--steer", "--way", code=2)


def test_an_adapter_or_a_bundle_that_does_not_fit_is_one_line(
    measure: Run, tiny: Path, tmp_path: Path
) -> None:
    wide = tiny_model("llama", tmp_path, n_embd=128)
    cut = write_lora(tmp_path / "cut.gguf", tiny)
    cut.write_bytes(cut.read_bytes()[:-40])
    other = random_bundle(wide, tmp_path / "wide.steer", trait="Arr.")
    for args, text in (
        (("--lora", "missing.gguf"), "missing.gguf"),
        (("--lora", "questions.txt"), "questions.txt"),
        (("--lora", write_lora(tmp_path / "wide-lora.gguf", wide)), "wide-lora.gguf"),
        (("--lora", cut), "cut.gguf"),
        (("--steer", other), "wide"),
    ):
        refused(measure(*args), text)
    assert not list(Path().glob("out.*"))
