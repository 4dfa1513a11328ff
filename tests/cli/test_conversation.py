"""The chat's pure parts: what may be typed, the dial, the conversation and its file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesteer.bundle import load
from edgesteer.cli.chat_terminal import (
    HELP,
    MAX_LINE,
    USAGE,
    CommandError,
    inputs,
    parse,
    parse_strength,
    piped,
    unquoted,
)
from edgesteer.cli.conversation import (
    FORMAT,
    MAX_BYTES,
    Conversation,
    Exchange,
    Facts,
    Message,
    load_conversation,
    parse_conversation,
)
from edgesteer.cli.steering import Dial, parse_steer
from edgesteer.errors import InputError, OutputError, PlanError

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
FACTS = st.none() | st.builds(
    Facts, TEXT, TEXT, st.integers(0, 10**6), st.sampled_from(["stop", "length", "stopped"])
)
CONVERSATIONS = st.builds(
    Conversation,
    st.none() | TEXT.filter(bool),
    st.lists(st.builds(Exchange, TEXT, TEXT, FACTS), max_size=4),
)


# -- commands


@given(TEXT.filter(lambda text: not text.startswith("/")))
def test_what_has_no_slash_is_a_message(text: str) -> None:
    assert parse(text) == ("", text)


@given(TEXT)
def test_two_slashes_are_a_message_with_one(text: str) -> None:
    assert parse(f"//{text}") == ("", f"/{text}")


@pytest.mark.parametrize("name", USAGE)
def test_every_command_is_known_and_helped(name: str) -> None:
    usage = USAGE[name][0]
    typed = usage.replace("FILE", "a b.json").replace(" [STRENGTH]", "").replace(" X", " 2")
    assert parse(typed) == (name, typed.partition(" ")[2])
    assert usage in HELP
    assert "\t" not in HELP


@pytest.mark.parametrize(
    "text",
    [
        "/",
        "/nope",
        "/ off",
        "/OFF",
        "/\x1b[31m\x07",
        "/" + "x" * 5000,
        "/off now",
        "/quit 1",
        "/save",
        "/save!  ",
        "/strength",
    ],
)
def test_what_is_no_command_is_refused_in_one_printable_line(text: str) -> None:
    with pytest.raises(CommandError) as refused:
        parse(text)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 250


def test_an_unknown_command_names_those_there_are() -> None:
    with pytest.raises(CommandError) as refused:
        parse("/stear pirate")
    assert all(f"/{name}" in str(refused.value) for name in USAGE)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_strength_is_a_finite_number(value: float) -> None:
    assert parse_strength(repr(value)) == value


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "", "much", "1,5", "1 2", "\x1b"])
def test_any_other_strength_is_refused(text: str) -> None:
    with pytest.raises(CommandError):
        parse_strength(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pirate", ("pirate", None)),
        ("pirate 1.5", ("pirate", 1.5)),
        ("pirate:1.5", ("pirate", 1.5)),
        ("my file.steer", ("my file.steer", None)),
        ("my file.steer  -2", ("my file.steer", -2.0)),
        ('"my file.steer" 2', ("my file.steer", 2.0)),
        ("'my file 3'", ("my file 3", None)),
        ("C:\\x.steer", ("C:\\x.steer", None)),
        ("7", ("7", None)),
        ('"', ('"', None)),
    ],
)
def test_a_file_name_may_hold_spaces_and_a_number_after_it_is_the_strength(
    text: str, expected: tuple[str, float | None]
) -> None:
    name, strength = parse_steer(text, (None, ":"))
    assert (unquoted(name), strength) == expected


def test_a_file_that_has_the_whole_name_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("take 2").touch()
    assert parse_steer("take 2", (None, ":")) == ("take 2", None)
    assert parse_steer("take 2 3", (None, ":")) == ("take 2", 3.0)


@pytest.mark.parametrize("text", ["pirate nan", "pirate inf", "pirate:1e999"])
def test_a_bundles_strength_must_be_finite(text: str) -> None:
    with pytest.raises(PlanError, match="finite"):
        parse_steer(text, (None, ":"))


@given(TEXT)
def test_what_was_typed_never_drives_the_terminal(text: str) -> None:
    with pytest.raises(CommandError) as refused:
        parse(f"/off {text}x")
    assert str(refused.value).isprintable()


# -- lines


def lines_of(data: bytes, complaints: list[str] | None = None) -> list[str]:
    return list(inputs(piped(BytesIO(data), ([] if complaints is None else complaints).append)))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"\n  \n\n", []),
        (b"a\nb", ["a", "b"]),
        (b"a\r\n  b\r\n", ["a", "  b"]),
        (b"\xef\xbb\xbfa\n", ["a"]),
        (b"a\\\n b\\\nc\nd\n", ["a\n b\nc", "d"]),
        (b"a\\\n", ["a"]),
        (b"\\\n\\\n", []),
        (b"a\0b\n", ["a\0b"]),
    ],
)
def test_lines_become_inputs(data: bytes, expected: list[str]) -> None:
    assert lines_of(data) == expected


@pytest.mark.parametrize("bad", [b"\xff\xfe", b"\xed\xa0\x80", b"x" * (MAX_LINE * 2 + 5)])
def test_a_line_that_is_no_text_is_left_out_with_a_complaint(bad: bytes) -> None:
    complaints: list[str] = []
    assert lines_of(b"a\n" + bad + b"\nb\n", complaints) == ["a", "b"]
    assert len(complaints) == 1


# -- the dial


def test_the_dial_remembers_what_stands_at_zero(bundle_file: Path, vector_file: Path) -> None:
    one, two = load(bundle_file), load(vector_file)
    dial = Dial.of([(one, 1.0), (two, 0.5)])
    assert dial.at(0.0).at(1.0).pairs == ((one, 1.0), (two, 1.0))
    assert dial.put(one, 3.0).pairs == ((two, 0.5), (one, 3.0))
    assert Dial().at(2.0) == Dial()


def test_the_same_file_under_another_name_is_replaced_not_added(bundle_file: Path, tmp_path: Path) -> None:
    (tmp_path / "link.steer").symlink_to(bundle_file)
    again = load(tmp_path / "link.steer")
    assert [s for _, s in Dial.of([(load(bundle_file), 1.0)]).put(again, 2.0).pairs] == [2.0]
    assert [s for _, s in Dial.of([(load(bundle_file), 1.0), (again, 2.0)]).pairs] == [3.0]


# -- the conversation


def words(messages: list[Message]) -> int:
    return sum(len(m["content"].split()) for m in messages)


def talk(n: int, system: str | None = "s") -> Conversation:
    return Conversation(system, [Exchange(f"q{i}", f"a{i}", None) for i in range(n)])


def test_the_oldest_exchanges_go_and_the_system_message_stays() -> None:
    conversation = talk(5)
    assert conversation.fit("new", words, room=8, reserve=2) == 3
    shown = conversation.messages("new")
    assert [m["content"] for m in shown] == ["s", "q3", "a3", "q4", "a4", "new"]
    assert [m["role"] for m in shown] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert conversation.fit("new", words, room=8, reserve=2) == 0
    assert len(conversation.exchanges) == 5, "what the model no longer sees is still saved"


@given(n=st.integers(0, 12), room=st.integers(1, 40), reserve=st.integers(0, 10))
def test_what_fits_is_dropped_as_little_as_can_be(n: int, room: int, reserve: int) -> None:
    conversation = talk(n)
    if words(conversation.messages("new", n)) >= room:
        if words(conversation.messages("new")) + reserve > room:
            with pytest.raises(InputError, match="-c"):
                conversation.fit("new", words, room, reserve)
        assert conversation.dropped == 0
        return
    conversation.fit("new", words, room, reserve)
    assert words(conversation.messages("new")) < room or reserve == 0
    if conversation.dropped:
        assert words(conversation.messages("new", conversation.dropped - 1)) + reserve > room


def test_reset_keeps_the_system_message() -> None:
    conversation = talk(3)
    conversation.fit("new", words, room=5, reserve=1)
    conversation.reset()
    assert conversation == Conversation("s")
    assert [m["role"] for m in conversation.messages("x")] == ["system", "user"]


@given(CONVERSATIONS)
def test_write_read_write_gives_the_same_bytes(conversation: Conversation) -> None:
    data = conversation.to_bytes("m.gguf")
    assert parse_conversation(data, "c") == conversation
    assert parse_conversation(data, "c").to_bytes("m.gguf") == data


def test_a_file_without_facts_is_taken_up(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    (tmp_path / "c.json").write_text(json.dumps({"format": FORMAT, "messages": messages}))
    assert load_conversation(tmp_path / "c.json") == Conversation(None, [Exchange("hi", "ho", None)])


def test_save_replaces_a_file_only_with_force_and_writes_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    talk(1).save(path, "m", force=False)
    before = path.read_bytes()
    with pytest.raises(OutputError, match="/save!"):
        talk(2).save(path, "m", force=False)
    assert path.read_bytes() == before
    talk(2).save(path, "m", force=True)
    assert load_conversation(path) == talk(2)
    for bad in (tmp_path, tmp_path / "none" / "c.json", Path(os.devnull)):
        with pytest.raises(OutputError):
            talk(1).save(bad, "m", force=True)
    assert [p.name for p in tmp_path.iterdir()] == ["c.json"]


def test_saving_through_a_link_keeps_the_link(tmp_path: Path) -> None:
    talk(1).save(tmp_path / "c.json", "m", force=False)
    (tmp_path / "link.json").symlink_to(tmp_path / "c.json")
    talk(2).save(tmp_path / "link.json", "m", force=True)
    assert (tmp_path / "link.json").is_symlink()
    assert load_conversation(tmp_path / "c.json") == talk(2)


GOOD = json.loads(Conversation("s", [Exchange("q", "a", Facts("p", "f", 1, "stop"))]).to_bytes("m"))
CHANGES: list[Callable[[dict[str, Any]], Any]] = [
    lambda d: d.update(format="edgesteer-chat/2"),
    lambda d: d.update(format=1),
    lambda d: d.pop("format"),
    lambda d: d.pop("messages"),
    lambda d: d.update(extra=1),
    lambda d: d.update(model=7),
    lambda d: d.update(messages={}),
    lambda d: d.update(messages=["hi"]),
    lambda d: d["messages"].pop(),
    lambda d: d["messages"].pop(1),
    lambda d: d["messages"].reverse(),
    lambda d: d["messages"].insert(1, {"role": "system", "content": "again"}),
    lambda d: d["messages"][1].update(role="assistant"),
    lambda d: d["messages"][1].update(role="tool"),
    lambda d: d["messages"][1].update(role="\x1b[2J"),
    lambda d: d["messages"][1].update(role=None),
    lambda d: d["messages"][1].update(content=["parts"]),
    lambda d: d["messages"][1].update(content=None),
    lambda d: d["messages"][1].update(content="\ud800"),
    lambda d: d["messages"][1].update(name="me"),
    lambda d: d["messages"][1].pop("content"),
    lambda d: d.update(replies=[]),
    lambda d: d.update(replies=[1]),
    lambda d: d.update(replies="none"),
    lambda d: d["replies"][0].update(tokens=True),
    lambda d: d["replies"][0].update(tokens=1.5),
    lambda d: d["replies"][0].update(tokens=-1),
    lambda d: d["replies"][0].update(finish_reason="bored"),
    lambda d: d["replies"][0].update(steering=None),
    lambda d: d["replies"][0]["steering"].update(plan=0),
    lambda d: d["replies"][0].pop("tokens"),
]


def refused(path: Path) -> None:
    with pytest.raises(InputError) as error:
        load_conversation(path)
    line = str(error.value)
    assert line.isprintable()
    assert len(line) < 500
    assert path.name in line


@pytest.mark.parametrize("change", range(len(CHANGES)))
def test_a_file_of_another_form_is_refused(tmp_path: Path, change: int) -> None:
    data = json.loads(json.dumps(GOOD))
    CHANGES[change](data)
    (tmp_path / "c.json").write_text(json.dumps(data))
    refused(tmp_path / "c.json")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"hello",
        b"\xff\xfe",
        b"{",
        b"[" * 100_000,
        b'{"format": "edgesteer-chat/1", "format": "edgesteer-chat/1", "messages": []}',
        b'{"format": NaN, "messages": []}',
        b'{"format": ' + b"9" * 5000 + b', "messages": []}',
        b" " * (MAX_BYTES + 1),
    ],
    ids=range(11),
)
def test_what_is_no_json_object_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "c.json").write_bytes(data)
    refused(tmp_path / "c.json")


def test_what_is_no_file_is_refused_without_being_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe")
    refused(tmp_path / "missing.json")
    refused(Path("/dev/zero"))
    refused(tmp_path)


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_in_words(data: bytes) -> None:
    with pytest.raises(InputError):
        parse_conversation(data, "c")
