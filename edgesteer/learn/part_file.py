"""A file from which a stopped run is resumed: the results computed so far, by key.

In:  facts that determine every result, keys, and results as plain JSON values. Out: the same results.

The file is JSON Lines: a header with the digest of each fact, then one result per line with its checksum. A
line that is cut off or damaged counts as missing and is computed again.
"""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesteer.errors import OutputError

_FORMAT = "edgesteer-part/1"
_BEGIN = b'{"format":"' + _FORMAT.encode() + b'"'


class PartFile:
    """Results by key, kept in memory and in the file `path`, unless that is None.

    The file is created, or its damaged or replaced lines are removed, with the first `put`.

    facts: everything that determines the results (model, arguments, threads), as plain JSON values.
    replace: overwrite a file with other facts instead of refusing it.
    Raises OutputError for a file with other facts, of another kind, or that cannot be written.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None, facts: Mapping[str, Any], replace: bool = False
    ) -> None:
        self.path = None if path is None else Path(path)
        self._facts = {name: _digest(value) for name, value in sorted(facts.items())}
        self._results: dict[str, Any] = {}
        self._size = 0  # bytes of the file that are kept; new lines are written after them
        if self.path is not None:
            self._read(self.path, replace)

    def __len__(self) -> int:
        return len(self._results)

    def get(self, key: str) -> Any:
        """The result under that key; None if it is still to be computed."""
        return self._results.get(_digest(key))

    def put(self, key: str, result: Any) -> None:
        """Keep a result; it has been passed to the operating system when this returns."""
        name = _digest(key)
        if self.path is not None:
            self._append(self.path, _line([name, result, _checksum(name, result)]))
        self._results[name] = result

    def remove(self) -> None:
        """Delete the file if there is one."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _read(self, path: Path, replace: bool) -> None:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise _unusable(path, error) from None
        header, end, _ = data.partition(b"\n")
        facts = _facts(header) if end else None
        if header[: len(_BEGIN)] != _BEGIN[: len(header)] or (end and facts is None):
            raise OutputError(
                f"{path}: found something other than the file of a stopped run, expected that or none; move "
                "it away"
            )
        if facts is None:
            return
        if facts != self._facts:
            if not replace:
                names = sorted(n for n in {*facts, *self._facts} if facts.get(n) != self._facts.get(n))
                raise OutputError(
                    f"{path}: found results of another run (other {', '.join(names)}), expected those of "
                    "this one; remove it, or give the arguments that it was made with"
                )
            return
        self._size = data.rfind(b"\n") + 1
        lines = data[len(header) : self._size].split(b"\n")
        self._results = dict(entry for entry in map(_entry, lines) if entry is not None)

    def _append(self, path: Path, line: bytes) -> None:
        try:
            with path.open("r+b" if self._size else "wb") as file:
                file.seek(self._size)
                file.truncate()
                file.write(line if self._size else _line({"format": _FORMAT, "facts": self._facts}) + line)
                self._size = file.tell()
        except OSError as error:
            raise _unusable(path, error) from None


def pack(values: npt.NDArray[Any]) -> str:
    """An array's bytes, little-endian, as text."""
    return base64.b64encode(values.astype(values.dtype.newbyteorder("<")).tobytes()).decode()


def unpack(text: str, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """The one-dimensional array of a text that `pack` made. Raises ValueError for any other text."""
    stored = np.dtype(dtype).newbyteorder("<")
    return np.frombuffer(base64.b64decode(text, validate=True), stored).astype(dtype)


def _line(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _digest(value: Any) -> str:
    return sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _checksum(name: str, result: Any) -> int:
    return zlib.crc32(_line([name, result]))


def _facts(header: bytes) -> dict[str, Any] | None:
    try:
        facts = json.loads(header)["facts"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return facts if isinstance(facts, dict) else None


def _entry(line: bytes) -> tuple[str, Any] | None:
    """Key and result of a line; None for one that is damaged."""
    try:
        name, result, checksum = json.loads(line)
        return (name, result) if checksum == _checksum(name, result) else None
    except (ValueError, TypeError, RecursionError):
        return None


def _unusable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path}: cannot be written ({error.strerror}), expected a writable file with space; free some, or "
        "give another name"
    )
