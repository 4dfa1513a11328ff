"""Read a person's text files: lines, and the JSON in them.

In:  a path, or one JSON text and where it stands. Out: lines without their ends; JSON values whose texts can
be encoded. Whatever is wrong is an InputError of one line.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NoReturn

from edgesteer.errors import InputError


def read_lines(path: str | os.PathLike[str], expected: str) -> list[str]:
    """The lines of a UTF-8 file, with any kind of line end. expected: the end of each message."""
    where = os.fspath(path)
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"{where}: {getattr(error, 'strerror', None) or error}; {expected}") from None
    if b"\0" in data:
        raise InputError(f"{where}: holds NUL bytes (a binary file, or UTF-16 text); {expected}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 text (byte {error.start}); {expected}") from None
    # Not splitlines, which would cut a JSON text at U+2028.
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def json_value(text: str, where: str, expected: str) -> Any:
    """The value of a JSON text, refused where Python would read more than JSON is: NaN, a key given twice."""
    try:
        value = json.loads(text, parse_constant=_no_number, object_pairs_hook=_once)
        json.dumps(
            value, ensure_ascii=False
        ).encode()  # half a surrogate pair would fail later, far from here
    except UnicodeEncodeError:
        raise InputError(f"{where}: holds half a surrogate pair, expected whole characters") from None
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", None) or "too deep or too large"
        raise InputError(f"{where}: not JSON ({reason}), {expected}") from None
    return value


def short(value: Any) -> str:
    """A value as a message shows it: at most 40 characters, on one line."""
    try:
        text = repr(value)
    except RecursionError:  # what was just deep enough to read may be too deep to show
        return "a deeply nested value"
    return text if len(text) <= 40 else text[:37] + "..."


def _no_number(name: str) -> NoReturn:
    raise json.JSONDecodeError(f"{name} is no number", name, 0)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise json.JSONDecodeError(f"the key {short(key)} twice", "", 0)
        result[key] = value
    return result
