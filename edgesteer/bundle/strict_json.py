"""Strict JSON: unique keys, finite numbers, UTF-8; and one canonical form to write."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, NoReturn

from edgesteer.bundle.refusal import refusal

# The format allows 1 GiB; values of that size would take ten times as much memory once parsed.
MAX_JSON_BYTES = 16 * 2**20
_EDIT = "correct it or build the bundle again"


def canonical(value: Mapping[str, Any]) -> bytes:
    """Canonical JSON: UTF-8, keys sorted by code point, no whitespace. NumPy values become plain numbers.

    Raises:
        BundleError: a value that JSON cannot hold (NaN, infinity, an object, a key that is not a string).
    """
    try:
        _require_text_keys(value)
        text = json.dumps(
            value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"), default=_plain
        )
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise refusal(
            "manifest.json", str(error), "values that JSON can hold", "correct the metadata"
        ) from None


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # NumPy scalars and arrays, without importing NumPy for it
        return value.tolist()
    raise TypeError(f"a value of type {type(value).__name__}")


def _require_text_keys(value: object) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r}, not a string")
            _require_text_keys(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _require_text_keys(item)


def parse_json(data: bytes, where: str) -> dict[str, Any]:
    """A JSON object from UTF-8 bytes, strictly.

    Raises:
        BundleError: not UTF-8, not JSON, a duplicate key, NaN or infinity, nested too deep, or not an object.
    """
    if len(data) > MAX_JSON_BYTES:
        raise refusal(where, f"{len(data)} bytes", f"at most {MAX_JSON_BYTES}", "move bulk data elsewhere")
    try:
        value = json.loads(
            data.decode(), object_pairs_hook=_unique, parse_constant=_not_finite, parse_float=_finite
        )
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate would fail later, far from the file
    except (ValueError, RecursionError) as error:
        raise refusal(
            where, f"not strict JSON ({error})", "UTF-8 JSON with unique keys, finite numbers", _EDIT
        ) from None
    if not isinstance(value, dict):
        raise refusal(where, f"a JSON {type(value).__name__}", "an object", _EDIT)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"duplicate key {next(key for key in counts if counts[key] > 1)!r}")
    return result


def _not_finite(text: str) -> NoReturn:
    raise ValueError(f"the number {text}")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        _not_finite(text)
    return value
