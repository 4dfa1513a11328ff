"""Replies on disk: what is written is read bit for bit; what is damaged, torn or another run's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesteer.errors import LearnError, OutputError
from edgesteer.generate import Reply
from edgesteer.generate import Question, read_questions
from edgesteer.learn.pairs import Pair
from edgesteer.learn.store import ReplyStore, Scored, write_replies

FACTS = {"trait": "You are a pirate.", "seed": 0, "questions": ["Why?", "How?"], "stop": None}

Bits = tuple[list[int], int | None, bytes, bytes]


def scored(tokens: list[int], end: int | None = None, value: float = -0.1) -> Scored:
    n = len(tokens) + (end is not None)
    values = np.full(n, value, dtype=np.float32)
    return Scored(Reply(tokens, values, end), values / 3)


def bits(one: Scored) -> Bits:
    reply, plain = one
    return reply.tokens, reply.end, reply.log_probs.tobytes(), plain.tobytes()


GROUPS = [[scored([1, 2]), scored([], 7)], [scored([3], 2, -1e-30)], [scored([])]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store of GROUPS."""
    path = tmp_path / "replies.part"
    store = ReplyStore(path, FACTS)
    for i, group in enumerate(GROUPS):
        assert store.get(i, len(group)) is None
        store.add(i, group)
    return path


def all_bits(store: ReplyStore) -> list[list[Bits]]:
    return [[bits(one) for one in store.get(i, len(GROUPS[i])) or []] for i in range(len(store))]


EXPECTED = [[bits(one) for one in group] for group in GROUPS]


def test_what_is_written_is_read_and_reading_changes_no_byte(path: Path) -> None:
    before = path.read_bytes()
    store = ReplyStore(path, dict(reversed(FACTS.items())))
    assert all_bits(store) == EXPECTED
    assert store.get(len(GROUPS), 1) is None
    assert path.read_bytes() == before


floats = st.lists(st.floats(width=32), max_size=4)


@settings(max_examples=40, deadline=None)
@given(own=floats, tokens=st.lists(st.integers(0, 2**31 - 1), min_size=4, max_size=4), ends=st.booleans())
def test_any_float_comes_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, own: list[float], tokens: list[int], ends: bool
) -> None:
    path = tmp_path_factory.mktemp("any") / "replies"
    n, end = len(own), 5 if ends and own else None
    values = np.array(own, dtype=np.float32)
    one = Scored(Reply(tokens[: n - (end is not None)], values, end), values[::-1].copy())
    ReplyStore(path, FACTS).add(0, [one])
    assert [bits(s) for s in ReplyStore(path, FACTS).get(0, 1) or []] == [bits(one)]


def test_whatever_is_left_of_a_killed_run_its_whole_groups_are_kept(path: Path) -> None:
    """Cut all along, and around every line's end: what was whole is read, and the rest can be added again, to the same bytes."""
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 0x0A]
    for cut in sorted({*range(0, len(whole), 11), *(end + i for end in ends for i in (-2, -1, 0))}):
        path.write_bytes(whole[:cut])
        store = ReplyStore(path, FACTS)
        n = max(0, sum(end <= cut for end in ends) - 1)
        assert all_bits(store) == EXPECTED[:n]
        for i in range(n, len(GROUPS)):
            store.add(i, GROUPS[i])
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("change", "named"),
    [({"seed": 1}, "seed"), ({"stop": "\n", "trait": "x"}, "stop, trait"), ({"lanes": 4}, "lanes")],
)
def test_the_replies_of_another_run_are_refused_unless_forced(
    path: Path, change: dict[str, Any], named: str
) -> None:
    before = path.read_bytes()
    with pytest.raises(LearnError, match=f"other: {named}\\)") as refused:
        ReplyStore(path, FACTS | change)
    assert str(path) in str(refused.value)
    assert "remove it" in str(refused.value)
    assert path.read_bytes() == before
    assert len(ReplyStore(path, FACTS, force=True)) == len(GROUPS)
    assert len(ReplyStore(path, FACTS | change, force=True)) == 0
    assert len(ReplyStore(path, FACTS | change)) == 0


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    "content", [b"Why?", b"Why?\nHow?", b'{"format": 1}\n', b"\x00\xff\n", b"[" * 99_999 + b"\n"]
)
def test_a_file_of_another_kind_is_refused_and_left(tmp_path: Path, content: bytes, force: bool) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(content)
    with pytest.raises(LearnError, match="is no edgesteer-replies/1 file") as refused:
        ReplyStore(path, FACTS, force)
    assert "\n" not in str(refused.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize("where", [0.1, 0.5, 0.9])
def test_a_changed_byte_is_never_read_as_a_reply(path: Path, where: float) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    for number in range(1, len(lines)):
        for flip in (0x01, 0x20):
            line = bytearray(lines[number])
            line[int(where * (len(line) - 1))] ^= flip
            path.write_bytes(b"".join([*lines[:number], bytes(line), *lines[number + 1 :]]))
            with pytest.raises(LearnError, match=f":{number + 1}: ") as refused:
                ReplyStore(path, FACTS)
            assert "\n" not in str(refused.value)


def test_a_lost_line_is_damage(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], *lines[2:]]))
    with pytest.raises(LearnError, match=r":2: group 1, expected group 0"):
        ReplyStore(path, FACTS)


