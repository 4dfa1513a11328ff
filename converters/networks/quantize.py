"""Smaller gates: weights in float16 or int8, and the ORT format for mobile builds, with the loss they cause.

Only the matrices shrink. A call looks up the block's row first and widens only that. int8 is symmetric with
one scale per unit (column of W), which opset 17's DequantizeLinear can express.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from edgesteer.bundle import GateWeights, build_gate
from edgesteer.bundle.refusal import refusal
from edgesteer.bundle.verify import refused_graph
from edgesteer_converters.extras import need_onnx
from edgesteer_converters.parity import MAX_ABS, Parity, coefficients_of, require, same_coefficients

F32 = npt.NDArray[np.float32]
Kind = Literal["fp16", "int8"]
KINDS: tuple[Kind, ...] = ("fp16", "int8")


class Quantized(NamedTuple):
    """A smaller gate.onnx; `loss` compares its coefficients with those of the gate it was made of, or with
    Torch's where only the smaller one is known (bytes_before: None)."""

    gate: bytes
    kind: Kind
    bytes_before: int | None
    bytes_after: int
    loss: list[Parity]

    def __str__(self) -> str:
        worst, count = max(p.max_abs for p in self.loss), sum(p.n for p in self.loss)
        mean = sum(p.mean_abs * p.n for p in self.loss) / count
        before = "" if self.bytes_before is None else f"{self.bytes_before} -> "
        return (
            f"{self.kind}: {before}{self.bytes_after} bytes; coefficients differ by at most "
            f"{worst:.3g}, {mean:.3g} on average, over {count} tokens"
        )


def quantize(gate: GateWeights | bytes, kind: Kind, activations: Mapping[int, F32]) -> Quantized:
    """`gate` with its matrices in fewer bits.

    Args:
        gate: weights, or a gate.onnx; its metadata stays.
        activations: block -> float32 [rows, n_embd], to measure the loss on.
    Raises:
        BundleError: another kind, no activations, no matrix to shrink, or weights that float16 cannot hold.
        MissingExtra: onnx is not installed.
    """
    if kind not in KINDS:
        raise refusal("gate", f"quantization {kind!r}", f"one of {', '.join(KINDS)}", "choose one of them")
    before = gate if isinstance(gate, bytes) else build_gate(gate, "0" * 64)
    after = _shrunk(before, kind)
    loss = same_coefficients(coefficients_of(before), after, activations)
    return Quantized(after, kind, len(before), len(after), loss)


def kind_of(gate: bytes) -> Kind | None:
    """The kind of a gate that `quantize` made; None for a gate in float32."""
    onnx = need_onnx()
    types = {tensor.data_type for tensor in onnx.load_from_string(gate).graph.initializer}
    if onnx.TensorProto.INT8 in types:
        return "int8"
    return "fp16" if onnx.TensorProto.FLOAT16 in types else None


def _shrunk(gate: bytes, kind: Kind) -> bytes:
    onnx = need_onnx()
    model = onnx.load_from_string(gate)
    work = _Work(onnx, model.graph, kind)
    axes = work.matrices()
    if not axes:
        raise refusal(
            "gate", "no float32 matrix", "a gate with weights in float32", "it may be quantized already"
        )
    nodes = [
        new for name in axes if name in work.constants for new in work.widened(name, name, None, axes[name])
    ]
    for node in model.graph.node:
        table = work.table_of(node)
        name = node.output[0]
        nodes += work.widened(table, name, node.input[1], axes[name]) if table and name in axes else [node]
    kept = [t for t in model.graph.initializer if t.name not in work.replaced]
    for field, values in ((model.graph.node, nodes), (model.graph.initializer, kept + work.added)):
        copies = [type(v).FromString(v.SerializeToString()) for v in values]
        del field[:]
        field.extend(copies)
    encoded: bytes = model.SerializeToString(deterministic=True)
    return encoded


