"""Suites: what a file may say, what ships, and that everything else is one clear line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesteer.errors import EdgesteerWarning, InputError
from edgesteer.evaluate import Suite, held_out_questions, read_suite
from edgesteer.evaluate.suite_file import MOST_STRENGTHS, MOST_TOKENS, SUITES
from edgesteer.generate import judge_questions, strength_questions, training_questions

ASKED = ["Why is it so?", "What is a key?"]


def written(folder: Path, text: str | bytes, name: str = "mine.json") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(path: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_suite(path)
    told = str(caught.value)
    assert "\n" not in told
    assert len(told) < 500
    return told


# -- what ships ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SUITES)
def test_a_shipped_suite_asks_what_nothing_was_learnt_from(name: str) -> None:
    suite = read_suite(name)
    assert suite.name == name
    built_in = [*training_questions(), *strength_questions(), *judge_questions()]
    assert not {q.casefold() for q in suite.questions} & {q.casefold() for q in built_in}
    assert f"{len(suite.questions)} questions" in SUITES[name]
    assert suite.trait


def test_the_pirates_are_the_held_out_questions_and_four_more() -> None:
    suite = read_suite("pirate")
    assert list(suite.questions[:20]) == held_out_questions()
    assert len(suite.questions) == 24
    assert suite.counts == ("pirate",)


def test_a_file_goes_before_a_name_and_a_folder_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pirate").mkdir()
    assert len(read_suite("pirate").questions) == 24
    (tmp_path / "pirate").rmdir()
    written(tmp_path, "\n".join(ASKED), "pirate")
    assert read_suite("pirate") == Suite("pirate", tuple(ASKED))
    assert "expected a file or one of pirate" in refused("pirates")


# -- files -----------------------------------------------------------------------------------------


def test_a_suite_says_what_it_says(tmp_path: Path) -> None:
    told = {
        "trait": " Be brief. ",
        "questions": ASKED,
        "counts": [r"\S+", r"\s+", "pirate"],  # these two differ in case alone, and do not count alike
        "sentiment": True,
        "max_tokens": MOST_TOKENS,
        "strengths": [2, -0.5, 1.0],
    }
    for text in (json.dumps(told), json.dumps(told, indent=2), "\ufeff" + json.dumps(told)):
        assert read_suite(written(tmp_path, text)) == Suite(
            "mine",
            tuple(ASKED),
            "Be brief.",
            (r"\S+", r"\s+", "pirate"),
            True,
            MOST_TOKENS,
            (-0.5, 1.0, 2.0),
        )


def test_what_a_suite_leaves_open_is_none(tmp_path: Path) -> None:
    suite = read_suite(written(tmp_path, json.dumps({"questions": ASKED})))
    assert suite == Suite("mine", tuple(ASKED))
    assert (suite.trait, suite.max_tokens, suite.strengths) == (None, None, None)


@pytest.mark.parametrize("name", ["q.txt", "q", "q.jsonl", "q.json"])
def test_a_file_of_questions_is_a_suite_too(tmp_path: Path, name: str) -> None:
    lines = ASKED if name in ("q.txt", "q") else [json.dumps({"question": q}) for q in ASKED]
    assert read_suite(written(tmp_path, "\n".join(lines), name)) == Suite("q", tuple(ASKED))


def test_a_repeated_line_is_dropped_and_said(tmp_path: Path) -> None:
    with pytest.warns(EdgesteerWarning, match="dropped 1 line"):
        suite = read_suite(written(tmp_path, "\n".join([*ASKED, ASKED[0]]), "q.txt"))
    assert suite.questions == tuple(ASKED)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"questions": []}, '"questions": empty'),
        ({"questions": "Why?"}, "expected a list of texts"),
        ({"questions": None}, "expected a list of texts"),
        ({"questions": ["Why?", 3]}, '"questions", item 2: 3, expected text'),
        ({"questions": ["Why?", "  "]}, "item 2: '  ', expected text"),
        ({"questions": ["Why?", "When?", " why? "]}, "item 3 repeats item 1"),
        ({"trait": ""}, '"trait"'),
        ({"trait": ["Arr."]}, '"trait"'),
        ({"counts": "pirate"}, '"counts"'),
        ({"counts": ["("]}, "not a regular expression"),
        ({"counts": [""]}, "item 1: '', expected text"),
        ({"counts": ["a", "a"]}, "item 2 repeats item 1"),
        ({"sentiment": 1}, "expected true or false"),
        ({"sentiment": "yes"}, "expected true or false"),
        ({"max_tokens": 0}, f"from 1 to {MOST_TOKENS}"),
        ({"max_tokens": MOST_TOKENS + 1}, f"from 1 to {MOST_TOKENS}"),
        ({"max_tokens": 2.5}, "a whole number"),
        ({"max_tokens": True}, "a whole number"),
        ({"max_tokens": None}, "a whole number"),
        ({"strengths": []}, f"a list of 1 to {MOST_STRENGTHS}"),
        ({"strengths": [*range(MOST_STRENGTHS + 1)]}, f"a list of 1 to {MOST_STRENGTHS}"),
        ({"strengths": 1.5}, "a list of"),
        ({"strengths": [1, "2"]}, "item 2: '2', expected a finite number"),
        ({"strengths": [False]}, "a finite number"),
        ({"strengths": [1, 1.0]}, "item 2 repeats item 1"),
        ({"strengths": [10**400]}, "a finite number"),
        ({"name": "x"}, "unknown key 'name'"),
        ({"question": "Why?"}, "unknown key 'question'"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    told = refused(written(tmp_path, json.dumps({"questions": ASKED, **change}, indent=1)))
    assert message in told
    assert "mine.json" in told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "expected a suite"),
        ("3", "expected a suite"),
        ('{"trait": "x"}', 'no "questions"'),
        ('{"questions": ["a"], "questions": ["b"]}', "twice"),
        ('{"questions": ["a"], "strengths": [NaN]}', "NaN"),
        ('{"questions": ["a"], "strengths": [1e999]}', "finite"),
        ('{"questions": ["\\ud800"]}', "surrogate"),
        ('{"questions": ' + "[" * 100_000, "too deep"),
        (b"\xff\xfe\x00", "NUL"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    assert message in refused(written(tmp_path, text))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "missing.json" in refused(tmp_path / "missing.json")
    assert "missing.txt" in refused(tmp_path / "missing.txt")
    (tmp_path / "folder.json").mkdir()
    assert "folder.json" in refused(tmp_path / "folder.json")
    assert "no questions" in refused(written(tmp_path, "\n\n", "q.txt"))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["questions", "trait", "counts", "sentiment", "max_tokens", "strengths"]), values
    )
)
def test_any_values_are_a_suite_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, told: dict[str, Any]
) -> None:
    path = written(tmp_path_factory.mktemp("any"), json.dumps(told, indent=1))
    try:
        suite = read_suite(path)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert suite.questions