def test_groups_of_another_size_are_damage(path: Path) -> None:
    with pytest.raises(LearnError, match=r":2: 2 replies, expected 3"):
        ReplyStore(path, FACTS).get(0, 3)


def test_groups_come_in_order(path: Path) -> None:
    with pytest.raises(ValueError, match="in their order"):
        ReplyStore(path, FACTS).add(5, GROUPS[0])


def test_what_cannot_be_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LearnError, match=str(tmp_path)):
        ReplyStore(tmp_path, FACTS)
    with pytest.raises(OutputError, match="none"):
        ReplyStore(tmp_path / "none" / "replies", FACTS)
    store = ReplyStore(tmp_path / "replies", FACTS)
    (tmp_path / "replies").unlink()
    (tmp_path / "replies").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        store.add(0, GROUPS[0])


def test_activations_are_not_held(tmp_path: Path) -> None:
    store = ReplyStore(tmp_path / "replies", FACTS)
    reply = Reply([1], np.zeros(1, np.float32), None, np.zeros((2, 1, 8), np.float32))
    store.add(0, [Scored(reply, np.zeros(1, np.float32))])
    held = store.get(0, 1)
    assert held is not None
    assert held[0].reply.seen is None


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12).filter(
    str.strip
)


@settings(max_examples=40, deadline=None)
@given(
    told=st.lists(
        st.tuples(texts, texts, st.sampled_from([1, -1])), min_size=1, unique_by=lambda t: t[0].casefold()
    )
)
def test_replies_for_people_are_a_questions_file(
    tmp_path_factory: pytest.TempPathFactory, told: list[tuple[str, str, int]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "replies.jsonl"
    pairs = [
        Pair(q.strip(), [], [], [1], 0.3, 1.0, 2.0, 1.5, text=reply, sign=sign)
        for q, reply, sign in {t[0].strip().casefold(): t for t in told}.values()
    ]
    assert write_replies(path, pairs, force=True) == len(pairs)
    assert read_questions(path) == [Question(p.question, p.text, p.sign) for p in pairs]


def test_replies_that_say_nothing_are_not_written(tmp_path: Path) -> None:
    path, nan = tmp_path / "r.jsonl", float("nan")
    pairs = [
        Pair("Why?", [], [], [], nan, nan, nan, nan),
        Pair("How?", [], [], [1], 0.3, 1.0, 1.0, 1.0, text="So."),
    ]
    assert write_replies(path, pairs) == 1
    line = json.loads(path.read_text())
    assert line == {"question": "How?", "reply": "So.", "sign": 1, "trait": 0.3, "coherence": 1.0}
    with pytest.raises(OutputError, match="existing file"):
        write_replies(path, pairs)
