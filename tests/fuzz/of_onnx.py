"""Mutations of an ONNX model by its structure: protobuf fields on all levels, and nodes grafted into the
graph.

In: the bytes of a valid model; out: one with one to three changes, all lengths above them made right again
(but for the lies that are meant). The taking apart follows the reader's schema only to know which fields hold
messages.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from random import Random

from edgesteer.bundle.onnx_format import MODEL, Schema
from edgesteer.bundle.onnx_rules import OPERATORS
from tests.fuzz import raw

_FORBIDDEN = (
    "If",
    "Loop",
    "Scan",
    "Expand",
    "Range",
    "Tile",
    "ConstantOfShape",
    "NonZero",
    "MatMulInteger",
    "",
)


@dataclass
class Item:
    """A field: number, wire type, and an integer, bytes, or the fields inside it."""

    number: int
    wire: int
    value: int | bytes | list[Item]
    schema: Schema | None = None
    claim: int | None = None  # a length other than the true one
    overlong: int = 0  # bytes by which a number is longer than it need be


def varint(value: int, overlong: int = 0) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    for _ in range(overlong):
        out[-1] |= 0x80
        out.append(0)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at


def take_apart(data: bytes, schema: Schema = MODEL) -> list[Item]:
    items, at = [], 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _read_varint(data, at)
            items.append(Item(number, wire, value))
            continue
        size = {5: 4, 1: 8}.get(wire, 0)
        if wire == 2:
            size, at = _read_varint(data, at)
        body, at = data[at : at + size], at + size
        inner = schema[number].schema
        items.append(Item(number, wire, take_apart(body, inner) if inner else body, inner))
    return items


def put_together(items: list[Item]) -> bytes:
    return b"".join(_written(item) for item in items)


def _written(item: Item) -> bytes:
    tag = varint(item.number << 3 | item.wire)
    if isinstance(item.value, int):
        return tag + varint(item.value % 2**64, item.overlong)
    body = put_together(item.value) if isinstance(item.value, list) else item.value
    size = varint(len(body) if item.claim is None else item.claim, item.overlong) if item.wire == 2 else b""
    return tag + size + body


def walk(items: list[Item]) -> Iterator[tuple[list[Item], int]]:
    """Every field, as the list that holds it and its place there."""
    for i, item in enumerate(items):
        yield items, i
        if isinstance(item.value, list):
            yield from walk(item.value)


def mutate(data: bytes, rng: Random) -> bytes:
    items = take_apart(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice(_WAYS)(items, rng)
    whole = put_together(items)
    return raw.mutate(whole, rng) if rng.random() < 0.05 else whole


def _somewhere(items: list[Item], rng: Random) -> tuple[list[Item], int]:
    return rng.choice(list(walk(items)) or [([Item(99, 0, 0)], 0)])


def _leaf(items: list[Item], rng: Random) -> None:
    leaves = [place[i] for place, i in walk(items) if not isinstance(place[i].value, list)]
    if not leaves:
        return
    item = rng.choice(leaves)
    if isinstance(item.value, int):
        item.value = raw.number(rng, item.value)
    elif isinstance(item.value, bytes):
        alike = [i.value for i in leaves if i.number == item.number and isinstance(i.value, bytes)]
        item.value = rng.choice((raw.mutate(item.value, rng), rng.choice(alike), b"", b"\xff\n"))


def _wire(items: list[Item], rng: Random) -> None:
    place, i = _somewhere(items, rng)
    item = place[i]
    how = rng.randrange(5)
    if how == 0:
        item.wire = rng.choice((0, 1, 2, 3, 4, 5, 6, 7))
    elif how == 1:
        item.claim = raw.number(rng, 10)
    elif how == 2:
        item.overlong = rng.choice((1, 3, 8, 9, 12))
    elif how == 3:
        item.number = rng.choice((0, 1, 4, 6, 9, 11, 20, 25, 999, 2**29 - 1, 2**40))
    else:
        place.insert(i, Item(rng.randrange(30), 2, rng.randbytes(5)))


def _drop_double_move(items: list[Item], rng: Random) -> None:
    place, i = _somewhere(items, rng)
    how = rng.randrange(5)
    if how == 0:
        del place[i]
    elif how == 1:
        place.insert(rng.randrange(len(place) + 1), place[i])
    elif how == 2:
        size = len(_written(place[i]))
        times = rng.choice((2, 50, 500, 120_000 if size < 8 else 5))
        # Copies: of one shared item, a later repetition inside it would multiply to gigabytes.
        place[i:i] = [deepcopy(place[i]) for _ in range(min(times, 2**20 // max(1, size)))]
    elif how == 3:
        j = rng.randrange(len(place))
        place[i], place[j] = place[j], place[i]
    else:
        target, j = _somewhere(items, rng)
        if not isinstance(place[i].value, list):
            target.insert(j, place[i])


def _deep(items: list[Item], rng: Random) -> None:
    inner = b""
    for _ in range(rng.choice((10, 1_000, 8_000))):
        inner = varint(7 << 3 | 2) + varint(len(inner)) + inner if len(inner) < 60_000 else inner
    place, i = _somewhere(items, rng)
    place[i] = Item(place[i].number, 2, inner)


def _graph(items: list[Item]) -> list[Item]:
    graphs = [item.value for item in items if item.number == 7 and isinstance(item.value, list)]
    return graphs[0] if graphs else []


def _named(place: list[Item], number: int) -> list[Item]:
    return [item for item in place if item.number == number and isinstance(item.value, list)]


def _operator(items: list[Item], rng: Random) -> None:
    for node in rng.sample(nodes := _named(_graph(items), 1), min(1, len(nodes))):
        for item in _texts(node, 4):
            item.value = rng.choice((*sorted(OPERATORS), *_FORBIDDEN)).encode()


def _texts(node: Item, number: int) -> list[Item]:
    return [i for i in node.value if i.number == number] if isinstance(node.value, list) else []


def _attribute(items: list[Item], rng: Random) -> None:
    nodes = _named(_graph(items), 1)
    if nodes:
        node = rng.choice(nodes)
        assert isinstance(node.value, list)
        node.value.append(Item(5, 2, _some_attribute(rng)))


def _some_attribute(rng: Random) -> list[Item]:
    name = rng.choice((b"axis", b"transA", b"transB", b"alpha", b"beta", b"to", b"value", b"allowzero", b"x"))
    integer = [Item(3, 0, raw.number(rng)), Item(20, 0, 2)]
    options = (
        integer,
        integer,
        [Item(2, 5, struct.pack("<f", rng.choice(raw.FLOATS))), Item(20, 0, 1)],
        [Item(8, 2, varint(raw.number(rng)) * rng.choice((1, 3))), Item(20, 0, 7)],
        [Item(5, 2, tensor(b"", [2], 1, bytes(8))), Item(20, 0, 4)],
        [Item(6, 2, b""), Item(20, 0, 5)],
        [Item(4, 2, b"text"), Item(20, 0, raw.number(rng))],
    )
    return [Item(1, 2, name), *rng.choice(options)]


def tensor(name: bytes, dims: list[int], kind: int, body: bytes) -> list[Item]:
    return [*(Item(1, 0, d) for d in dims), Item(2, 0, kind), Item(8, 2, name), Item(9, 2, body)]


def _weights(items: list[Item], rng: Random) -> None:
    """Dimensions, type and bytes of an initializer, which need not fit one another afterwards."""
    tensors = _named(_graph(items), 5)
    if not tensors:
        return
    chosen = rng.choice(tensors)
    assert isinstance(chosen.value, list)
    how = rng.randrange(6)
    if how == 5:
        chosen.value.append(
            rng.choice((Item(13, 2, b"\n\x01a\x12\x01b"), Item(14, 0, rng.choice((1, 2**32)))))
        )
    elif how == 0:
        chosen.value.insert(0, Item(1, 0, raw.number(rng)))
    elif how == 1 and (dims := _texts(chosen, 1)):
        rng.choice(dims).value = raw.number(rng)
    elif how == 2:
        _set(chosen, 2, rng.randrange(24))
    elif how == 3:
        _set(
            chosen,
            9,
            rng.choice(
                (b"", bytes(3), struct.pack("<f", rng.choice(raw.FLOATS)) * 8, b"\xff" * 64, b"\x80" * 64)
            ),
        )
    else:
        name = (_texts(chosen, 8) or [Item(8, 2, b"n")])[0].value
        chosen.value = _some_tensor(name if isinstance(name, bytes) else b"n", rng)


def _set(item: Item, number: int, value: int | bytes) -> None:
    for inner in _texts(item, number):
        inner.value = value


# ONNX's element types and their width in bytes.
_WIDTHS = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8}


def _some_tensor(name: bytes, rng: Random) -> list[Item]:
    kind = rng.choice((1, 1, 1, 7, 7, 6, *_WIDTHS))
    dims = [rng.choice((0, 1, 1, 2, 3, 8)) for _ in range(rng.randrange(4))]
    if rng.random() < 0.1:
        dims = rng.choice(([1, 20_000], [20_000, 1], [1, 1, 20_000], [20_000]))
    count = 1
    for dim in dims:
        count *= dim
    size = count * _WIDTHS[kind]
    small = (struct.pack("<q", rng.choice((0, 1, -1, 2, 8, 100, -(2**63), 2**62))) * count)[:size]
    body = rng.choice(
        (bytes(size), rng.randbytes(size) if size < 5_000 else bytes(size), small.ljust(size, b"\0"))
    )
    return tensor(name, dims, kind, body)


def _graft(items: list[Item], rng: Random) -> None:
    """A new node that reads what is there and that a node after it reads: this reaches the runtime's
    kernels."""
    graph = _graph(items)
    nodes = [i for i, item in enumerate(graph) if item.number == 1 and isinstance(item.value, list)]
    if not nodes:
        return
    at = rng.choice(nodes)
    known = [b"activation", b"layer", *(_name(t) for t in _named(graph, 5))]
    known += [o.value for n in nodes if n < at for o in _texts(graph[n], 2) if isinstance(o.value, bytes)]
    inputs = []
    for k in range(rng.choice((1, 2, 2, 3))):
        name = rng.choice(known)
        if rng.random() < 0.5:
            name = b"new.%d.%d" % (len(graph), k)
            graph.append(Item(5, 2, _some_tensor(name, rng)))
        inputs.append(name)
    consumers = _texts(graph[at], 1)
    output = b"graft.%d" % len(graph)
    if consumers:
        consumer = rng.choice(consumers)
        if rng.random() < 0.6 and isinstance(consumer.value, bytes):
            inputs[0] = consumer.value
        consumer.value = output
    graph.insert(at, Item(1, 2, _some_node(inputs, output, rng)))


def _name(item: Item) -> bytes:
    values = [i.value for i in _texts(item, 8) if isinstance(i.value, bytes)]
    return values[0] if values else b""


def _some_node(inputs: list[bytes], output: bytes, rng: Random) -> list[Item]:
    operator = rng.choice(sorted(OPERATORS))
    node = [*(Item(1, 2, name) for name in inputs), Item(2, 2, output), Item(4, 2, operator.encode())]
    kinds = {"Cast": (b"to", (1, 1, 6, 7, 9, 10, 11, 99)), "Gather": (b"axis", (0, 0, 1, -1, 5))}
    if operator in kinds:
        name, values = kinds[operator]
        node.append(Item(5, 2, [Item(1, 2, name), Item(3, 0, rng.choice(values) % 2**64), Item(20, 0, 2)]))
    elif operator == "Constant":
        node = [
            *node[-2:],
            Item(5, 2, [Item(1, 2, b"value"), Item(5, 2, _some_tensor(b"", rng)), Item(20, 0, 4)]),
        ]
    elif rng.random() < 0.2:
        node.append(Item(5, 2, _some_attribute(rng)))
    return node


def _bomb(items: list[Item], rng: Random) -> None:
    """A column and a row of thousands: their sum or product is what a broadcast makes of them."""
    graph = _graph(items)
    nodes = [i for i, item in enumerate(graph) if item.number == 1 and isinstance(item.value, list)]
    if not nodes:
        return
    n = rng.choice((3_000, 20_000, 60_000))
    for name, dims in ((b"column", [n, 1]), (b"line", [1, n])):
        graph.append(Item(5, 2, tensor(name, dims, 1, bytes(4 * n))))
    graph.append(Item(5, 2, tensor(b"zeros", [1], 7, bytes(8))))
    operator = rng.choice((b"Add", b"Mul", b"MatMul", b"Gemm"))
    steps = [([b"column", b"line"], b"plane", operator), ([b"plane", b"zeros"], b"one", b"Gather")]
    for inputs, output, name in steps:
        at = nodes[0]
        node = [*(Item(1, 2, i) for i in inputs), Item(2, 2, output), Item(4, 2, name)]
        graph.insert(at, Item(1, 2, node))
        nodes = [at + 1]
    for name, output in ((b"Gather", b"point"), (b"Add", b"h")):
        inputs = [b"one", b"zeros"] if name == b"Gather" else [b"activation", b"point"]
        axis = [Item(5, 2, [Item(1, 2, b"axis"), Item(3, 0, 1), Item(20, 0, 2)])] if name == b"Gather" else []
        node = [*(Item(1, 2, i) for i in inputs), Item(2, 2, output), Item(4, 2, name), *axis]
        graph.insert(nodes[0], Item(1, 2, node))
        nodes = [nodes[0] + 1]
    for node_item in [item for item in graph if item.number == 1][4:]:
        for read in _texts(node_item, 1):
            read.value = b"h" if read.value == b"activation" else read.value


def _quotient(items: list[Item], rng: Random) -> None:
    """A division of integers whose divisor is not a constant: by 0, or of the least number by -1."""
    graph = _graph(items)
    nodes = [i for i, item in enumerate(graph) if item.number == 1]
    if not nodes:
        return
    values = {b"zero": 0, b"low": rng.choice((-(2**63), 5)), b"by": rng.choice((-1, 0, 1))}
    for name, value in values.items():
        graph.append(Item(5, 2, tensor(name, [], 7, struct.pack("<q", value))))
    steps = [
        (b"Mul", [b"layer", b"zero"], b"q0"), (b"Add", [b"q0", b"by"], b"q1"), (b"Div", [b"low", b"q1"], b"q2"),
        (b"Mul", [b"q2", b"zero"], b"q3"), (b"Add", [b"q3", b"layer"], b"block"),
    ]  # fmt: skip
    new = [
        Item(1, 2, [*(Item(1, 2, i) for i in ins), Item(2, 2, out), Item(4, 2, op)]) for op, ins, out in steps
    ]
    for node in [item for item in graph if item.number == 1]:
        for read in _texts(node, 1):
            read.value = b"block" if read.value == b"layer" else read.value
    graph[nodes[0] : nodes[0]] = new


_WAYS = (
    _leaf, _leaf, _leaf, _wire, _wire, _drop_double_move, _drop_double_move, _deep, _operator, _attribute,
    _weights, _weights, _graft, _graft, _graft, _graft, _bomb, _quotient,
)  # fmt: skip
