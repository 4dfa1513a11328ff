"""Sampled replies on disk: a file that a stopped run goes on from, and one for people.

In:  scored replies in groups, and the facts that determine them; pairs.
Out: the same replies bit for bit; JSON Lines that `read_questions` takes.

A store is JSON Lines. The first line names the format and the SHA-256 of the facts; each line behind it is one
group, whole: its number, its replies, a checksum. Floats are written as their bytes.
"""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgesteer.bundle.container import write_file
from edgesteer.errors import LearnError, OutputError
from edgesteer.generate.chat import Reply

if TYPE_CHECKING:
    from edgesteer.learn.pairs import Pair

F32 = npt.NDArray[np.float32]

FORMAT = "edgesteer-replies/1"


class Scored(NamedTuple):
    """A sampled reply, and what its tokens' log-probabilities are behind the plain prompt."""

    reply: Reply
    plain: F32


class ReplyStore:
    """The finished groups of a run, in their order.

    facts: everything that determines the replies, as plain JSON values: model, sentences, questions, template,
        stop, limits, temperature, seed, lanes, context, threads. Any difference is a difference of the replies.
    force: replace a file that is there and holds other replies.
    Raises LearnError for a file that holds other replies or is damaged, OutputError for one that cannot be
    written. What a killed run has left of its last line is dropped. Activations are not stored.
    """

    def __init__(self, path: str | os.PathLike[str], facts: Mapping[str, Any], force: bool = False) -> None:
        self.path = Path(path)
        key, own = _digest(facts), _digests(facts)
        header = {"format": FORMAT, "key": key, "facts": own}
        lines = self._lines(_line(header))
        if lines:
            found = self._header(lines[0])
            other = found["key"] != key
            if other and not force:
                raise LearnError(self._differs(found.get("facts"), own))
            lines = [] if other else lines
        self._groups = [self._group(line, i) for i, line in enumerate(lines[1:])]
        self._trim(b"".join(lines) or _line(header))

    def __len__(self) -> int:
        """Groups that are finished."""
        return len(self._groups)

    def get(self, number: int, n: int) -> list[Scored] | None:
        """The `n` replies of that group; None where it is still to do."""
        if number >= len(self._groups):
            return None
        if len(self._groups[number]) != n:
            raise self._damaged(number + 2, f"{len(self._groups[number])} replies", f"{n}")
        return self._groups[number]

    def add(self, number: int, scored: Sequence[Scored]) -> None:
        """Append the next group; it is on its way to the disk when this returns."""
        if number != len(self._groups):
            raise ValueError(
                f"group {number}, expected {len(self._groups)}: groups are stored in their order"
            )
        told = {"group": number, "replies": [_told(one) for one in scored]}
        try:
            with self.path.open("ab") as file:
                file.write(_line({**told, "crc": _crc(told)}))
        except OSError as error:
            raise self._unwritable(error) from None
        self._groups.append([Scored(_without_seen(one.reply), one.plain) for one in scored])

    # -- reading ----------------------------------------------------------------------------------

    def _lines(self, header: bytes) -> list[bytes]:
        """Whole lines; none for a file that is not there, is empty, or was killed in its first line."""
        try:
            lines = self.path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise LearnError(f"{self.path}: {error.strerror}; expected a file of replies, or none") from None
        if lines and not lines[-1].endswith(b"\n") and (len(lines) > 1 or header.startswith(lines[0])):
            lines.pop()
        return lines

    def _header(self, line: bytes) -> dict[str, Any]:
        header = _parsed(line)
        if header is None or header.get("format") != FORMAT or not isinstance(header.get("key"), str):
            raise LearnError(
                f"{self.path}: is no {FORMAT} file, expected one or none; give another name, or remove it"
            )
        return header

    def _differs(self, found: Any, expected: Mapping[str, str]) -> str:
        known = found if isinstance(found, dict) else {}
        names = sorted(k for k in {*known, *expected} if known.get(k) != expected.get(k))
        return (
            f"{self.path}: holds replies of another run (other: {', '.join(names) or 'facts'}), expected those of "
            "this one; remove it, or give the arguments that it was made with"
        )

    def _group(self, line: bytes, number: int) -> list[Scored]:
        group = _parsed(line) or {}
        crc = group.pop("crc", None)
        if group.keys() != {"group", "replies"} or crc != _crc(group):
            raise self._damaged(number + 2, "a damaged group", "a whole one")
        if group["group"] != number:
            raise self._damaged(number + 2, f"group {group['group']}", f"group {number}")
        try:
            return [_scored(told) for told in group["replies"]]
        except (KeyError, TypeError, ValueError):
            raise self._damaged(number + 2, "a damaged reply", "a whole one") from None

    def _damaged(self, line: int, found: str, expected: str) -> LearnError:
        return LearnError(
            f"{self.path}:{line}: {found}, expected {expected}; remove the file, or this line and those below it"
        )

    # -- writing ----------------------------------------------------------------------------------

    def _trim(self, content: bytes) -> None:
        """Leave what is whole, so that the next group stands on a line of its own."""
        try:
            if not self.path.exists() or self.path.read_bytes() != content:
                write_file(self.path, content, force=True)
        except OutputError:
            raise
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> OutputError:
        return OutputError(
            f"{self.path}: cannot be written ({error.strerror}), expected a writable file with space; "
            "free some, or give another name"
        )


def write_replies(path: str | os.PathLike[str], pairs: Sequence[Pair], force: bool = False) -> int:
    """Write the pairs that say something as JSON Lines for people, and for `--questions`; how many those are.

    Raises OutputError.
    """
    told = [
        {
            "question": pair.question,
            "reply": pair.text,
            "sign": pair.sign,
            "trait": round(pair.trait, 4),
            "coherence": round(pair.coherence, 4),
        }
        for pair in pairs
        if pair.text.strip()
    ]
    lines = [json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in told]
    write_file(Path(path), "".join(lines).encode(), force)
    return len(lines)


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _line(value: Any) -> bytes:
    return _canonical(value) + b"\n"


def _digest(value: Any) -> str:
    return sha256(_canonical(value)).hexdigest()


def _digests(facts: Mapping[str, Any]) -> dict[str, str]:
    """Of each fact, enough to say which one differs."""
    return {name: _digest(value)[:12] for name, value in facts.items()}


def _crc(value: Any) -> int:
    return zlib.crc32(_canonical(value))


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
        _canonical(value)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _told(one: Scored) -> dict[str, Any]:
    reply, plain = one
    floats = {"log_probs": _packed(reply.log_probs), "plain": _packed(plain)}
    return {"tokens": list(map(int, reply.tokens)), "end": reply.end, **floats}


def _scored(told: Mapping[str, Any]) -> Scored:
    end = None if told["end"] is None else int(told["end"])
    reply = Reply([int(token) for token in told["tokens"]], _unpacked(told["log_probs"]), end)
    plain = _unpacked(told["plain"])
    if not len(reply.log_probs) == len(plain) == len(reply.spoken):
        raise ValueError("a reply and its log-probabilities are of different lengths")
    return Scored(reply, plain)


def _without_seen(reply: Reply) -> Reply:
    return Reply(reply.tokens, reply.log_probs, reply.end)


def _packed(values: F32) -> str:
    return base64.b64encode(np.asarray(values, dtype="<f4").tobytes()).decode()


def _unpacked(text: str) -> F32:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4").astype(np.float32)
