"""Read the text files that people write: their lines, and the JSON in them.

In:  a path; or a JSON text, and the place that messages name.
Out: lines without their ends; JSON values whose strings can be encoded. Every error is an InputError.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NoReturn

from edgesteer.errors import InputError


def read_lines(path: str | os.PathLike[str], expected: str) -> list[str]:
    """The lines of a UTF-8 file, with any line endings. expected: how error messages end."""
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
    """The value of a JSON text, without the extensions that Python allows: NaN, the same key twice."""
    try:
        value = json.loads(text, parse_constant=_no_number, object_pairs_hook=_once)
        json.dumps(value, ensure_ascii=False).encode()  # fails now, not later, for half a surrogate pair
    except UnicodeEncodeError:
        raise InputError(f"{where}: holds half a surrogate pair, expected whole characters") from None
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", None) or "too deep or too large"
        raise InputError(f"{where}: not JSON ({reason}), {expected}") from None
    return value


def short(value: Any) -> str:
    """A value as messages show it: at most 40 characters, on one line."""
    try:
        text = repr(value)
    except RecursionError:  # a value just shallow enough to parse may be too deep for repr
        return "a deeply nested value"
    return text if len(text) <= 40 else text[:37] + "..."


def _no_number(name: str) -> NoReturn:
    raise json.JSONDecodeError(f"{name} is not a number", name, 0)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise json.JSONDecodeError(f"the key {short(key)} twice", "", 0)
        result[key] = value
    return result
