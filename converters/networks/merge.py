"""Merge the graphs of several blocks into one gate.onnx: constants that differ become rows of a table.

`layer` chooses the row, so a call costs one block's work for any number of blocks. The bytes follow the
format's rules and are the same every time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesteer.bundle.onnx_write import finished, row_of_layer, sealed
from edgesteer.bundle.refusal import refusal
from edgesteer_converters.extras import need_onnx
from edgesteer_converters.networks.block_graph import BlockGraph

_NO_DIGEST = "0" * 64
F32 = npt.NDArray[np.float32]


def merge(graphs: Mapping[int, BlockGraph], n_embd: int, flat: bool) -> bytes:
    """One gate for all blocks. Its metadata names the blocks; `stamp` adds the digest of the directions.

    Args:
        graphs: block -> its network.
        flat: whether the networks return [tokens] instead of [tokens, 1].
    Raises:
        BundleError: the blocks' networks differ in more than their weights.
    """
    layers = sorted(graphs)
    first = graphs[layers[0]]
    _check_equal(graphs)
    parts = Parts.new()
    renamed = {name: parts.per_block(name, [graphs[n].constants[name] for n in layers], layers)
               for name in first.constants}  # fmt: skip
    renamed[first.output] = "coefficient" if flat else first.output
    for node in first.nodes:
        inputs = [renamed.get(name, name) for name in node.inputs]
        parts.node(node.operator, inputs, renamed.get(node.output, node.output), **node.attributes)
    if not flat:
        parts.node("Squeeze", [first.output, parts.constant("unit", np.array([1], np.int64))], "coefficient")
    return parts.finish(n_embd, layers)


def _check_equal(graphs: Mapping[int, BlockGraph]) -> None:
    first, *others = sorted(graphs)
    for n in others:
        if graphs[n].architecture() != graphs[first].architecture():
            found = f"block {n}: {_as_text(graphs[n])}; block {first}: {_as_text(graphs[first])}"
            raise refusal("gate", found, "one architecture in all blocks", "give all blocks one shape")


def _as_text(graph: BlockGraph) -> str:
    shapes = [list(value.shape) for value in graph.constants.values() if value.ndim > 1]
    return f"{', '.join(node.operator for node in graph.nodes)} with weights {shapes}"


def stamp(gate: bytes, layers: Sequence[int], directions_sha256: str) -> bytes:
    """`gate` with the metadata of its bundle, otherwise unchanged."""
    onnx = need_onnx()
    model = onnx.load_from_string(gate)
    return sealed(onnx, model, layers, directions_sha256)


def layers_of(gate: bytes) -> list[int]:
    """The blocks that a gate made here serves."""
    model = need_onnx().load_from_string(gate)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return [int(n) for n in json.loads(metadata["edgesteer.layers"])]


def scale(gate: bytes, factors: Mapping[int, float]) -> bytes:
    """`gate` for the blocks of `factors` only, each block's coefficient multiplied by its factor.

    Adds a Mul by a per-block constant, before a final Squeeze, so that the runtime can still remove that.
    """
    onnx = need_onnx()
    model, layers = onnx.load_from_string(gate), sorted(factors)
    parts = Parts.of(onnx, model)
    parts.select(layers_of(gate), layers)
    last = parts.nodes.pop()
    name = parts.fresh("scale")
    by = parts.per_block(name, [np.array([factors[n]], np.float32) for n in layers], layers)
    if last.op_type == "Squeeze":
        last.input[0] = parts.node("Mul", [last.input[0], by], f"{name}.product")
        parts.nodes.append(last)
    else:
        last.output[0] = f"{name}.before"
        parts.nodes.append(last)
        parts.node("Mul", [f"{name}.before", by], "coefficient")
    width = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    return parts.finish(width, layers)


class Parts:
    """Nodes and initializers of a gate under construction."""

    def __init__(self, onnx: Any, nodes: list[Any], initializers: list[Any]) -> None:
        self.onnx, self.nodes, self.initializers = onnx, nodes, initializers

    @classmethod
    def new(cls) -> Parts:
        return cls(need_onnx(), [], [])

    @classmethod
    def of(cls, onnx: Any, model: Any) -> Parts:
        return cls(onnx, list(model.graph.node), list(model.graph.initializer))

    def names(self) -> set[str]:
        return {t.name for t in self.initializers} | {name for node in self.nodes for name in node.output}

    def fresh(self, stem: str) -> str:
        taken = {name.split(".")[0] for name in self.names()}
        return next(f"{stem}{i}" for i in range(len(taken) + 1) if f"{stem}{i}" not in taken)

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        # np.ascontiguousarray would make a scalar one-dimensional.
        self.initializers.append(self.onnx.numpy_helper.from_array(np.array(value, order="C"), name))
        return name

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(self.onnx.helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def per_block(self, name: str, values: Sequence[npt.NDArray[Any]], layers: Sequence[int]) -> str:
        """A constant if all blocks have the same value, else the block's row of a table."""
        if all(np.array_equal(value, values[0]) for value in values):
            return self.constant(name, values[0])
        table = self.constant(f"{name}.table", np.stack(values))
        return self.node("Gather", [table, self._row(layers)], name)

    def _row(self, layers: Sequence[int]) -> str:
        if "row" not in self.names():
            self.node("Gather", [self.constant("row_of_layer", row_of_layer(layers)), "layer"], "row")
        return "row"

    def select(self, before: Sequence[int], after: Sequence[int]) -> None:
        """Keep only the rows of the blocks `after`."""
        if list(before) == list(after):
            return
        tables = {node.input[0] for node in self.nodes if node.op_type == "Gather" and node.input[1] == "row"}
        rows = [list(before).index(n) for n in after]
        lookup = row_of_layer(after)
        for i, tensor in enumerate(self.initializers):
            value = self.onnx.numpy_helper.to_array(tensor)
            if tensor.name in tables or tensor.name == "row_of_layer":
                chosen = value[rows] if tensor.name in tables else lookup
                self.initializers[i] = self.onnx.numpy_helper.from_array(
                    np.array(chosen, order="C"), tensor.name
                )

    def finish(self, n_embd: int, layers: Sequence[int]) -> bytes:
        return finished(self.onnx, self.nodes, self.initializers, n_embd, layers, _NO_DIGEST)
