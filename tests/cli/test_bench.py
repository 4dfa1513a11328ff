"""`edgesteer bench` on a tiny random model: its tables, its two files, and what is refused before anything is timed."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import click.testing
import numpy as np
import pytest

from edgesteer.bundle import Bundle, StrengthRange, encode_directions, load, read_model_info, save
from edgesteer.evaluate.bench import scaling

Run = Callable[..., click.testing.Result]
QUICK = ("--rounds", 5, "--prefills", 1, "--runs", 1, "-t", 1)


@pytest.fixture(scope="module")
def tiny(model: Callable[[str], Path]) -> Path:
    return model("llama")


@pytest.fixture
def bench(run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Without the processes that measure memory."""
    monkeypatch.setattr("edgesteer.evaluate.bench.costs.peaks", lambda *_: {})
    return lambda *args: run("bench", tiny, *QUICK, *args)


@pytest.fixture
def untimed(bench: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Fails where anything is measured."""

    def measured(*_: Any, **__: Any) -> None:
        pytest.fail("something was measured")

    for name in ("bench", "scale", "beside_prompt"):
        monkeypatch.setattr(f"edgesteer.evaluate.bench.{name}", measured)
    return bench


def made(tiny: Path, path: Path, gated: bool = False, **training: str) -> Path:
    info = read_model_info(str(tiny))
    drawn = np.random.default_rng(0).standard_normal(info.n_embd).astype(np.float32)
    gate = {1: [(drawn[:, None], np.ones(1, np.float32))]} if gated else None
    bundle = Bundle.build(
        name="drawn", directions={1: drawn}, model=info, gate=gate, training=training,
        strength=StrengthRange(1.0, 0.0, 2.0),
    )  # fmt: skip
    save(bundle, path)
    return path


def test_json_has_a_study_for_each_name_and_no_more(bench: Run) -> None:
    table = json.loads(bench("--json").stdout)
    assert "scale" not in table
    assert "against" not in table
    result = bench("--scale", "batch, blocks", "--json")
    assert result.exit_code == 0, result.stderr
    assert list(json.loads(result.stdout)["scale"]) == ["blocks", "batch"]


def test_all_is_all(bench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgesteer.evaluate.bench.scale", lambda asked, names, done: dict.fromkeys(names, 1))
    table = json.loads(bench("--scale", "blocks,all", "--json").stdout)
    assert list(table["scale"]) == list(scaling.STUDIES)


def test_the_prompt_stands_beside_the_bundle_that_replaces_it(bench: Run, tiny: Path, tmp_path: Path) -> None:
    steer = made(tiny, tmp_path / "drawn.steer", trait="Talk like a pirate.")
    told = json.loads(bench("--steer", steer, "--against", "prompt", "--json").stdout)["against"]["prompt"]
    ways = told["ways"]
    assert told["trait"] == "Talk like a pirate."
    assert not told["replaces_default"]
    name = load(steer).name
    assert list(ways) == ["unsteered", "prompt", name]
    assert ways["prompt"]["context_tokens"] >= told["trait_tokens"] > 0 == ways[name]["context_tokens"]
    assert ways["prompt"]["kv_bytes"] > 0 == ways[name]["kv_bytes"]
    assert ways[name]["artifact_bytes"] == steer.stat().st_size
    for row in ways.values():
        assert row["first_token_ratio"] > 0
        assert row["token_ratio"] > 0


def test_a_template_that_brings_a_prompt_of_its_own_is_held_against_an_empty_one(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.tiny import CHATML, write_tiny

    own = "{% if messages[0]['role'] != 'system' %}{{'<|im_start|>system\nYou help.<|im_end|>\n'}}{% endif %}"
    path = write_tiny(tmp_path / "own.gguf", "llama", chat_template=own + CHATML)
    monkeypatch.setattr("edgesteer.evaluate.bench.costs.peaks", lambda *_: {})
    result = run("bench", path, *QUICK, "--against", "prompt", "--trait", "Arr.", "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)["against"]["prompt"]
    assert (
        told["ways"]["empty system prompt"]["context_tokens"]
        < 0
        == told["ways"]["unsteered"]["context_tokens"]
    )
    assert told["replaces_default"]


def test_a_bare_control_vector_is_timed_as_well(run: Run, tiny: Path, tmp_path: Path) -> None:
    """And its memory measured, in processes that run nothing of the working directory."""
    width = read_model_info(str(tiny)).n_embd
    data = encode_directions({1: np.full(width, 0.01, np.float32)}, "llama")
    (tmp_path / "bare.gguf").write_bytes(data)
    (tmp_path / "numpy.py").write_text("raise SystemExit('the working directory was run')")
    result = run("bench", tiny, *QUICK, "--steer", "bare.gguf", "--json")
    assert result.exit_code == 0, result.stderr
    table = json.loads(result.stdout)
    assert table["load"]["bare"]["bytes"] == len(data)
    assert table["memory"]["bare"]["peak"] > 0


def test_the_files_hold_the_figures_and_a_picture(bench: Run, tmp_path: Path) -> None:
    args = (
        "--scale",
        "blocks,batch",
        "--against",
        "prompt",
        "--trait",
        "Arr <&> \x1b[31m.",
        "-o",
        "cost.json",
    )
    result = bench(*args)
    assert result.exit_code == 0, result.stderr
    table = json.loads(Path("cost.json").read_text())
    assert list(table["scale"]) == ["blocks", "batch"]
    picture = ET.fromstring(Path("cost.svg").read_text())
    panels = [each for each in picture if each.tag.endswith("svg")]
    assert len(panels) == 2 + 2 + 3  # token and prefill; the studies; first token, token and cache
    assert "\x1b" not in result.stdout
    first = panels[0].attrib["aria-label"]
    for part in (table["model"]["name"][:20], "5 rounds", "1 run,", "1 thread"):
        assert part in first
    told = " ".join(result.stdout.split())
    assert "median over the rounds" in told
    assert "scatter" in told


def test_existing_files_are_refused_before_the_work_and_replaced_by_force(untimed: Run, bench: Run) -> None:
    for name in ("cost.json", "cost.svg"):
        Path(name).write_text("mine")
        result = untimed("-o", "cost.json")
        assert (result.exit_code, result.stdout) == (1, "")
        assert f"{name}: exists already" in result.stderr
        assert Path(name).read_text() == "mine"
        Path(name).unlink()


def test_force_replaces_both(bench: Run) -> None:
    Path("cost.json").write_text("mine")
    Path("cost.svg").write_text("mine")
    assert bench("-o", "cost.json", "--force").exit_code == 0
    assert "token" in json.loads(Path("cost.json").read_text())
    assert Path("cost.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize("stopped_by", [KeyboardInterrupt, OSError("no space left")])
def test_what_is_stopped_leaves_nothing(
    bench: Run, monkeypatch: pytest.MonkeyPatch, stopped_by: BaseException
) -> None:
    def stop(*_: Any) -> None:
        raise stopped_by

    for place in ("edgesteer.evaluate.bench.costs.interleaved", "edgesteer.report.bench.picture"):
        with monkeypatch.context() as patched:
            patched.setattr(place, stop)
            result = bench("-o", "cost.json")
        assert result.exit_code in (1, 130)
        assert not list(Path().glob("*cost*"))


def test_a_picture_that_cannot_be_written_takes_the_figures_with_it(
    bench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgesteer.bundle import container

    write = container.write_file

    def full(path: Path, data: bytes, force: bool) -> None:
        if path.suffix == ".svg":
            raise KeyboardInterrupt
        write(path, data, force)

    monkeypatch.setattr(container, "write_file", full)
    assert bench("-o", "cost.json").exit_code == 130
    assert not list(Path().glob("*cost*"))


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("--scale", "blocks,depth"), 2, "'depth', expected all, or some of blocks,"),
        (("--scale", ""), 2, "'', expected all"),
        (("--rounds", 4), 2, "rounds"),
        (("--runs", 0), 2, "runs"),
        (("--tokens", 1), 2, "tokens"),
        (("--against", "fine-tuning"), 2, "fine-tuning"),
        (("--against", "prompt"), 2, "no bundle says what it was learnt from"),
        (("--against", "prompt", "--trait", "  "), 2, "--trait is empty"),
        (("--trait", "Arr."), 2, "only with --against prompt"),
        (("--template", "{question}"), 2, "only with --against prompt"),
        (("--against", "prompt", "--trait", "Arr.", "--template", "no field"), 1, "expected the fields"),
        (("-o", "cost.txt"), 2, "expected a name that ends in .json"),
        (("-o", "nowhere/cost.json"), 1, "no folder"),
        (("--steer", "missing.steer"), 1, "missing.steer"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_timed(
    untimed: Run, args: tuple[str, ...], code: int, message: str
) -> None:
    result = untimed(*args)
    assert result.exit_code == code, result.stderr
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_bundle_for_another_model_is_refused(untimed: Run, bundle_file: Path) -> None:
    result = untimed("--steer", bundle_file)
    assert result.exit_code == 1
    assert "n_layer" in result.stderr or "n_embd" in result.stderr


def test_a_psr_has_no_counterpart_in_repeng(untimed: Run, tiny: Path, tmp_path: Path) -> None:
    psr = made(tiny, tmp_path / "gated.steer", gated=True)
    result = untimed("--steer", psr, "--against", "repeng")
    assert result.exit_code == 2
    assert "PSR" in result.stderr


def test_without_repeng_it_says_what_to_install(untimed: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch", "transformers"):  # there, and too slow to load for this
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "repeng", None)
    result = untimed("--against", "repeng")
    assert result.exit_code == 1
    assert "pip install repeng" in result.stderr
    assert "convert" not in result.stderr
    monkeypatch.setitem(sys.modules, "torch", None)
    both = untimed("--against", "repeng").stderr
    assert both.startswith("edgesteer: error: repeng, torch: not installed")
    assert "pip install repeng and pip install -e '.[convert]'" in both
    assert both.count("\n") == 1


def test_vectors_go_to_repeng_and_psrs_are_named(
    bench: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from edgesteer_converters import against_repeng as module

    asked = {}

    def found(model: str, bundle: Bundle, questions: list[str], *rest: Any) -> dict[str, Any]:
        asked["bundle"], asked["questions"] = bundle, questions
        row = {"prefill": 1.0, "token": 2.0}
        alike = {"unsteered": 1.0, "steered": 0.5}
        ways = {f"{who} {how}": row for who in ("edgesteer", "repeng") for how in alike}
        facts = {"prompts": len(questions), "tokens": 3, "first_tokens_alike": alike}
        return {**facts, "ways": ways, "ratios": dict.fromkeys(module.RATIOS, row)}

    monkeypatch.setattr(module, "need_repeng", lambda: None)
    monkeypatch.setattr(module, "against_repeng", found)
    both = (made(tiny, tmp_path / "gated.steer", gated=True), made(tiny, tmp_path / "plain.steer"))
    result = bench("--steer", both[0], "--steer", both[1], "--against", "repeng", "-o", "cost.json")
    assert result.exit_code == 0, result.stderr
    assert asked["bundle"].kind == "vector"
    assert len(set(asked["questions"])) > 1
    assert f"not compared: {both[0]}"[:60] in result.stdout.replace("\n", " ")
    assert json.loads(Path("cost.json").read_text())["against"]["repeng"]["without"] == [str(both[0])]
