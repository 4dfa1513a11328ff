"""Knows gate.gguf: the gate's weights for hosts without ONNX Runtime.

In: per block the layers of a ReLU network, or the bytes of a file. Out: the bytes, or the layers.
Shapes in the file are in GGUF's order, so `[n_embd, k]` has the n_embd weights of one unit side by side: what
`ggml_mul_mat` takes as it is. As a NumPy array in memory that is the transpose of W [n_embd, k].
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgesteer.bundle import gguf
from edgesteer.bundle.gate_build import GateWeights, check_weights
from edgesteer.bundle.refusal import refusal
from edgesteer.errors import BundleError

_NAME = re.compile(r"gate\.([1-9][0-9]*)\.(0|[1-9][0-9]*)\.(weight|bias)")
_REMEDY = "write it with gate_weights_gguf"

Pair = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


def gate_weights_gguf(weights: GateWeights) -> bytes:
    """The gate.gguf of a ReLU network per steered block; the same bytes for the same weights.

    Raises:
        BundleError: the shapes do not chain or do not end in width 1.
    """
    check_weights(weights)
    tensors = []
    for n in sorted(weights):
        for depth, (weight, bias) in enumerate(weights[n]):
            tensors.append((f"gate.{n}.{depth}.weight", np.asarray(weight, np.float32).T))
            tensors.append((f"gate.{n}.{depth}.bias", np.asarray(bias, np.float32)))
    return gguf.encode({"edgesteer.gate.activation": "relu"}, tensors)


def read_gate_gguf(
    data: bytes, layers: Sequence[int], n_embd: int, where: str = "gate.gguf"
) -> dict[int, list[Pair]]:
    """Block -> [(W [n_in, k], b [k]), ...], read-only float32; every layer is relu(x W + b).

    Args:
        data: the file's bytes.
        layers: the steered blocks, ascending; the file must have these and no others.
        n_embd: the input width of each block's first layer.
    Raises:
        BundleError: the file is damaged, or holds anything but that.
    """
    try:
        file = gguf.parse(data)
        file.check_layout()
        found = _by_block(file, where)
        weights = {n: _chain(found[n], n, n_embd, where) for n in sorted(found)}
    except gguf.GgufError as error:
        raise refusal(where, str(error), "a gate.gguf as edgesteer/1 describes it") from None
    activation = file.keys.get("edgesteer.gate.activation")
    if activation != "relu":
        raise refusal(where, f"edgesteer.gate.activation = {activation!r}", "'relu'", _REMEDY)
    if list(weights) != list(layers):
        raise refusal(where, f"blocks {list(weights)}", f"the manifest's layers {list(layers)}", _REMEDY)
    try:
        check_weights(weights)
    except BundleError as error:
        raise BundleError(f"{where}: {error}") from None
    return weights


_Parts = dict[tuple[int, str], gguf.Tensor]


def _by_block(file: gguf.Gguf, where: str) -> dict[int, tuple[gguf.Gguf, _Parts]]:
    blocks: dict[int, tuple[gguf.Gguf, _Parts]] = {}
    for tensor in file.tensors:
        match = _NAME.fullmatch(tensor.name)
        if match is None:
            raise refusal(where, f"tensor '{tensor.name}'", "gate.N.I.weight and gate.N.I.bias only", _REMEDY)
        _, parts = blocks.setdefault(int(match[1]), (file, {}))
        parts[int(match[2]), match[3]] = tensor
    return blocks


def _chain(block: tuple[gguf.Gguf, _Parts], n: int, n_embd: int, where: str) -> list[Pair]:
    file, parts = block
    depth, width, chain = len(parts) // 2, n_embd, []
    for i in range(depth):
        pair = parts.get((i, "weight")), parts.get((i, "bias"))
        if pair[0] is None or pair[1] is None:
            break
        # GGUF tools drop trailing dimensions of 1, so a single unit may come as [n_in].
        shape = (*pair[0].shape, 1) if len(pair[0].shape) == 1 else pair[0].shape
        if len(shape) != 2 or shape[0] != width or pair[1].shape != (shape[1],):
            raise refusal(
                where,
                f"{pair[0].name} {list(shape)}, bias {list(pair[1].shape)}",
                f"[{width}, k], [k]",
                _REMEDY,
            )
        chain.append((file.array(pair[0]).reshape(shape[1], width).T, file.array(pair[1])))
        width = shape[1]
    if len(chain) * 2 != len(parts):
        raise refusal(
            where, f"gaps among the tensors of block {n}", "weight and bias of layers 0, 1, ...", _REMEDY
        )
    return chain
