"""directions.gguf: a control vector as stock llama.cpp loads it, one F32 row per steered block.

Reads the files of repeng and of llama.cpp's cvector-generator too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgesteer.bundle import gguf
from edgesteer.bundle.refusal import refusal

_NAME = re.compile(r"direction\.([1-9][0-9]{0,8})", re.ASCII)
_REMEDY = "export the control vector again"

Directions = dict[int, npt.NDArray[np.float32]]


def encode_directions(directions: Mapping[int, npt.NDArray[np.float32]], architecture: str) -> bytes:
    """The bytes of directions.gguf; the same for the same arrays.

    Args:
        directions: block N (at least 1) -> float32 [n_embd], added to the residual stream after block N.
        architecture: the model's `general.architecture`.
    """
    keys: dict[str, str | int] = {
        "general.architecture": "controlvector",
        "controlvector.model_hint": architecture,
        "controlvector.layer_count": max(directions),
    }
    return gguf.encode(keys, [(f"direction.{n}", directions[n]) for n in sorted(directions)])


def decode_directions(data: bytes, where: str) -> tuple[Directions, str | None]:
    """Block -> read-only float32 [n_embd], ascending, and `controlvector.model_hint` if there is one.

    Raises:
        BundleError: damaged, not a control vector, or a direction of the wrong name, block, type, rank or
            width, or with NaN or infinity.
    """
    try:
        file = gguf.parse(data)
        architecture = file.keys.get("general.architecture")
        if architecture != "controlvector":
            raise refusal(
                where, f"general.architecture = {architecture!r}", "'controlvector'", "give a control vector"
            )
        found = {_block(tensor, where): tensor for tensor in file.tensors}
        file.check_layout()
    except gguf.GgufError as error:
        raise refusal(where, str(error), "a control-vector GGUF") from None
    if not found:
        raise refusal(where, "no tensors", "at least one direction.N", _REMEDY)
    width = next(iter(found.values())).shape[0]
    directions = {n: _direction(file, found[n], width, where) for n in sorted(found)}
    hint = file.keys.get("controlvector.model_hint")
    return directions, hint if isinstance(hint, str) and hint else None


def _block(tensor: gguf.Tensor, where: str) -> int:
    match = _NAME.fullmatch(tensor.name)
    if match is None:
        raise refusal(
            where, f"tensor '{tensor.name}'", "direction.N with N from 1, without sign or zeros", _REMEDY
        )
    if tensor.type != gguf.F32:
        raise refusal(where, f"{tensor.name} of GGML type {tensor.type}", "F32 (type 0)", _REMEDY)
    if len(tensor.shape) != 1:
        raise refusal(
            where, f"{tensor.name} of shape {list(tensor.shape)}", "one dimension [n_embd]", _REMEDY
        )
    return int(match[1])


def _direction(file: gguf.Gguf, tensor: gguf.Tensor, width: int, where: str) -> npt.NDArray[np.float32]:
    if tensor.shape != (width,) or width == 0:
        raise refusal(where, f"{tensor.name} of width {tensor.shape[0]}", f"one width > 0 ({width})", _REMEDY)
    values = file.array(tensor)
    if not np.isfinite(values).all():
        raise refusal(where, f"NaN or infinity in {tensor.name}", "finite numbers", "train the bundle again")
    return values
