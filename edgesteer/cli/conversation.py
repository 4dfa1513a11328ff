"""A conversation as a value: what was said, under which steering, and the file it is kept in.

In:  messages and replies, or a saved file, which is trusted in nothing.
Out: the messages that a chat template takes, cut to what the context holds; a file, whole or not at all.

Knows no model and no terminal; the tokens of messages are counted by whoever has a tokenizer.
"""

from __future__ import annotations

import json
import os
import stat
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from edgesteer.bundle.container import write_file
from edgesteer.errors import EdgesteerError, OutputError
from edgesteer.report.cells import visible

FORMAT = "edgesteer-chat/1"
MAX_BYTES = 16 * 2**20
FINISH_REASONS = ("stop", "length", "stopped")  # the model's end, -n or the context's end, Ctrl-C

Message = dict[str, str]


class ConversationError(EdgesteerError):
    """A saved conversation that is none, or a message that the context cannot hold."""


@dataclass(frozen=True, slots=True)
class Facts:
    """About one reply: the plan in force (its repr, its fingerprint), its tokens, why it ended."""

    plan: str
    fingerprint: str
    tokens: int
    finish_reason: str

    def to_json(self) -> dict[str, Any]:
        steering = {"plan": self.plan, "fingerprint": self.fingerprint}
        return {"steering": steering, "tokens": self.tokens, "finish_reason": self.finish_reason}


@dataclass(frozen=True, slots=True)
class Exchange:
    """One message and its reply; facts are None where a file of another maker holds none."""

    user: str
    reply: str
    facts: Facts | None


