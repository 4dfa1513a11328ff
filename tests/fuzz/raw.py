"""Mutations of bytes that know nothing of their meaning.

In: bytes and a random generator; out: other bytes. The same generator state gives the same bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random

# Where counts and offsets turn: signs, widths, limits of the readers, and what overflows when padded.
INTERESTING = (
    0, 1, 2, 3, 4, 7, 8, 9, 12, 13, 16, 31, 32, 33, 64, 127, 128, 255, 256, 4095, 4096, 65_535, 65_536, 65_537,
    100_000, 2**20, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**33, 2**40, 2**53, 2**61, 2**62, 2**63 - 1,
    2**63, 2**63 + 1, 2**64 - 32, 2**64 - 8, 2**64 - 2, 2**64 - 1,
)  # fmt: skip
FLOATS = (float("nan"), float("inf"), float("-inf"), 3.4028234e38, 1e-45, -0.0, 0.0)


def number(rng: Random, near: int = 0) -> int:
    """0 to 2**64 - 1: a neighbour of `near`, a turning point, or anything."""
    how = rng.randrange(4)
    if how == 0:
        return (near + rng.choice((-9, -2, -1, 1, 2, 9))) % 2**64
    return rng.choice(INTERESTING) if how < 3 else rng.getrandbits(rng.choice((3, 8, 16, 32, 64)))


def mutate(data: bytes, rng: Random) -> bytes:
    """One to four mutations."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(_WAYS)(data, rng)
    return data


def _at(data: bytes, rng: Random) -> int:
    return rng.randrange(len(data) + 1)


def _span(data: bytes, rng: Random) -> tuple[int, int]:
    start = _at(data, rng)
    return start, min(len(data), start + rng.choice((1, 2, 4, 8, 30, 200, 5000)))


def _flip(data: bytes, rng: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 20))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncate(data: bytes, rng: Random) -> bytes:
    return data[: _at(data, rng)] if rng.random() < 0.7 else data[_at(data, rng) :]


def _remove(data: bytes, rng: Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def _insert(data: bytes, rng: Random) -> bytes:
    at = _at(data, rng)
    return data[:at] + rng.randbytes(rng.choice((1, 2, 4, 8, 64))) + data[at:]


def _repeat(data: bytes, rng: Random) -> bytes:
    start, end = _span(data, rng)
    times = rng.choice((2, 3, 10, 300)) if end - start < 300 else 2
    return data[:start] + data[start:end] * times + data[end:]


def _move(data: bytes, rng: Random) -> bytes:
    (start, end), at = _span(data, rng), _at(data, rng)
    return data[:at] + data[start:end] + data[at:]


def _integer(data: bytes, rng: Random) -> bytes:
    form = rng.choice("BHIQ")
    size = struct.calcsize("<" + form)
    at = rng.randrange(max(1, len(data) - size))
    value = number(rng) % 2 ** (8 * size)
    return data[:at] + struct.pack("<" + form, value) + data[at + size :]


def _float(data: bytes, rng: Random) -> bytes:
    at = rng.randrange(max(1, len(data) // 4)) * 4
    return data[:at] + struct.pack("<f", rng.choice(FLOATS)) + data[at + 4 :]


def _fill(data: bytes, rng: Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + rng.choice((b"\0", b"\xff", b"[", b"A")) * (end - start) + data[end:]


_WAYS: tuple[Callable[[bytes, Random], bytes], ...] = (
    _flip, _flip, _truncate, _remove, _insert, _repeat, _move, _integer, _integer, _float, _fill,
)  # fmt: skip
