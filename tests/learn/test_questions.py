"""Training questions: what ships, and what a person's file may hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgesteer.errors import LearnError
from edgesteer.evaluate import held_out_questions
from edgesteer.learn import Question, built_in, read_questions


def test_enough_questions_ship_and_none_twice() -> None:
    texts = [q.text for q in built_in()]
    assert len(texts) >= 48
    assert len(set(texts)) == len(texts)


def test_held_out_questions_are_held_out() -> None:
    assert len(held_out_questions()) >= 16
    trained = {q.text.casefold() for q in built_in()}
    assert not trained & {q.casefold() for q in held_out_questions()}


def test_a_text_file_has_one_question_a_line(tmp_path: Path) -> None:
    path = tmp_path / "q.txt"
    path.write_text("\ufeffWhy?\n\n  How come? \r\n", encoding="utf-8")
    assert read_questions(path) == [Question("Why?"), Question("How come?")]


def test_json_lines_may_bring_replies(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "Why?"}\n{"question": "How?", "reply": "Arr."}\n')
    assert read_questions(path) == [Question("Why?"), Question("How?", "Arr.")]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("q.txt", b"\n \n", "no questions"),
        ("q.txt", b"\xff\xfe\x00", "UTF-8"),
        ("q.jsonl", b"Why?\n", ":1: not JSON"),
        ("q.jsonl", b'{"question": "a"}\n["b"]\n', ":2: expected an object"),
        ("q.jsonl", b'{"question": "a", "answer": "b"}\n', ":1: expected an object"),
        ("q.jsonl", b'{"question": " "}\n', "expected text"),
        ("q.jsonl", b'{"question": "a", "reply": 3}\n', "expected text"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(LearnError, match=said) as refused:
        read_questions(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LearnError, match="No such file"):
        read_questions(tmp_path / "none.txt")
