"""A gate's weights: a ReLU network per steered block, in memory, evaluated with NumPy, and as gate.gguf.

Shapes in the file are in GGUF's order: in `[n_embd, k]` the n_embd weights of a unit are contiguous, as
`ggml_mul_mat` wants them. In NumPy's order that is the transpose of W [n_embd, k].
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from edgesteer.bundle import gguf
from edgesteer.bundle.refusal import refusal
from edgesteer.errors import BundleError

F32 = npt.NDArray[np.float32]
Layer = tuple[F32, F32]
"""W [n_in, k] and b [k] of relu(x W + b)."""

GateWeights = Mapping[int, Sequence[Layer]]
"""Block -> its layers, in order; the last has k = 1 and gives the coefficient. All float32."""

_NAME = re.compile(r"gate\.([1-9][0-9]*)\.(0|[1-9][0-9]*)\.(weight|bias)")
_REMEDY = "write it with gate_weights_gguf"
_FIX = "correct the network"
_REBUILD = "build the gate again with edgesteer"


def evaluate_gate(layers: Sequence[Layer], activation: F32) -> F32:
    """The coefficients float32 [rows] of one block's network for activations float32 [rows, n_embd]."""
    signal = activation
    for weight, bias in layers:
        signal = np.maximum(signal @ weight + bias, np.float32(0))
    return signal[:, 0]


def check_weights(weights: GateWeights) -> dict[int, list[tuple[int, int]]]:
    """Block -> [(n_in, k), ...] of well-formed weights.

    Raises:
        BundleError: no block, no layer, shapes that do not chain or end in width 1, NaN or infinity.
    """
    shapes = {n: [_shape(n, w, b) for w, b in layers] for n, layers in weights.items()}
    for n, chain in shapes.items():
        links = all(left[1] == right[0] for left, right in pairwise(chain))
        if not chain or not links or chain[-1][1] != 1:
            raise refusal("gate", f"layers {chain} at block {n}", "a chain ending in width 1", _FIX)
    if not shapes or len({chain[0][0] for chain in shapes.values()}) != 1:
        raise refusal("gate", "no blocks or several input widths", "one n_embd", _FIX)
    return shapes


def _shape(block: int, weight: F32, bias: F32) -> tuple[int, int]:
    if weight.ndim != 2 or weight.size == 0 or bias.shape != weight.shape[1:]:
        found = f"W {weight.shape}, b {bias.shape} at block {block}"
        raise refusal("gate", found, "W [n_in, k], b [k]", _FIX)
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise refusal("gate", f"NaN or infinity at block {block}", "finite weights", "train again")
    return int(weight.shape[0]), int(weight.shape[1])


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
) -> dict[int, list[Layer]]:
    """Block -> [(W [n_in, k], b [k]), ...], read-only float32; every layer is relu(x W + b).

    Args:
        data: the file's bytes.
        layers: the steered blocks, ascending; the file must have these and no others.
        n_embd: the input width of each block's first layer.
    Raises:
        BundleError: the file is damaged, or holds anything else.
    """
    try:
        file = gguf.parse(data)
        file.check_layout()
        found = _by_block(file, where)
        weights = {n: _chain(file, n, found[n], n_embd, where) for n in sorted(found)}
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


def _by_block(file: gguf.Gguf, where: str) -> dict[int, _Parts]:
    blocks: dict[int, _Parts] = {}
    for tensor in file.tensors:
        match = _NAME.fullmatch(tensor.name)
        if match is None:
            raise refusal(where, f"tensor '{tensor.name}'", "gate.N.I.weight and gate.N.I.bias only", _REMEDY)
        blocks.setdefault(int(match[1]), {})[int(match[2]), match[3]] = tensor
    return blocks


def _chain(file: gguf.Gguf, n: int, parts: _Parts, n_embd: int, where: str) -> list[Layer]:
    depth, width, chain = len(parts) // 2, n_embd, []
    for i in range(depth):
        pair = parts.get((i, "weight")), parts.get((i, "bias"))
        if pair[0] is None or pair[1] is None:
            break
        # GGUF tools drop trailing dimensions of 1, so a single unit may come as [n_in].
        shape = (*pair[0].shape, 1) if len(pair[0].shape) == 1 else pair[0].shape
        if len(shape) != 2 or shape[0] != width or pair[1].shape != (shape[1],):
            found = f"{pair[0].name} {list(shape)}, bias {list(pair[1].shape)}"
            raise refusal(where, found, f"[{width}, k], [k]", _REMEDY)
        chain.append((file.array(pair[0]).reshape(shape[1], width).T, file.array(pair[1])))
        width = shape[1]
    if len(chain) * 2 != len(parts):
        expected = "weight and bias of layers 0, 1, ..."
        raise refusal(where, f"gaps among the tensors of block {n}", expected, _REMEDY)
    return chain


def probe_gate(
    run: Callable[[F32, int], F32],
    layers: Sequence[int],
    n_embd: int,
    where: str = "gate.onnx",
) -> None:
    """Run the gate on a few activations at every block; refuse NaN, infinity and wrong shapes.

    Args:
        run: `run(activation [tokens, n_embd], block) -> coefficient [tokens]`, both float32.
        layers: the steered blocks.
        n_embd: width of the residual stream.
    Raises:
        BundleError: a coefficient is not finite, or the result is not float32 [tokens].
    """
    noise = np.random.default_rng(0).standard_normal((2, n_embd), dtype=np.float32)
    batch = np.concatenate([np.zeros((1, n_embd), np.float32), np.ones((1, n_embd), np.float32), noise])
    for layer in layers:
        for rows in (batch, batch[-1:]):
            got = np.asarray(run(rows, layer))
            if got.shape != (len(rows),) or got.dtype != np.float32:
                raise refusal(
                    where, f"{got.dtype} {got.shape} at block {layer}", f"float32 ({len(rows)},)", _REBUILD
                )
            if not np.isfinite(got).all():
                raise refusal(where, f"NaN or infinity at block {layer}", "finite coefficients", _REBUILD)
