"""Mutations of a GGUF file by its structure: counts, strings, types, dimensions, offsets, alignment.

In: the bytes of a valid file; out: a file with one to three lies in it, everything else in its place. The
taking apart is written anew here, so that the reader under test has no say in it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from random import Random

from tests.fuzz import raw

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


@dataclass
class Key:
    name: bytes
    kind: int
    value: bytes
    name_size: int | None = None  # None: the true size


@dataclass
class Row:
    name: bytes
    dims: list[int]
    kind: int
    offset: int
    name_size: int | None = None
    n_dims: int | None = None


@dataclass
class Parts:
    keys: list[Key] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    data: bytes = b""
    magic: bytes = b"GGUF"
    version: int = 3
    n_keys: int | None = None
    n_rows: int | None = None
    align: int = 32


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        self.at += size
        return self.data[self.at - size : self.at]

    def integer(self, form: str) -> int:
        return int(struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0])

    def text(self) -> bytes:
        return self.take(self.integer("Q"))

    def value(self, kind: int) -> bytes:
        start = self.at
        if kind == 8:
            self.text()
        elif kind == 9:
            inner, length = self.integer("I"), self.integer("Q")
            for _ in range(length):
                self.value(inner)
        else:
            self.take(_SIZES[kind])
        return self.data[start : self.at]


def take_apart(data: bytes) -> Parts:
    reader = _Reader(data[8:])
    n_rows, n_keys = reader.integer("Q"), reader.integer("Q")
    parts = Parts()
    for _ in range(n_keys):
        name, kind = reader.text(), reader.integer("I")
        parts.keys.append(Key(name, kind, reader.value(kind)))
    for _ in range(n_rows):
        name = reader.text()
        dims = [reader.integer("Q") for _ in range(reader.integer("I"))]
        parts.rows.append(Row(name, dims, reader.integer("I"), reader.integer("Q")))
    start = -(-(8 + reader.at) // 32) * 32
    parts.data = data[start:]
    return parts


def put_together(parts: Parts) -> bytes:
    def size(claimed: int | None, true: int, form: str = "Q") -> bytes:
        value = true if claimed is None else claimed
        return struct.pack("<" + form, value % 2 ** (8 * struct.calcsize("<" + form)))

    out = [parts.magic, struct.pack("<I", parts.version % 2**32)]
    out += [size(parts.n_rows, len(parts.rows)), size(parts.n_keys, len(parts.keys))]
    for key in parts.keys:
        out += [size(key.name_size, len(key.name)), key.name, size(key.kind, 0, "I"), key.value]
    for row in parts.rows:
        out += [size(row.name_size, len(row.name)), row.name, size(row.n_dims, len(row.dims), "I")]
        out += [size(dim, 0) for dim in row.dims]
        out += [size(row.kind, 0, "I"), size(row.offset, 0)]
    header = b"".join(out)
    return header + bytes(-len(header) % parts.align) + parts.data


def mutate(data: bytes, rng: Random) -> bytes:
    parts = take_apart(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice(_WAYS)(parts, rng)
    whole = put_together(parts)
    return raw.mutate(whole, rng) if rng.random() < 0.1 else whole


def _top(parts: Parts, rng: Random) -> None:
    what = rng.choice(("magic", "version", "n_keys", "n_rows"))
    if what == "magic":
        parts.magic = rng.choice((b"FUGG", b"GGML", b"gguf", b"GGU"))
    elif what == "version":
        parts.version = rng.choice((0, 1, 2, 4, 0x03000000, 2**32 - 1))
    elif what == "n_keys":
        parts.n_keys = raw.number(rng, len(parts.keys))
    else:
        parts.n_rows = raw.number(rng, len(parts.rows))


def _key(parts: Parts, rng: Random) -> None:
    if not parts.keys:
        return
    key = rng.choice(parts.keys)
    what = rng.randrange(6)
    if what == 0:
        key.kind = raw.number(rng, key.kind)
    elif what == 1:
        size = len(key.value)
        number = raw.number(rng).to_bytes(8, "little")[:size]
        key.value = rng.choice((raw.mutate(key.value, rng), number.ljust(size, b"\0")))
    elif what == 2:
        key.name_size = raw.number(rng, len(key.name))
    elif what == 3:
        key.name = rng.choice(
            (raw.mutate(key.name, rng), rng.choice(parts.keys).name, b"", b"general.alignment")
        )
    elif what == 4:
        key.kind, key.value = _some_value(rng)
    else:
        parts.keys.insert(rng.randrange(len(parts.keys) + 1), Key(_some_name(rng), *_some_value(rng)))


def _some_name(rng: Random) -> bytes:
    return rng.choice(
        (b"general.alignment", b"split.count", b"x.y", b"\n\x1b[31m", b"general.name", b"k" * 70_000)
    )


def _some_value(rng: Random) -> tuple[int, bytes]:
    scalar = rng.choice(tuple(_SIZES))
    options = (
        (scalar, rng.randbytes(_SIZES[scalar])),
        (4, struct.pack("<I", rng.choice((0, 1, 2, 8, 16, 32, 33, 64, 65_536, 2**31)))),
        (8, struct.pack("<Q", raw.number(rng, 3)) + b"abc"),
        (8, struct.pack("<Q", 3) + rng.choice((b"a\nb", b"\xff\xfe\xfd", b"abc"))),
        (9, struct.pack("<IQ", rng.choice((0, 4, 8, 9, 10, 99)), raw.number(rng, 3)) + bytes(24)),
        (9, struct.pack("<IQ", 8, 3) + 3 * struct.pack("<Q", raw.number(rng))),
        (9, struct.pack("<IQ", 9, 1) * rng.choice((1, 5, 5_000))),
        (6, struct.pack("<f", rng.choice(raw.FLOATS))),
        (12, struct.pack("<d", float("nan"))),
    )
    return rng.choice(options)


def _drop_or_double(parts: Parts, rng: Random) -> None:
    items: list[object] = rng.choice((parts.keys, parts.rows))  # type: ignore[arg-type]
    if not items:
        return
    item = rng.choice(items)
    if rng.random() < 0.5:
        items.remove(item)
    else:
        items[rng.randrange(len(items)) : 0] = [item] * rng.choice((1, 2, 1_000))


def _row(parts: Parts, rng: Random) -> None:
    if not parts.rows:
        return
    row = rng.choice(parts.rows)
    what = rng.randrange(7)
    if what == 0:
        row.kind = raw.number(rng)
    elif what == 1:
        row.offset = raw.number(rng, row.offset)
    elif what == 2:
        row.n_dims = raw.number(rng, len(row.dims))
    elif what == 3:
        row.name_size = raw.number(rng, len(row.name))
    elif what == 4:
        row.name = rng.choice((raw.mutate(row.name, rng), *_ROW_NAMES, rng.choice(parts.rows).name))
    else:
        _dims(row, rng)


_ROW_NAMES = (
    b"direction.0", b"direction.01", b"direction.-1", b"direction.999999999", b"direction.9999999999", b"direction.",
    b"direction.\xd9\xa1", b"direction.5", b"gate.1.0.weight", b"gate.1.1.bias", b"gate.99.0.weight",
    b"gate.1.99999999999999999999.weight", b"gate.1.0.bias\n", b"blk.0.attn_norm.weight", b"x.norm.weight",
)  # fmt: skip


def _dims(row: Row, rng: Random) -> None:
    what = rng.randrange(5)
    if what == 0:
        row.dims = [raw.number(rng) for _ in range(rng.randrange(6))]
    elif what == 1:
        row.dims = row.dims[::-1]
    elif what == 2:
        row.dims.insert(rng.randrange(len(row.dims) + 1), rng.choice((0, 1, 2)))
    elif what == 3 and row.dims:
        row.dims[rng.randrange(len(row.dims))] = rng.choice((0, raw.number(rng)))
    else:  # the product of the dimensions is small, or 0, modulo 2**64 only
        row.dims = rng.choice(([2**32, 2**32], [2**63, 2], [8, 2**61], [0, 2**63], [2**63, 0], [2**62, 0, 4]))


def _data(parts: Parts, rng: Random) -> None:
    parts.data = raw.mutate(parts.data, rng) if parts.data else b"\0" * 8


def _alignment(parts: Parts, rng: Random) -> None:
    parts.align = rng.choice((1, 8, 16, 64, 4096))
    if rng.random() < 0.7:
        parts.keys.append(Key(b"general.alignment", 4, struct.pack("<I", parts.align)))


def _permute(parts: Parts, rng: Random) -> None:
    rng.shuffle(rng.choice((parts.keys, parts.rows)))  # type: ignore[arg-type]


_WAYS = (_top, _key, _key, _key, _drop_or_double, _row, _row, _row, _data, _alignment, _permute)
