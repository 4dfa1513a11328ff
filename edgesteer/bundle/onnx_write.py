"""Writes gate.onnx from a ReLU network per block; and, for the runtime, a gate with its block fixed.

The last layer, a single unit, is transposed: Gemm(w, x^T) with w [1, n_in] is a matrix-vector product for any
number of tokens. With 576 inputs a call takes 4.6 us for one block and 5.7 us with tables over 29 blocks,
against 5.4 and 6.9 us in the textbook form MatMul(x, W) + b; a 256-token prompt takes 16 us, against 60 where
ONNX Runtime packs a constant one-column matrix. Wider layers are fastest in the textbook form.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgesteer.bundle import onnx_format as schema
from edgesteer.bundle.gate import GateWeights, check_weights
from edgesteer.bundle.onnx_format import Message, append_field, decode, fields
from edgesteer.bundle.refusal import refusal
from edgesteer.errors import MissingExtra

_GRAPH, _NODE, _INITIALIZER, _INPUT, _OUTPUT = 7, 1, 5, 11, 12  # fields of ModelProto and GraphProto
_VARINT, _LEN = 0, 2
_FLOAT, _INT64 = 1, 7
_COEFFICIENT = "coefficient"

Shape = Literal["rows", "row", "column"]
"""[tokens], [1, tokens] or [tokens, 1]: one number after the other in all three."""


def build_gate(weights: GateWeights, directions_sha256: str) -> bytes:
    """The gate.onnx of a ReLU network per steered block.

    Args:
        weights: block -> layers; every block has layers of the same shapes.
        directions_sha256: hex SHA-256 of the directions.gguf that the gate belongs to.
    Raises:
        MissingExtra: the `onnx` package is not installed.
        BundleError: the shapes do not chain, differ between blocks, or do not end in width 1.
    """
    layers = sorted(weights)
    shapes = check_weights(weights)
    if len({tuple(shapes[n]) for n in layers}) != 1:
        raise refusal("gate", f"shapes {shapes}", "the same in every block", "give all blocks one shape")
    try:
        import onnx
    except ImportError as error:
        raise MissingExtra("onnx: not installed; needed to write a gate; pip install onnx") from error
    graph = _Graph(onnx)
    rows = graph.rows(layers)
    signal, depths = "activation", len(shapes[layers[0]])
    for depth in range(depths):
        matrices = np.stack([np.asarray(weights[n][depth][0], np.float32) for n in layers])
        biases = np.stack([np.asarray(weights[n][depth][1], np.float32) for n in layers])
        signal = graph.layer(depth, matrices, biases, rows, signal, last=depth == depths - 1)
    graph.node("Squeeze", [signal, graph.constant("unit", np.array([0], np.int64))], "coefficient")
    width = shapes[layers[0]][0][0]
    return finished(onnx, graph.nodes, graph.initializers, width, layers, directions_sha256)


class _Graph:
    """Collects nodes and initializers; each method returns the name of what it added."""

    def __init__(self, onnx: Any) -> None:
        self.onnx, self.nodes, self.initializers = onnx, list[Any](), list[Any]()

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        tensor = self.onnx.numpy_helper.from_array(np.ascontiguousarray(value), name)
        self.initializers.append(tensor)
        return name

    def node(self, operator: str, inputs: list[str], output: str, **attributes: int) -> str:
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, [output], **attributes))
        return output

    def rows(self, layers: list[int]) -> str | None:
        """The node that maps the block's index to its row in the tables; None if there is a single row."""
        if len(layers) == 1:
            return None
        return self.node("Gather", [self.constant("row_of_layer", row_of_layer(layers)), "layer"], "row")

    def table(self, name: str, stacked: npt.NDArray[np.float32], row: str | None) -> str:
        if row is None:
            return self.constant(name, stacked[0])
        return self.node("Gather", [self.constant(f"{name}.table", stacked), row], name)

    def layer(
        self,
        depth: int,
        matrices: npt.NDArray[np.float32],
        biases: npt.NDArray[np.float32],
        row: str | None,
        signal: str,
        last: bool,
    ) -> str:
        """relu(x W + b), as [tokens, k]; the last one as [1, tokens], see the module's docstring."""
        bias = self.table(f"bias.{depth}", biases, row)
        weight = self.table(f"weight.{depth}", matrices.swapaxes(1, 2) if last else matrices, row)
        if last:
            product = self.node("Gemm", [weight, signal, bias], f"affine.{depth}", transB=1)
        else:
            product = self.node("Gemm", [signal, weight, bias], f"affine.{depth}")
        return self.node("Relu", [product], f"hidden.{depth}")


def row_of_layer(layers: Sequence[int]) -> npt.NDArray[np.int64]:
    """Block index -> row in the tables, int64. Entries of blocks that are not steered are never read."""
    lookup = np.zeros(max(layers) + 1, np.int64)
    lookup[list(layers)] = np.arange(len(layers))
    return lookup


def finished(
    onnx: Any, nodes: list[Any], initializers: list[Any], n_embd: int, layers: Sequence[int], digest: str
) -> bytes:
    """The bytes of a gate of these nodes. digest: the SHA-256 of directions.gguf."""
    helper, kinds = onnx.helper, onnx.TensorProto
    inputs = [
        helper.make_tensor_value_info("activation", kinds.FLOAT, ["tokens", n_embd]),
        helper.make_tensor_value_info("layer", kinds.INT64, []),
    ]
    outputs = [helper.make_tensor_value_info("coefficient", kinds.FLOAT, ["tokens"])]
    graph = helper.make_graph(nodes, "gate", inputs, outputs, initializers)
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8, producer_name="edgesteer")
    return sealed(onnx, model, layers, digest)


def sealed(onnx: Any, model: Any, layers: Sequence[int], digest: str) -> bytes:
    """The bytes of a gate with the metadata that the format requires, instead of any that it has."""
    del model.metadata_props[:]
    onnx.helper.set_model_props(
        model,
        {
            "edgesteer.format": "edgesteer/1",
            "edgesteer.layers": json.dumps(list(layers)),
            "edgesteer.directions_sha256": digest,
        },
    )
    encoded: bytes = model.SerializeToString(deterministic=True)
    return encoded


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
    """The input of a Squeeze that ends the graph, and whether it is a row or a column; None for others."""
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
    """A field of the graph, as the folded graph has it; None for one that is left out."""
    if number == _INPUT and decode(value, schema.VALUE).get("name") == "layer":
        return None
    if number == _OUTPUT:
        return _shapeless_output()
    return _renamed(value, ends_in[0]) if number == _NODE and ends_in else value


def _renamed(node: memoryview, source: str) -> bytes | None:
    """The node, with the output `source` renamed to the coefficient; None for the Squeeze after it."""
    outputs = decode(node, schema.NODE).get("output", [])
    if outputs == [_COEFFICIENT]:
        return None
    out = bytearray()
    for number, wire, value in fields(node):
        mine = number == 2 and isinstance(value, memoryview) and str(value, "utf-8") == source
        append_field(out, number, wire, _COEFFICIENT.encode() if mine else value)
    return bytes(out)


def _shapeless_output() -> bytes:
    """A ValueInfoProto: the coefficient, float32 of any shape."""
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