@dataclass
class Conversation:
    """What was said so far. `dropped` exchanges, counted from the first, are kept but no longer shown to
    the model: the context has no room for them."""

    system: str | None = None
    exchanges: list[Exchange] = field(default_factory=list)
    dropped: int = 0

    def messages(self, user: str, skip: int | None = None) -> list[Message]:
        """What the model is shown to answer `user`: the system message always, the oldest `skip` not."""
        return [
            *_messages(self.system, self.exchanges[self.dropped if skip is None else skip :]),
            _said(user),
        ]

    def reset(self) -> None:
        """Forget the exchanges; the system message stays."""
        self.exchanges.clear()
        self.dropped = 0

    def fit(self, user: str, count: Callable[[list[Message]], int], room: int, reserve: int) -> int:
        """Drop the oldest exchanges until `user` and a reply of `reserve` tokens fit into `room` tokens.

        Returns how many were dropped just now. Raises ConversationError, with nothing dropped, where
        the message does not fit even alone.
        """

        def fits(skip: int) -> bool:
            return count(self.messages(user, skip)) + reserve <= room

        if fits(self.dropped):
            return 0
        alone = count(self.messages(user, len(self.exchanges)))
        if alone >= room:
            raise ConversationError(
                f"the message takes {alone} tokens with {'the system message and ' if self.system else ''}"
                f"its template, but the context holds {room}; shorten it, or start with a larger -c"
            )
        before, end = self.dropped, len(self.exchanges)
        self.dropped = bisect_left(range(end), True, lo=before, key=fits)  # fits(end) need not hold
        return self.dropped - before

    def to_bytes(self, model: str) -> bytes:
        """JSON: the messages as any chat API takes them, and the facts of each reply beside them."""
        told = {
            "format": FORMAT,
            "model": model,
            "messages": _messages(self.system, self.exchanges),
            "replies": [e.facts and e.facts.to_json() for e in self.exchanges],
        }
        return (json.dumps(told, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()

    def save(self, path: Path, model: str, force: bool) -> None:
        """Write `to_bytes`, whole or not at all. Raises OutputError, also for what is there and no file."""
        if os.path.lexists(path) and not path.is_file():
            raise OutputError(f"{path}: is no regular file; expected a new name; give another one")
        if os.path.lexists(path) and not force:
            raise OutputError(
                f"{path}: exists already, expected a new name; give another, or overwrite it with /save! {path}"
            )
        write_file(Path(os.path.realpath(path)), self.to_bytes(model), force)


def _said(text: str, role: str = "user") -> Message:
    return {"role": role, "content": text}


def _messages(system: str | None, exchanges: list[Exchange]) -> list[Message]:
    opening = [_said(system, "system")] if system else []
    return opening + [m for e in exchanges for m in (_said(e.user), _said(e.reply, "assistant"))]


def load_conversation(path: Path) -> Conversation:
    """A conversation that `save` wrote, or anyone who keeps to its form. Raises ConversationError."""
    where = visible(str(path))
    try:
        return parse_conversation(_read(path))
    except OSError as error:
        raise ConversationError(
            f"{where}: cannot be read ({error.strerror}); give the path of a saved conversation"
        ) from None
    except _RefusedError as refused:
        raise ConversationError(f"{where}: {refused}; give a conversation that /save wrote") from None


class _RefusedError(ValueError):
    """What is wrong with a file, without its name."""


def _read(path: Path) -> bytes:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise _RefusedError("is no regular file")
    if found.st_size > MAX_BYTES:
        raise _RefusedError(f"has {found.st_size} bytes, expected at most {MAX_BYTES}")
    with path.open("rb") as file:
        return file.read(MAX_BYTES)


def parse_conversation(data: bytes) -> Conversation:
    """The inverse of `to_bytes`. Raises ValueError with what was found and what was expected."""
    try:
        told = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_number)
        json.dumps(told, ensure_ascii=False).encode()  # a lone surrogate would fail later, in the tokenizer
    except (ValueError, RecursionError) as error:
        raise _RefusedError(f"is no UTF-8 JSON ({visible(str(error))[:160]})") from None
    _keys(told, "the file", {"format", "messages"}, {"model", "replies"})
    if told["format"] != FORMAT:
        raise _RefusedError(f"format is {_shown(told['format'])}, expected {FORMAT!r}")
    _is(told.get("model", ""), str, "model", "text")
    messages = [_message(m, f"messages[{i}]") for i, m in enumerate(_list(told["messages"], "messages"))]
    return _conversation(messages, told.get("replies"))


def _conversation(messages: list[tuple[str, str]], replies: Any) -> Conversation:
    system = messages[0][1] if messages and messages[0][0] == "system" else None
    turns = messages[system is not None :]
    for i, (role, _) in enumerate(turns, len(messages) - len(turns)):
        expected = ("user", "assistant")[(i - len(messages) + len(turns)) % 2]
        if role != expected:
            raise _RefusedError(f"messages[{i}] has the role {role!r}, expected {expected!r}")
    if len(turns) % 2:
        raise _RefusedError("the last message has no reply, expected one of the role 'assistant'")
    said = [text for _, text in turns]
    facts = [None] * (len(said) // 2) if replies is None else _all_facts(replies, len(said) // 2)
    pairs = zip(said[::2], said[1::2], facts, strict=True)
    return Conversation(system, [Exchange(user, reply, about) for user, reply, about in pairs])


def _message(value: Any, where: str) -> tuple[str, str]:
    _keys(value, where, {"role", "content"}, set())
    role = _is(value["role"], str, f"{where}.role", "text")
    if role not in ("system", "user", "assistant"):
        raise _RefusedError(f"{where}.role is {_shown(role)}, expected system, user or assistant")
    return role, _is(value["content"], str, f"{where}.content", "text")


def _all_facts(replies: Any, n: int) -> list[Facts | None]:
    found = _list(replies, "replies")
    if len(found) != n:
        raise _RefusedError(f"replies has {len(found)} items, expected {n}, one for each reply in messages")
    return [None if item is None else _facts(item, f"replies[{i}]") for i, item in enumerate(found)]


def _facts(value: Any, where: str) -> Facts:
    _keys(value, where, {"steering", "tokens", "finish_reason"}, set())
    steering = value["steering"]
    _keys(steering, f"{where}.steering", {"plan", "fingerprint"}, set())
    plan, fingerprint = (
        _is(steering[k], str, f"{where}.steering.{k}", "text") for k in ("plan", "fingerprint")
    )
    tokens = _is(value["tokens"], int, f"{where}.tokens", "a number of tokens")
    if tokens < 0:
        raise _RefusedError(f"{where}.tokens is {tokens}, expected 0 or more")
    reason = _is(value["finish_reason"], str, f"{where}.finish_reason", "text")
    if reason not in FINISH_REASONS:
        raise _RefusedError(f"{where}.finish_reason is {_shown(reason)}, expected one of {FINISH_REASONS}")
    return Facts(plan, fingerprint, tokens, reason)


def _is(value: Any, kind: type, where: str, expected: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _RefusedError(f"{where} is {_shown(value)}, expected {expected}")
    return value


def _list(value: Any, where: str) -> list[Any]:
    return _is(value, list, where, "a list")  # type: ignore[no-any-return]


def _keys(value: Any, where: str, needed: set[str], allowed: set[str]) -> None:
    _is(value, dict, where, "an object")
    if missing := sorted(needed - set(value)):
        raise _RefusedError(f"{where} has no {missing[0]!r}, expected {sorted(needed)}")
    if unknown := sorted(set(value) - needed - allowed):
        raise _RefusedError(
            f"{where} has the unknown key {_shown(unknown[0])}, expected {sorted(needed | allowed)}"
        )


def _shown(value: Any) -> str:
    text = visible(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= 40 else f"{text[:40]}..."


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return dict(pairs)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")
