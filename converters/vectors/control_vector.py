"""Knows the control-vector GGUF as its writers write it: what N stands for is left to the producers' modules.

In:  a path. Out: N -> vector, and the traits by which writers differ; or BundleError.
"""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from edgesteer.bundle import gguf
from edgesteer.bundle.refusal import refusal
from edgesteer_converters.artifact import F32
from edgesteer_converters.tensors import read_bytes

_NAME = re.compile(r"direction\.(-?(?:0|[1-9][0-9]{0,8}))", re.ASCII)
_COUNT = "controlvector.layer_count"
_KEYS = {"general.architecture", "controlvector.model_hint", _COUNT}
_INT32 = 5
SUFFIXES = (".gguf",)


@dataclass(frozen=True, slots=True, eq=False)
class ControlVectorFile:
    """A control-vector GGUF.

    directions: N as named -> float32, in the file's order. layer_count: None if the key is missing.
    signed_count: the key is an i32, as llama.cpp's own writer makes it; the gguf package makes a u32.
    plain_keys: no keys but those three that repeng and llama.cpp write.
    """

    path: Path
    directions: dict[int, F32]
    model_hint: str | None
    layer_count: int | None
    signed_count: bool
    plain_keys: bool
    sha256: str


def read_control_vector(path: Path) -> ControlVectorFile:
    """The directions of a GGUF, under the numbers that it gives them.

    Raises:
        BundleError: damaged, not a control vector, or a tensor that is no F32 `direction.N`.
    """
    data, where = read_bytes(path), str(path)
    try:
        file = gguf.parse(data)
        kind = file.keys.get("general.architecture")
        if kind != "controlvector":
            expected = "'controlvector'"
            raise refusal(where, f"general.architecture = {kind!r}", expected, "give a control vector")
        file.check_layout()
        directions = {_number(tensor.name, where): _values(file, tensor) for tensor in file.tensors}
    except gguf.GgufError as error:
        raise refusal(where, str(error), "a control-vector GGUF of F32 tensors") from None
    if not directions:
        raise refusal(where, "no tensors", "at least one direction.N", "export the vector again")
    hint, count = file.keys.get("controlvector.model_hint"), file.keys.get(_COUNT)
    return ControlVectorFile(
        path,
        directions,
        hint if isinstance(hint, str) else None,
        count if isinstance(count, int) else None,
        _is_signed(data),
        set(file.keys) == _KEYS,
        hashlib.sha256(data).hexdigest(),
    )


def _number(name: str, where: str) -> int:
    match = _NAME.fullmatch(name)
    if match is None:
        raise refusal(where, f"tensor '{name}'", "direction.N alone", "export the vector again")
    return int(match[1])


def _values(file: gguf.Gguf, tensor: gguf.Tensor) -> F32:
    return file.array(tensor).reshape(tensor.shape[::-1])


def _is_signed(data: bytes) -> bool:
    """Whether the layer count is an i32; the parser gives values without their types."""
    key = _COUNT.encode()
    at = data.find(struct.pack("<Q", len(key)) + key)
    return at >= 0 and data[at + 8 + len(key) :][:4] == struct.pack("<I", _INT32)
