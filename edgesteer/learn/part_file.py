"""A file from which a stopped run is resumed: the results computed so far, by key.

In:  facts that determine every result, keys, and results as plain JSON values. Out: the same results.

The file is JSON Lines: a header with the digest of each fact, then one result per line with its checksum. A
line that is cut off or damaged counts as missing and is computed again. Results may be large (activations),
so they are read from the file when they are asked for.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from edgesteer.errors import OutputError
from edgesteer.file_lock import lock

_FORMAT = "edgesteer-part/1"
_BEGIN = b'{"format":"' + _FORMAT.encode() + b'"'


class PartFile:
    """Results by key, kept in the file `path`, or in memory if that is None.

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
        self._results: dict[str, Any] = {}  # without a file; with one, where in it each result's line begins
        self._size = 0  # bytes of the file that are kept; new lines are written after them
        if self.path is not None:
            self._read(self.path, replace)

    def __len__(self) -> int:
        return len(self._results)

    def get(self, key: str) -> Any:
        """The result under that key; None if it is still to be computed."""
        place = self._results.get(_digest(key))
        if self.path is None or place is None:
            return place
        try:
            with self.path.open("rb") as file:
                file.seek(place)
                entry = _entry(file.readline())
        except OSError as error:
            raise _unusable(self.path, error) from None
        return entry[1] if entry is not None else None

    def put(self, key: str, result: Any) -> None:
        """Keep a result; it has been passed to the operating system when this returns."""
        name = _digest(key)
        if self.path is None:
            self._results[name] = result
        else:
            text = _line([name, result])
            self._results[name] = self._append(self.path, text[:-2] + b",%d]\n" % zlib.crc32(text))

    def remove(self) -> None:
        """Delete the file if there is one."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _read(self, path: Path, replace: bool) -> None:
        try:
            with path.open("rb") as file:
                header = file.readline(1 << 16)
                facts = _facts(header)
                if facts == self._facts:
                    self._size = len(header)
                    self._index(file)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _unusable(path, error) from None
        if header[: len(_BEGIN)] != _BEGIN[: len(header)] or (header.endswith(b"\n") and facts is None):
            raise OutputError(
                f"{path}: found something other than the file of a stopped run, expected that or none; move "
                "it away"
            )
        if facts is not None and facts != self._facts and not replace:
            names = sorted(n for n in {*facts, *self._facts} if facts.get(n) != self._facts.get(n))
            raise OutputError(
                f"{path}: found results of another run (other {', '.join(names)}), expected those of "
                "this one; remove it, or give the arguments that it was made with"
            )

    def _index(self, lines: Iterable[bytes]) -> None:
        """Note where the sound lines begin. A line without an end is written over."""
        for line in lines:
            if line.endswith(b"\n"):
                if (entry := _entry(line)) is not None:
                    self._results[entry[0]] = self._size
                self._size += len(line)

    def _append(self, path: Path, line: bytes) -> int:
        """Write the line behind those that are kept; where it begins."""
        try:
            with path.open("r+b" if self._size else "wb") as file:
                if not self._size:
                    self._size = file.write(_line({"format": _FORMAT, "facts": self._facts}))
                place = file.seek(self._size)
                file.truncate()
                file.write(line)
                self._size = file.tell()
        except OSError as error:
            raise _unusable(path, error) from None
        return place


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock a part file for this process. However the process ends, the system unlocks it.

    A file that holds no result is removed at the end.
    Raises OutputError where another process has locked it, or it cannot be written.
    """
    try:
        file = _locked(path)
        while not _is_at(file, path):  # another run has removed it since it was opened
            file.close()
            file = _locked(path)
    except BlockingIOError:
        raise OutputError(
            f"{path}: another run is writing it, expected one at a time; wait for that one to end, or give "
            "another -o"
        ) from None
    except OSError as error:
        raise _unusable(path, error) from None
    with file:
        try:
            yield
        finally:
            if _is_at(file, path) and not path.stat().st_size:
                path.unlink()


def _locked(path: Path) -> BinaryIO:
    """The file, open and locked; without a lock where the file system has none. Raises BlockingIOError."""
    file = path.open("ab")
    try:
        lock(file)
    except BlockingIOError:
        file.close()
        raise
    except OSError:
        pass
    return file


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


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


def _facts(header: bytes) -> dict[str, Any] | None:
    """None for a line that is cut off, or is no header."""
    try:
        facts = json.loads(header)["facts"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return facts if isinstance(facts, dict) and header.endswith(b"\n") else None


def _entry(line: bytes) -> tuple[str, Any] | None:
    """Key and result of a line; None for one that is damaged."""
    try:
        name, result, checksum = json.loads(line)
        return (name, result) if checksum == zlib.crc32(_line([name, result])) else None
    except (ValueError, TypeError, RecursionError):
        return None


def _unusable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path}: cannot be written ({error.strerror}), expected a writable file with space; free some, or "
        "give another name"
    )
