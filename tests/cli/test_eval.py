"""`edgesteer eval` on a tiny random model: the table's width, its JSON, and what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import click.testing
import pytest

from tests.cli.drawn import drawn_bundle

Run = Callable[..., click.testing.Result]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.txt"
    path.write_text("Why is it so?\nWhat is a key?\n")
    return path


@pytest.fixture
def evaluate(run: Run, tiny: Path, steer: Path, questions: Path) -> Run:
    def call(*args: object) -> click.testing.Result:
        given = () if "--steer" in args else ("--steer", steer)
        return run("eval", tiny, *given, "--questions", questions, "-n", 4, "-t", 1, "-c", 1024, *args)

    return call


def test_the_table_fits_and_has_a_row_each(evaluate: Run) -> None:
    result = evaluate("--count", "pirate", "--count", "a|e", "--count", "|".join(["nothing"] * 20))
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    assert [line.split()[0] for line in lines[1:3]] == ["unsteered", "prompt"]
    assert any(line.startswith("a|e per 100 words") for line in lines)
    assert lines[-1].startswith("2 questions")


def test_json_holds_each_count_and_the_found_strength(evaluate: Run) -> None:
    result = evaluate("--count", "e", "--equal-coherence", "--json")
    assert result.exit_code == 0, result.stderr
    table = json.loads(result.stdout)
    assert [row["name"] for row in table["rows"]][:2] == ["unsteered", "prompt"]
    assert table["rows"][2]["strength"] == table["rows"][2]["dose"]["strength"]
    assert set(table["rows"][2]["counts"]) == {"e"}


def test_matched_tells_each_bundle_at_the_prompts_coherence(evaluate: Run, steer: Path) -> None:
    again = ("--steer", steer, "--steer", f"{steer}:0.5", "--matched", "--count", "e")
    result = evaluate(*again)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    for key in ("trait", "e per 100 words", "e in replies"):
        begun = next(i for i, line in enumerate(lines) if line.startswith(f"{key}, at equal coherence"))
        assert [bool(line) for line in lines[begun : begun + 5]] == [True, True, True, True, False]
    rows = json.loads(evaluate(*again, "--json").stdout)["rows"]
    assert [row["matched"] is None for row in rows] == [True, True, False, False]
    assert rows[2]["matched"] != rows[3]["matched"]  # each has a curve of its own, though they share a name


def test_a_strength_that_changes_nothing_says_that_more_might_do_too(evaluate: Run, steer: Path) -> None:
    result = evaluate("--steer", f"{steer}:0.000001", "--matched")
    assert result.exit_code == 0, result.stderr
    assert "as coherent as the prompt at the highest strength asked; more might do too" in " ".join(
        result.stdout.split()
    )


def test_template_and_stop_are_the_bundles_own_unless_given(
    evaluate: Run, tiny: Path, tmp_path: Path
) -> None:
    template = "{system}\nQ: {question}\nA:"
    own = drawn_bundle(tiny, tmp_path / "own.steer", trait="Arr.", template=template, stop="e")
    replies = [
        json.loads(evaluate("--steer", own, "--json", *more).stdout)["rows"][0]["replies"]
        for more in ((), ("--template", template.replace("\n", "\\n"), "--stop", "e"), ("--stop", "~~~~"))
    ]
    assert replies[0] == replies[1]
    assert not any("e" in reply for reply in replies[0])


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("--count", "("), 2, "not a regular expression"),
        (("--count", ""), 2, "nothing to count"),
        (("--trait", "  "), 2, "--trait is empty"),
        (("--template", "no field"), 1, "expected the fields"),
        (("--questions", "missing.txt"), 1, "missing.txt"),
        (("--steer", "missing.steer"), 1, "missing.steer"),
        (("-n", "0"), 2, "max-tokens"),
        (("--matched", "--suite", "pirate"), 2, "--matched is for the table"),
        (("--matched", "--adaptation", "a.html"), 2, "--matched and --adaptation exclude each other"),
    ],
)
def test_bad_input_is_one_line(evaluate: Run, args: tuple[str, ...], code: int, message: str) -> None:
    result = evaluate(*args)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_strength_and_equal_coherence_contradict(evaluate: Run, steer: Path) -> None:
    result = evaluate("--steer", f"{steer}:1.5", "--equal-coherence")
    assert result.exit_code == 2
    assert "finds the strength itself" in result.stderr


def test_a_bundle_that_names_no_trait_needs_one(evaluate: Run, tiny: Path, tmp_path: Path) -> None:
    mute = drawn_bundle(tiny, tmp_path / "mute.steer")
    result = evaluate("--steer", mute)
    assert result.exit_code == 2
    assert "give --trait TEXT" in result.stderr
    assert evaluate("--steer", mute, "--trait", "Arr.").exit_code == 0


def test_sentiment_without_vader_says_what_to_install(evaluate: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    result = evaluate("--sentiment")
    assert result.exit_code == 1
    assert "pip install 'edgesteer[sentiment]'" in result.stderr
    assert result.stderr.count("\n") == 1
