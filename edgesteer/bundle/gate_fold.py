"""Knows how gate.onnx becomes a graph for one block: its input `layer` a constant, no reshaping at its end.

In: a gate that `check_gate` has accepted, and a block. Out: the bytes of an ONNX model whose only input is
`activation`, and the shape of its `coefficient`. The same arithmetic on the same numbers: ONNX Runtime folds
the table look-ups at load, and a closing Squeeze, which moves no number, is left out.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

from edgesteer.bundle import onnx_schema as schema
from edgesteer.bundle.protobuf import Message, append_field, decode, fields

_GRAPH, _NODE, _INITIALIZER, _INPUT, _OUTPUT = 7, 1, 5, 11, 12
_VARINT, _LEN = 0, 2
_FLOAT, _INT64 = 1, 7
_COEFFICIENT = "coefficient"

Shape = Literal["rows", "row", "column"]
"""[tokens], [1, tokens] or [tokens, 1]: one number after the other in all three."""


@dataclass(frozen=True)
class Folded:
    model: bytes
    shape: Shape


def fold_layer(gate: bytes, layer: int) -> Folded:
    """`gate` with `layer` fixed. Raises WireError for bytes that are no protobuf."""
    parts = list(fields(memoryview(gate)))
    graph = next(
        (v for number, _, v in parts if number == _GRAPH and isinstance(v, memoryview)), memoryview(b"")
    )
    ends_in = _closing_squeeze(decode(graph, schema.GRAPH))
    out = bytearray()
    for number, wire, value in parts:
        append_field(out, number, wire, _fold_graph(graph, layer, ends_in) if number == _GRAPH else value)
    return Folded(bytes(out), ends_in[1] if ends_in else "rows")


def _closing_squeeze(graph: Message) -> tuple[str, Shape] | None:
    """What a Squeeze that ends the graph is fed with, and that tensor's shape if it has two dimensions."""
    last = graph["node"][-1] if graph.get("node") else {}
    if last.get("op_type") != "Squeeze" or last.get("output") != [_COEFFICIENT] or len(last["input"]) != 2:
        return None
    source, axes = last["input"]
    made_once = sum(source in node.get("input", []) for node in graph["node"]) == 1
    made_here = any(source in node.get("output", []) for node in graph["node"])
    shape = _AXES.get(next((_raw(t) for t in graph.get("initializer", []) if t.get("name") == axes), b""))
    return (source, shape) if shape and made_once and made_here else None


_SHAPES: dict[int, Shape] = {0: "row", -2: "row", 1: "column", -1: "column"}
_AXES = {struct.pack("<q", axis): shape for axis, shape in _SHAPES.items()}


def _raw(tensor: Message) -> bytes:
    return bytes(tensor.get("raw_data", b"")) if tensor.get("data_type") == _INT64 else b""


def _fold_graph(graph: memoryview, layer: int, ends_in: tuple[str, Shape] | None) -> bytes:
    out = bytearray()
    for number, wire, value in fields(graph):
        kept = _kept(number, value, ends_in) if isinstance(value, memoryview) else value
        if kept is not None:
            append_field(out, number, wire, kept)
    append_field(out, _INITIALIZER, _LEN, _scalar("layer", layer))
    return bytes(out)


def _kept(number: int, value: memoryview, ends_in: tuple[str, Shape] | None) -> bytes | memoryview | None:
    """A field of the graph as it is in the folded one; None for what is left out."""
    if number == _INPUT and decode(value, schema.VALUE).get("name") == "layer":
        return None
    if number == _OUTPUT:
        return _shapeless_output()
    return _renamed(value, ends_in[0]) if number == _NODE and ends_in else value


def _renamed(node: memoryview, source: str) -> bytes | None:
    """The node that makes `source` makes the coefficient instead; None for the Squeeze that made it."""
    outputs = decode(node, schema.NODE).get("output", [])
    if outputs == [_COEFFICIENT]:
        return None
    out = bytearray()
    for number, wire, value in fields(node):
        mine = number == 2 and isinstance(value, memoryview) and str(value, "utf-8") == source
        append_field(out, number, wire, _COEFFICIENT.encode() if mine else value)
    return bytes(out)


def _shapeless_output() -> bytes:
    """A ValueInfoProto: the coefficient, float32 of whatever shape."""
    out, kind, tensor = bytearray(), bytearray(), bytearray()
    append_field(tensor, 1, _VARINT, _FLOAT)
    append_field(kind, 1, _LEN, bytes(tensor))
    append_field(out, 1, _LEN, _COEFFICIENT.encode())
    append_field(out, 2, _LEN, bytes(kind))
    return bytes(out)


def _scalar(name: str, value: int) -> bytes:
    """A TensorProto: int64, no dimensions, raw little-endian data."""
    tensor = bytearray()
    append_field(tensor, 2, _VARINT, _INT64)
    append_field(tensor, 8, _LEN, name.encode())
    append_field(tensor, 9, _LEN, struct.pack("<q", value))
    return bytes(tensor)
