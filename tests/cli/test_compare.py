"""`edgesteer compare` on a tiny random model: two files or none, and what is refused at once."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click.testing
import pytest

from edgesteer.cli.files import write_all
from tests.cli.support import NAME, Run, random_bundle, refused
from tests.evaluate.stub_judge import Stub, serving
from tests.report.html_pages import self_contained

SUITE = {
    "questions": ["Why is it so?", "What is a key?"],
    "counts": ["e"],
    "max_tokens": 3,
    "strengths": [0.5],
}


@pytest.fixture
def compare(run: Run, tiny: Path, steer: Path) -> Run:
    """In an empty folder; `suite` is the suite's JSON."""

    def call(*args: object, suite: dict[str, Any] | None = None) -> click.testing.Result:
        Path("mine.json").write_text(json.dumps(suite or SUITE))
        given = () if {"--steer", "--way"} & {*args} else ("--steer", steer)
        suite = () if "--suite" in args else ("--suite", "mine.json")
        page = () if "-o" in args else ("-o", "out.html")
        return run("compare", tiny, *given, *suite, *page, "-t", 1, "-c", 1024, *args)

    return call


def files() -> list[str]:
    return sorted(path.name for path in Path.cwd().iterdir() if path.suffix not in (".steer", ""))


def test_it_writes_the_page_and_the_numbers(compare: Run, tiny: Path, steer: Path) -> None:
    other = random_bundle(tiny, steer.with_name("other.steer"), trait="Another.")
    result = compare("--way", steer, "--way", f"{other}:0.5")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[-1] == f"{Path.cwd() / 'out.html'}, {Path.cwd() / 'out.json'}"
    shown = self_contained(Path("out.html").read_text("utf-8"))
    assert shown.texts["h1"] == ["Comparison: mine"]
    assert shown.texts["blockquote"] == ["Talk like a pirate."]
    data = json.loads(Path("out.json").read_text("utf-8"))
    assert [row["name"] for row in data["rows"]] == ["unsteered", "prompt", f"{NAME} drawn", f"{NAME} other"]
    assert [row["kind"] for row in data["rows"]][2:] == ["constant", "constant"]
    assert [point["strength"] for point in data["rows"][2]["curve"]] == [0, 0.5, 1]
    assert data["questions"] == SUITE["questions"]
    assert data["max_tokens"] == 3
    assert files() == ["mine.json", "out.html", "out.json"]


def test_what_is_typed_goes_before_a_shipped_suite(compare: Run) -> None:
    result = compare("--suite", "pirate", "-n", 1, "--count", "e", "--trait", "Be brief.", "--json")
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    assert data == json.loads(Path("out.json").read_text("utf-8"))
    assert len(data["questions"]) == 24
    assert data["max_tokens"] == 1
    assert data["trait"] == "Be brief."
    assert list(data["rows"][0]["counts"]) == ["pirate", "e"]


def test_the_suites_trait_goes_before_the_bundles(compare: Run, tiny: Path, tmp_path: Path) -> None:
    mute = random_bundle(tiny, tmp_path / "mute.steer")
    refused(compare("--steer", mute), "give --trait TEXT", code=2)
    result = compare("--steer", mute, "--json", "-o", "a.html", suite={**SUITE, "trait": "Sing."})
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["trait"] == "Sing."


def test_a_file_of_questions_is_a_suite(compare: Run) -> None:
    Path("questions.txt").write_text("Why is it so?\n")
    assert compare("--suite", "questions.txt", "-n", 2).exit_code == 0
    assert json.loads(Path("out.json").read_text())["questions"] == ["Why is it so?"]


@pytest.mark.parametrize("there", ["out.html", "out.json"])
def test_an_existing_file_is_refused_before_the_model_is_opened_unless_forced(
    run: Run, compare: Run, there: str
) -> None:
    Path(there).write_text("mine")
    refused(run("compare", "no-such-model", "--steer", "x", "-o", "out.html"), f"{there}: exists already")
    assert Path(there).read_text() == "mine"
    assert compare("--force").exit_code == 0
    assert Path(there).read_text() != "mine"


def test_the_suite_is_never_written_over(compare: Run) -> None:
    refused(
        compare("--force", "-o", f"../{Path.cwd().name}/mine.html"), "would replace the suite itself", code=2
    )
    assert json.loads(Path("mine.json").read_text()) == SUITE


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("-o", "out.json"), 2, "expected NAME.html"),
        (("-o", "out"), 2, "expected NAME.html"),
        (("-o", "missing/out.html"), 1, "no folder"),
        (("--suite", "missing.json"), 1, "missing.json"),
        (("--suite", "nothing"), 1, "expected a file or one of pirate"),
        (("--count", "("), 2, "not a regular expression"),
        (("--steer", "missing.steer"), 1, "missing.steer"),
        (("--at", "matched"), 2, "No such option"),
    ],
)
def test_bad_input_is_one_line_and_no_file(
    compare: Run, args: tuple[str, ...], code: int, message: str
) -> None:
    refused(compare(*args), message, code=code)
    assert files() == ["mine.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"questions": []}, "at least one"),
        ({"colour": 1}, "unknown key"),
        ({"max_tokens": 0}, "whole number"),
    ],
)
def test_a_wrong_suite_is_one_line(compare: Run, change: dict[str, Any], message: str) -> None:
    refused(compare(suite={**SUITE, **change}), message)
    assert files() == ["mine.json"]


def test_a_suite_that_wants_sentiment_says_what_to_install(
    compare: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    refused(compare(suite={**SUITE, "sentiment": True}), "pip install 'edgesteer[sentiment]'")


def test_both_files_or_none(tmp_path: Path) -> None:
    numbers, page, old = tmp_path / "a.json", tmp_path / "a.html", tmp_path / "old.json"
    page.mkdir()  # cannot be written over
    old.write_text("mine")
    for first in (numbers, old):
        with pytest.raises(OSError, match="html"):
            write_all({first: "{}", page: "<html>"}, force=True)
    assert not numbers.exists()
    assert old.exists()


def test_a_judge_and_relevance_are_on_the_page(compare: Run) -> None:
    suite = {**SUITE, "questions": [f"What is {n} and one?" for n in range(8)]}
    with serving(Stub()) as stub:
        result = compare("--judge", stub.url, suite=suite)
    assert result.exit_code == 0, result.stderr
    assert "calls" in result.stderr
    html = Path("out.html").read_text("utf-8")
    explained = self_contained(html).texts["dt"]
    assert {"relevance", "question matched", "judge: alignment", "judge: harmonic"} <= {*explained}
    assert "judge: concept" not in html
    data = json.loads(Path("out.json").read_text("utf-8"))
    assert data["judge"]["name"] == "stub"
    assert "relevance" in data["rows"][2]["minus_prompt"]


def test_a_judges_options_without_a_judge_write_nothing(compare: Run) -> None:
    refused(compare("--judge-model", "m"), "--judge-model needs --judge URL", code=2)
    assert files() == ["mine.json"]
