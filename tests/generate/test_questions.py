"""Questions: how many of those that ship are taken, and what a person's file may hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesteer.errors import EdgesteerWarning, InputError
from edgesteer.generate import Question, read_questions, training_questions


def test_fewer_training_questions_are_the_first_ones() -> None:
    pool = training_questions()
    assert training_questions(40) == pool[:40]
    assert training_questions(len(pool) + 1) == pool


def test_a_text_file_has_one_question_a_line(tmp_path: Path) -> None:
    path = tmp_path / "q.txt"
    path.write_text("\ufeffWhy?\n\n  How come? \r\n", encoding="utf-8")
    assert read_questions(path) == [Question("Why?"), Question("How come?")]


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\r", "\n\n"])
def test_one_line_is_one_question_however_it_ends(tmp_path: Path, end: str) -> None:
    path = tmp_path / "q.txt"
    path.write_bytes(b"Why?" + end.encode())
    assert read_questions(path) == [Question("Why?")]


def test_json_lines_may_bring_replies(tmp_path: Path) -> None:
    path = tmp_path / "q.JSONL"
    path.write_text('{"question": "Why?"}\n{"question": "How?", "reply": "Arr."}\n')
    assert read_questions(path) == [Question("Why?"), Question("How?", "Arr.")]


def test_measures_beside_a_reply_are_let_be(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "Why?", "reply": "No.", "sign": -1, "trait": 0.5, "coherence": 1.2}')
    assert read_questions(path) == [Question("Why?", "No.", -1)]


@pytest.mark.parametrize("name", ["q.txt", "q", "q.ndjson"])
def test_json_is_read_as_json_whatever_its_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    lines = '\n{"question": "Why?"}\n{ "question": "How?"}'
    for text in ('["Why?", "How?"]', '[\n  "Why?",\n  "How?"\n]', lines):
        path.write_text(text)
        assert read_questions(path) == [Question("Why?"), Question("How?")]
    path.write_text("[INST] Why?\n{name}, how?\n")
    assert [question.text for question in read_questions(path)] == ["[INST] Why?", "{name}, how?"]


def test_json_may_be_an_array_or_bare_questions(tmp_path: Path) -> None:
    path = tmp_path / "q.json"
    for text in ('[\n"Why?",\n{"question": "How?"}]', '"Why?"\n"How?"\n'):
        path.write_text(text)
        assert read_questions(path) == [Question("Why?"), Question("How?")]


@pytest.mark.parametrize(
    ("name", "bad", "fault"),
    [
        ("q.txt", b"Caf\xe9?", "bytes that are not UTF-8"),
        ("q.txt", b"W\0hy?", "a NUL character"),
        ("q.jsonl", b'{"question": ""}', "expected text"),
        ("q.jsonl", b'{"question": "Why?', "not JSON"),
        ("q.jsonl", b'{"query": "Why?"}', "the key 'query'"),
    ],
)
def test_a_bad_line_in_ten_is_left_out_and_named(tmp_path: Path, name: str, bad: bytes, fault: str) -> None:
    path = tmp_path / name
    good = [b'"Question %d?"' % number for number in range(9)]
    path.write_bytes(b"\n".join([good[0], bad, *good[1:]]))
    with pytest.warns(EdgesteerWarning, match="1 of 10 rows cannot be used and are left out") as warned:
        assert len(read_questions(path)) == 9
    assert f"{name}:2: " in str(warned[0].message)
    assert fault in str(warned[0].message)
    path.write_bytes(b"\n".join([good[0], bad, *good[2:]]))
    with pytest.raises(InputError, match=name):
        read_questions(path)


def test_what_stands_there_again_is_dropped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "q.txt"
    path.write_text("Why?\nHow?\nwhy?\nWHY?\n")
    with pytest.warns(EdgesteerWarning, match="dropped 2 lines that repeat"):
        assert read_questions(path) == [Question("Why?"), Question("How?")]


def test_other_replies_to_a_question_are_no_repetition(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(
        '{"question": "Why?", "reply": "a"}\n{"question": "Why?", "reply": "b"}\n'
        '{"question": "Why?", "reply": "a", "sign": -1}\n{"question": "Why?"}\n'
    )
    assert len(read_questions(path)) == 4


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("q.txt", b"", "no questions"),
        ("q.txt", b"\n \n", "no questions"),
        ("q.txt", b"\xff\xfe\x00", "UTF-8"),
        ("q.txt", "Why?\n".encode("utf-16"), "UTF-16"),
        ("q.txt", b"GGUF\x03\x00\x00\x00", "a binary file"),
        ("q.txt", b"Caf\xe9?\n", "not UTF-8 text .byte 3"),
        ("q.jsonl", b"Why?\n", ":1: not JSON"),
        ("q.json", b"[\n", "q.json: not JSON"),
        ("q.jsonl", b"[" * 100_000, "not JSON .too deep"),
        ("q.jsonl", b'{"a":' * 100_000, ":1: not JSON .too deep"),
        ("q.json", b"[]", "no questions"),
        ("q.json", b'[["a"]]', ": item 1: expected an object"),
        ("q.jsonl", b'{"question": ' + b"1" * 5000 + b"}", ":1: not JSON .too deep or too large"),
        ("q.jsonl", b'{"question": "a"}\n["b"]\n', ":2: expected an object"),
        (
            "q.jsonl",
            b'{"question": "a", "answer": "b"}\n',
            ":1: the key 'answer'; expected only question, reply",
        ),
        ("q.jsonl", b'{"question": "a\\u0000b"}\n', "NUL character"),
        ("q.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "run `git lfs pull`"),
        ("q.txt", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "run `git lfs pull`"),
        ("q.txt", b"\x1f\x8b\x08", "packed as gzip; unpack it"),
        ("q.txt", b"<!DOCTYPE html>\n<title>Not found</title>", "a web page"),
        ("q.csv", b"id,question\n1,Why?\n", "a table; expected a UTF-8 text file with one question a line"),
        ("q.jsonl", b'{"reply": "a"}\n', 'no "question"'),
        ("q.jsonl", b'{"question": " "}\n', "expected text"),
        ("q.jsonl", b'{"question": "\\ud800"}\n', "surrogate"),
        ("q.jsonl", b'{"question": "a", "reply": 3}\n', "expected text"),
        ("q.jsonl", b'{"question": "a", "reply": ""}\n', "expected text"),
        ("q.jsonl", b'{"question": "a", "reply": "b", "sign": 2}\n', '"sign" is 2'),
        ("q.jsonl", b'{"question": "a", "reply": "b", "sign": true}\n', '"sign" is True'),
        ("q.jsonl", b'{"question": "a", "reply": "b", "sign": [1]}\n', '"sign" is .1'),
        ("q.jsonl", b'{"question": "a", "sign": -1}\n', 'without a "reply"'),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=said) as refused:
        read_questions(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_questions(tmp_path / "none.txt")
    with pytest.raises(InputError, match=r"directory|denied"):
        read_questions(tmp_path)
    with pytest.raises(InputError, match="null"):
        read_questions(f"{tmp_path}/a\0b")


@settings(max_examples=60, deadline=None)
@given(
    content=st.binary(max_size=40) | st.text('{}[]":,\\u d8question1\n\u2028é', max_size=40).map(str.encode),
    json_lines=st.booleans(),
)
@pytest.mark.filterwarnings("ignore::edgesteer.errors.EdgesteerWarning")
def test_any_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, json_lines: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / ("any.jsonl" if json_lines else "any.txt")
    path.write_bytes(content)
    try:
        questions = read_questions(path)
    except InputError as refused:
        assert str(path) in str(refused)
    else:
        assert all(q.text.strip() == q.text != "" for q in questions)
