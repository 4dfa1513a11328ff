"""`edgesteer eval --suite` on a tiny random model: two files or none, and what is refused before the model is read."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click.testing
import pytest

from tests.cli.drawn import NAME, drawn_bundle
from tests.report.html_pages import self_contained

Run = Callable[..., click.testing.Result]
SUITE = {
    "questions": ["Why is it so?", "What is a key?"],
    "counts": ["e"],
    "max_tokens": 3,
    "strengths": [0.5],
}


@pytest.fixture
def evaluate(run: Run, tiny: Path, steer: Path) -> Run:
    """In an empty folder; `suite` is the suite's JSON."""

    def call(*args: object, suite: dict[str, Any] | None = None) -> click.testing.Result:
        Path("mine.json").write_text(json.dumps(suite or SUITE))
        given = () if "--steer" in args else ("--steer", steer)
        asked = () if "--suite" in args else ("--suite", "mine.json")
        return run("eval", tiny, *given, *asked, "-t", 1, "-c", 1024, *args)

    return call


def files() -> list[str]:
    return sorted(path.name for path in Path.cwd().iterdir() if path.suffix not in (".steer", ""))


def refused(result: click.testing.Result, code: int, message: str) -> None:
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_it_writes_the_page_and_the_numbers(evaluate: Run, tiny: Path, steer: Path) -> None:
    other = drawn_bundle(tiny, steer.with_name("other.steer"), trait="Another.")
    result = evaluate("--steer", steer, "--steer", f"{other}:0.5", "-o", "out.html")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "out.html, out.json"
    shown = self_contained(Path("out.html").read_text("utf-8"))
    assert shown.texts["h1"] == ["Comparison: mine"]
    assert shown.texts["blockquote"] == ["Talk like a pirate."]
    told = json.loads(Path("out.json").read_text("utf-8"))
    assert [row["name"] for row in told["rows"]] == ["unsteered", "prompt", f"{NAME} drawn", f"{NAME} other"]
    assert [row["kind"] for row in told["rows"]][2:] == ["constant", "constant"]
    assert [point["strength"] for point in told["rows"][2]["curve"]] == [0, 0.5, 1]
    assert told["questions"] == SUITE["questions"]
    assert told["max_tokens"] == 3
    assert files() == ["mine.json", "out.html", "out.json"]


def test_a_shipped_suite_goes_to_files_of_its_name_and_options_go_before_it(evaluate: Run) -> None:
    result = evaluate("--suite", "pirate", "-n", 1, "--count", "e", "--trait", "Be brief.", "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told == json.loads(Path("pirate.json").read_text("utf-8"))
    assert Path("pirate.html").exists()
    assert len(told["questions"]) == 24
    assert told["max_tokens"] == 1
    assert told["trait"] == "Be brief."
    assert list(told["rows"][0]["counts"]) == ["pirate", "e"]


def test_the_suites_trait_goes_before_the_bundles(evaluate: Run, tiny: Path, tmp_path: Path) -> None:
    mute = drawn_bundle(tiny, tmp_path / "mute.steer")
    refused(evaluate("--steer", mute, "-o", "a.html"), 2, "give --trait TEXT")
    result = evaluate("--steer", mute, "--json", "-o", "a.html", suite={**SUITE, "trait": "Sing."})
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["trait"] == "Sing."


def test_a_file_of_questions_is_a_suite(evaluate: Run) -> None:
    Path("asked.txt").write_text("Why is it so?\n")
    result = evaluate("--suite", "asked.txt", "-n", 2)
    assert result.exit_code == 0, result.stderr
    assert Path("asked-eval.html").exists()
    assert json.loads(Path("asked-eval.json").read_text())["questions"] == ["Why is it so?"]


def test_equal_coherence_combines(evaluate: Run) -> None:
    result = evaluate("--equal-coherence", "--json", "-o", "a.html")
    assert result.exit_code == 0, result.stderr
    row = json.loads(result.stdout)["rows"][2]
    assert row["strength"] == row["dose"]["strength"]
    assert row["strength"] in [point["strength"] for point in row["curve"]]


@pytest.mark.parametrize("there", ["out.html", "out.json"])
def test_an_existing_file_is_refused_before_the_model_is_read_unless_forced(
    evaluate: Run, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(there).write_text("mine")
    with monkeypatch.context() as shut:
        shut.setattr("edgesteer.cli.opening.open_for_scoring", None)
        refused(evaluate("-o", "out.html"), 1, f"{there}: exists already")
    assert Path(there).read_text() == "mine"
    assert evaluate("-o", "out.html", "--force").exit_code == 0
    assert Path(there).read_text() != "mine"


def test_the_suite_is_never_written_over(evaluate: Run) -> None:
    assert evaluate("--force").exit_code == 0
    assert Path("mine-eval.html").exists()
    refused(evaluate("--force", "-o", "../" + Path.cwd().name + "/mine.html"), 2, "is the suite itself")
    assert json.loads(Path("mine.json").read_text()) == SUITE


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("--questions", "mine.json"), 2, "give one of them"),
        (("-o", "out.json"), 2, "expected NAME.html"),
        (("-o", "out"), 2, "expected NAME.html"),
        (("-o", "missing/out.html"), 1, "no folder"),
        (("--suite", "missing.json"), 1, "missing.json"),
        (("--suite", "nothing"), 1, "expected a file or one of pirate"),
        (("--count", "("), 2, "not a regular expression"),
        (("--steer", "missing.steer", "-o", "a.html"), 1, "missing.steer"),
    ],
)
def test_bad_input_is_one_line_and_no_file(
    evaluate: Run, args: tuple[str, ...], code: int, message: str
) -> None:
    refused(evaluate(*args), code, message)
    assert files() == ["mine.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"questions": []}, "at least one"),
        ({"colour": 1}, "unknown key"),
        ({"max_tokens": 0}, "whole number"),
    ],
)
def test_a_wrong_suite_is_one_line(evaluate: Run, change: dict[str, Any], message: str) -> None:
    refused(evaluate("-o", "a.html", suite={**SUITE, **change}), 1, message)
    assert files() == ["mine.json"]


def test_output_needs_a_suite(run: Run, tiny: Path, steer: Path) -> None:
    for args in (("-o", "a.html"), ("--force",)):
        refused(run("eval", tiny, "--steer", steer, *args), 2, "give --suite too")


def test_a_suite_that_wants_sentiment_says_what_to_install(
    evaluate: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    refused(
        evaluate("-o", "a.html", suite={**SUITE, "sentiment": True}), 1, "pip install 'edgesteer[sentiment]'"
    )


@pytest.mark.parametrize(
    "where", ["edgesteer.evaluate.comparison.costs", "edgesteer.report.comparison_page.page"]
)
def test_an_interruption_leaves_nothing_behind(
    evaluate: Run, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupt)
    result = evaluate("-o", "a.html")
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    assert files() == ["mine.json"]


def test_both_files_or_none(evaluate: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgesteer.bundle import container

    write = container.write_file

    def full(path: Path, data: bytes, force: bool) -> None:
        if path.suffix == ".html":
            raise OSError(28, "No space left on device")
        write(path, data, force)

    monkeypatch.setattr(container, "write_file", full)
    result = evaluate("-o", "a.html")
    assert result.exit_code == 1
    assert "No space left" in result.stderr
    assert files() == ["mine.json"]
