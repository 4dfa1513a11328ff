"""Recognise chains of ReLU layers, the only form that the native engine and gate.gguf can hold.

In:  a BlockGraph.
Out: its layers [(W [n_in, k], b [k]), ...], each relu(x W + b), or None for any other graph.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgesteer.bundle import GateWeights
from edgesteer_converters.extras import need_torch
from edgesteer_converters.networks.block_graph import INPUT, BlockGraph, Node

F32 = npt.NDArray[np.float32]


def relu_chain(graph: BlockGraph) -> list[tuple[F32, F32]] | None:
    """The layers, or None unless the graph is a chain of relu(x W + b) that ends in width 1."""
    layers: list[tuple[F32, F32]] = []
    signal, pending = INPUT, None  # pending: an affine map whose ReLU has not come yet
    for node in graph.nodes:
        others = [name for name in node.inputs if name != signal]
        # Neither z + z, which has no constant, nor x W + x is such a layer.
        if node.inputs.count(signal) != 1 or any(name not in graph.constants for name in others):
            return None
        step = _step(node, signal, pending, layers, [graph.constants[name] for name in others])
        if step is None:
            return None
        pending, layers = step
        signal = node.output
    ends = pending is None and layers and layers[-1][0].shape[1] == 1 and signal == graph.output
    return layers if ends else None


_Affine = tuple[F32, F32]
_Step = tuple[_Affine | None, list[_Affine]]


def _step(
    node: Node, signal: str, pending: _Affine | None, layers: list[_Affine], constants: list[Any]
) -> _Step | None:
    first = node.inputs[0] == signal
    if node.operator in ("Gemm", "MatMul") and pending is None and first:
        affine = _affine(node, constants)
        return (affine, layers) if affine else None
    if node.operator == "Add" and pending is not None:
        bias = constants[0]
        fits = bias.size in (1, pending[1].size) and bias.ndim <= 1 and bias.dtype == np.float32
        return ((pending[0], (pending[1] + bias).astype(np.float32)), layers) if fits else None
    if node.operator == "Relu" and pending is not None:
        return None, [*layers, pending]
    width = (pending or (layers[-1] if layers else None) or (np.empty((0, 0)),))[0].shape[1]
    return (pending, layers) if width == 1 and _only_moves(node, constants) else None


def _affine(node: Node, constants: list[Any]) -> _Affine | None:
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    if any(node.attributes.get(key, value) != value for key, value in plain.items()):
        return None
    weight = constants[0].T if node.attributes.get("transB", 0) else constants[0]
    weight = weight[:, None] if weight.ndim == 1 else weight
    if weight.ndim != 2 or weight.dtype != np.float32:
        return None
    bias = constants[1] if len(constants) > 1 else np.zeros(weight.shape[1], np.float32)
    if bias.size not in (1, weight.shape[1]) or bias.ndim > 1:
        return None
    return np.ascontiguousarray(weight), np.broadcast_to(bias, weight.shape[1]).astype(np.float32)


def _only_moves(node: Node, constants: list[Any]) -> bool:
    """Whether the node only reshapes one number per token, such as [tokens, 1] to [tokens]."""
    if not constants:
        return False
    if node.operator == "Gather":
        return node.attributes.get("axis", 0) == 1 and constants[0].ravel().tolist() in ([0], [-1])
    if node.operator == "Reshape":
        return constants[0].tolist() in ([-1], [-1, 1])
    return node.operator in ("Squeeze", "Unsqueeze") and constants[0].tolist() in ([1], [-1])


def as_modules(weights: GateWeights) -> dict[int, Any]:
    """Block -> the same layers as an nn.Module, activation [tokens, n_embd] -> coefficient [tokens, 1]."""
    torch = need_torch("compare a gate with Torch")
    modules = {}
    for block, layers in weights.items():
        parts: list[Any] = []
        for weight, bias in layers:
            linear = torch.nn.Linear(*weight.shape)
            linear.load_state_dict({"weight": torch.tensor(weight.T), "bias": torch.tensor(bias)})
            parts += [linear, torch.nn.ReLU()]
        modules[block] = torch.nn.Sequential(*parts)
    return modules