class _Work:
    """Finds the matrices of a gate and writes their smaller forms."""

    def __init__(self, onnx: Any, graph: Any, kind: Kind) -> None:
        self.onnx, self.graph, self.kind = onnx, graph, kind
        self.constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
        self.added: list[Any] = []
        self.replaced: set[str] = set()

    def table_of(self, node: Any) -> str | None:
        """The table from which this node takes a row; None for other nodes."""
        by_row = node.op_type == "Gather" and node.input[1] == "row" and node.input[0] in self.constants
        return node.input[0] if by_row else None

    def matrices(self) -> dict[str, int]:
        """Name of a value that is a block's matrix -> the axis of its units."""
        tables = {node.output[0]: self.table_of(node) for node in self.graph.node}
        out = {}
        for node in self.graph.node:
            if node.op_type not in ("Gemm", "MatMul"):
                continue
            turned = {a.name: a.i for a in node.attribute}
            axes = (int(bool(turned.get("transA", 0))), int(not turned.get("transB", 0)))
            for name, axis in zip(node.input[:2], axes, strict=True):
                table = tables.get(name)
                value = self.constants.get(table or name)
                rank = 0 if value is None else value.ndim - (table is not None)
                if value is not None and value.dtype == np.float32 and rank == 2:
                    out[name] = axis
        return out

    def widened(self, source: str, name: str, row: str | None, axis: int) -> list[Any]:
        """Nodes that make the float32 matrix `name` from a smaller form of the constant `source`."""
        value = self.constants[source]
        stacked = value if row is not None else value[None]
        self.replaced.add(source)
        nodes: list[Any] = []
        make = self.onnx.helper.make_node
        if self.kind == "fp16":
            small = self._taken(f"{name}.half", _half(stacked), row, nodes)
            nodes.append(make("Cast", [small], [name], to=int(self.onnx.TensorProto.FLOAT)))
            return nodes
        numbers, scales = _int8(stacked, axis)
        small = self._taken(f"{name}.int8", numbers, row, nodes)
        step = self._taken(f"{name}.step", scales, row, nodes)
        nodes.append(make("DequantizeLinear", [small, step], [name], axis=axis))
        return nodes

    def _taken(self, name: str, stacked: npt.NDArray[Any], row: str | None, nodes: list[Any]) -> str:
        if row is None:
            self.added.append(self.onnx.numpy_helper.from_array(np.array(stacked[0], order="C"), name))
            return name
        self.added.append(self.onnx.numpy_helper.from_array(np.array(stacked, order="C"), f"{name}.table"))
        nodes.append(self.onnx.helper.make_node("Gather", [f"{name}.table", row], [name]))
        return name


def _half(value: F32) -> npt.NDArray[np.float16]:
    if np.abs(value).max() > np.finfo(np.float16).max:
        raise refusal("gate", f"a weight of {np.abs(value).max():.3g}", "at most 65504 for fp16", "use int8")
    return value.astype(np.float16)


def _int8(stacked: F32, axis: int) -> tuple[npt.NDArray[np.int8], F32]:
    """Integers of the same shape [blocks, ...] and steps [blocks, units]: weight = integer * step."""
    largest = np.abs(stacked).max(axis=2 - axis, keepdims=True)
    steps = np.where(largest > 0, largest / np.float32(127), np.float32(1)).astype(np.float32)
    numbers = np.clip(np.rint(stacked / steps), -127, 127).astype(np.int8)
    return numbers, steps.reshape(len(stacked), -1)


def to_ort(gate: bytes, activations: Mapping[int, F32]) -> bytes:
    """gate.ort: the model in ONNX Runtime's own format, with optimizations that suit every processor.

    The bytes are not the same every time: ONNX Runtime 1.31 writes its list of kernels in any order.

    Raises:
        BundleError: ONNX Runtime refuses the gate, or its coefficients change by more than MAX_ABS.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.save_model_format", "ORT")
    with tempfile.TemporaryDirectory() as folder, refused_graph("gate.onnx"):
        path = Path(folder) / "gate.ort"
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(gate, options, providers=["CPUExecutionProvider"])
        data = path.read_bytes()
    require(same_coefficients(coefficients_of(gate), data, activations), "gate.ort", MAX_ABS)
    return data
