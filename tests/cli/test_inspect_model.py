"""`edgesteer inspect --model`, as a user types it, on tiny models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgesteer.bundle import Bundle, StrengthRange, load, read_model_info, save
from edgesteer.text import visible
from tests.cli.support import Run, refused
from tests.runtime.support import directions, psr, vector
from tests.tiny import tiny_model

Model = Callable[[str], Path]


@pytest.fixture
def on(model: Model) -> tuple[object, ...]:
    return ("--model", model("llama"), "-t", 1)


@pytest.fixture
def steer_file(model: Model, tmp_path: Path) -> Path:
    save(psr(model("llama"), [1, 3], scope="response", size=0.3), tmp_path / "p.steer")
    return tmp_path / "p.steer"


def test_json_has_the_report_and_the_facts(run: Run, steer_file: Path, on: tuple[object, ...]) -> None:
    result = run("inspect", f"{steer_file}:0.5", *on, "-p", "the ship", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    data = json.loads(result.stdout)
    facts = json.loads(run("inspect", steer_file, "--json").stdout)
    assert {key: data[key] for key in facts} == facts
    assert data["strength_given"] == 0.5
    report = data["norm_report"]
    assert (report["prompt"], bool(report["reply"])) == ("the ship", True)
    assert [block["block"] for block in report["blocks"]] == [1, 3]
    assert {block["rows"] for block in report["blocks"]} == {24}  # the prompt's last token, and 23 behind it
    assert report["tokens"] > 24
    assert all(block["ratio"] > 0 for block in report["blocks"])


def test_the_strength_given_is_the_one_measured(run: Run, steer_file: Path, on: tuple[object, ...]) -> None:
    def first(text: str, *more: object) -> dict[str, float]:
        data = json.loads(run("inspect", text, *more, *on, "--json").stdout)
        return dict(data["norm_report"]["blocks"][0])

    bundle = vector(Path(str(on[1])), [1], seed=4)
    save(bundle, steer_file.parent / "v.steer")
    once, twice = first("v.steer"), first("v.steer:2")
    assert twice["intervention"] == pytest.approx(2 * once["intervention"], rel=1e-9)
    assert first("v.steer:1.5", "v.steer:0.5")["intervention"] == pytest.approx(
        twice["intervention"], rel=1e-9
    )


@pytest.mark.parametrize("columns", ["40", "80"])
def test_for_people_it_follows_what_the_bundle_holds(
    run: Run, steer_file: Path, on: tuple[object, ...], monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    measured, alone = run("inspect", steer_file, *on), run("inspect", steer_file)
    assert (measured.exit_code, measured.stderr) == (0, "")
    assert measured.stdout.startswith(alone.stdout)
    report = measured.stdout.removeprefix(alone.stdout)
    lines = report.split("\n")
    assert all(visible(line) == line and len(line) <= int(columns) for line in lines)
    for text in ("prompt", "reply", "ratio", "cosine", "24 of", "Largest ratio"):
        assert text in " ".join(report.split())


def test_several_bundles_are_measured_together(run: Run, steer_file: Path, on: tuple[object, ...]) -> None:
    save(vector(Path(str(on[1])), [2], seed=4), steer_file.parent / "v.steer")
    data = json.loads(run("inspect", steer_file, "v.steer", *on, "--json").stdout)
    assert [b["block"] for b in data["interference"]["blocks"]] == [1, 2, 3]
    rows = {block["block"]: block["rows"] for block in data["norm_report"]["blocks"]}
    assert rows[1] == rows[3] == 24 < rows[2] == data["norm_report"]["tokens"]
    shown = run("inspect", steer_file, "v.steer", *on).stdout
    assert shown.index("joint") < shown.index("ratio")


def test_a_model_without_a_chat_template_completes_the_prompt(
    run: Run, steer_file: Path, tmp_path: Path
) -> None:
    base = tiny_model("llama", tmp_path, chat_template=None)
    result = run("inspect", steer_file, "--model", base, "-t", 1, "-p", "abcd", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["norm_report"]["tokens"] <= 24 + 5


def test_a_bundle_that_does_not_fit_is_refused_in_one_line(
    run: Run, bundle_file: Path, vector_file: Path, on: tuple[object, ...]
) -> None:
    refused(run("inspect", bundle_file, *on), "toy.steer", "expected")
    refused(run("inspect", vector_file, *on, "--json"), "toy.gguf")
    refused(run("inspect", bundle_file, f"{bundle_file}:0.5", *on), "toy.steer")
    refused(run("inspect", bundle_file, *on, "--extract", "out"))
    assert not Path("out").exists()


def test_extract_goes_with_a_model(run: Run, steer_file: Path, on: tuple[object, ...]) -> None:
    assert run("inspect", steer_file, *on, "--extract", "out").exit_code == 0
    assert load("out") == load(steer_file)


def test_what_cannot_be_measured_is_refused(run: Run, steer_file: Path, on: tuple[object, ...]) -> None:
    refused(run("inspect", f"{steer_file}:0", *on), "strength")
    refused(run("inspect", f"{steer_file}:1", f"{steer_file}:-1", *on), "strength")
    refused(run("inspect", f"{steer_file}:nan", *on), "nan")
    refused(run("inspect", "absent.steer", *on), "absent.steer")
    refused(run("inspect", steer_file, "--model", "absent.gguf"), "absent.gguf")
    refused(run("inspect", steer_file, "--model", steer_file), "p.steer")
    refused(run("inspect", steer_file, *on, "-p", "x " * 4000), "context", "-p")


@pytest.mark.parametrize(
    "options", [("-p", "x"), ("-t", 1), ("--model", "m", "-p", " "), ("--model", "m", "-t", 0)]
)
def test_wrong_usage(run: Run, steer_file: Path, options: tuple[object, ...]) -> None:
    result = run("inspect", steer_file, *options)
    assert (result.exit_code, result.stdout) == (2, "")


@pytest.mark.parametrize("n", [1, 2])
def test_a_strength_beyond_its_range_is_reported_once(
    run: Run, steer_file: Path, on: tuple[object, ...], n: int
) -> None:
    info = read_model_info(Path(str(on[1])))
    narrow = Bundle.build(
        name="narrow", directions=directions(info, [2]), model=info, strength=StrengthRange(1.0, 0.0, 2.0)
    )
    save(narrow, steer_file.parent / "n.steer")
    result = run("inspect", *["n.steer:3"] * n, *on, "--json")
    assert result.exit_code == 0
    assert (result.stderr.count("\n"), "outside the range" in result.stderr) == (1, True)
    json.loads(result.stdout)
