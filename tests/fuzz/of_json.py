"""Mutations of a JSON text: of its values, and of the text where JSON has loose ends.

In: the bytes of an object; out: bytes that may or may not be JSON.
"""

from __future__ import annotations

import json
from copy import deepcopy
from random import Random
from typing import Any

from tests.fuzz import raw

_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**63, -(2**63), 2**64, 10**30, 10**400, 0.5, -0.0, 1e308, 5e-324,
    "", "a\nb\x1b[31m", "\u2028", "é" * 300, "../x", "psr", "vector", "all", "edgesteer/1", "0" * 64, [], {}, [[]],
    [1], [1, 2, 4], [4, 2, 1], [True], [1.0], {"": ""}, {"default": 1, "min": 0, "max": 2}, ["a"], [None],
    {"sha256": "0" * 64, "size": 0}, "x" * 5000, list(range(1, 5000)),
)  # fmt: skip
_TEXTS = (
    "NaN", "-Infinity", "1e999", "-1e999", "1" * 5000, "0x10", "01", "1.", "'a'", '"\\ud800"', '"\\u0000"', '"\x00"',
    '"a', "[1,]", "{}{}", "//", "[" * 100_000, '{"a":' * 50_000, "[" * 900 + "]" * 900, '{"a":1,"a":1}', "-", "tru",
    "1E400", "9" * 4300, "-0", "1e-400",
)  # fmt: skip
_KEYS = (
    "x-",
    "x-a",
    "author",
    "",
    "format",
    "turns",
    "sha256",
    "gate.onnx",
    "../x",
    "a\nb",
    "manifest.json",
    "k" * 500,
)


def mutate(data: bytes, rng: Random) -> bytes:
    """One to three mutations of the values, or one of the text."""
    if rng.random() < 0.3:
        return _as_text(data, rng)
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _change(value, rng)
    return _written(value, rng)


def _written(value: Any, rng: Random) -> bytes:
    ascii_only = rng.random() < 0.5
    text = json.dumps(value, ensure_ascii=ascii_only, indent=rng.choice((None, None, 1)))
    return text.encode(errors="surrogatepass")


def _change(value: Any, rng: Random) -> None:
    place = rng.choice(list(_containers(value)))
    keys = list(place) if isinstance(place, dict) else list(range(len(place)))
    if not keys or rng.random() < 0.15:
        _add(place, rng)
        return
    key = rng.choice(keys)
    how = rng.randrange(5)
    if how == 0:
        del place[key]
    elif how == 1 and isinstance(place, dict):
        place[rng.choice(_KEYS)] = place.pop(key)
    else:
        place[key] = _like(place[key], rng)


def _containers(value: Any) -> Any:
    if isinstance(value, dict | list):
        yield value
        for item in value.values() if isinstance(value, dict) else value:
            yield from _containers(item)


def _add(place: Any, rng: Random) -> None:
    if isinstance(place, dict):
        place[rng.choice(_KEYS)] = deepcopy(rng.choice(_VALUES))
    else:
        place.insert(rng.randrange(len(place) + 1), deepcopy(rng.choice(_VALUES)))


def _like(old: Any, rng: Random) -> Any:
    if isinstance(old, int) and not isinstance(old, bool) and rng.random() < 0.5:
        return rng.choice((old + 1, old - 1, -old, float(old % 2**64), raw.number(rng, old)))
    if isinstance(old, str) and rng.random() < 0.5:
        return rng.choice((old.upper(), old[:-1], old + "\n", [old], old + "\ud800"))
    return deepcopy(rng.choice(_VALUES))


def _as_text(data: bytes, rng: Random) -> bytes:
    how = rng.randrange(7)
    if how == 0:
        return raw.mutate(data, rng)
    if how == 1:
        return rng.choice(
            (b"\xef\xbb\xbf" + data, data.decode().encode("utf-16"), data.decode().encode("utf-32"))
        )
    if how == 2:
        return data[:-1] + b"," + _member(rng) + b"}"
    if how == 3:
        return _many_keys(data, rng)
    text = data.decode()
    ends = [i + 1 for i, c in enumerate(text) if c == ":"]
    at = rng.choice(ends)
    after = min((i for i in (text.find(c, at) for c in ",}]") if i >= 0), default=len(text))
    return (text[:at] + rng.choice(_TEXTS) + text[after:]).encode(errors="surrogatepass")


def _member(rng: Random) -> bytes:
    return f"{json.dumps(rng.choice(_KEYS))}:{rng.choice(_TEXTS)}".encode(errors="surrogatepass")


def _many_keys(data: bytes, rng: Random) -> bytes:
    """An object of thousands of keys; the last may repeat one before it."""
    count = rng.choice((100, 3_000, 40_000))
    last = rng.choice((0, count // 2, count - 1, count))
    inner = ",".join(f'"{i}":0' for i in [*range(count), last])
    return data[:-1] + b',"x-many":{' + inner.encode() + b"}}"
