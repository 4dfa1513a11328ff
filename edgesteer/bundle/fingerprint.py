"""Knows what identifies a model: the facts in its GGUF, and a hash of its base weights.

In: the path of a model GGUF; out: a ModelInfo. Only the header and the norms are read, through a memory map.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from pathlib import Path

from edgesteer.bundle import gguf
from edgesteer.bundle.manifest import ModelInfo
from edgesteer.bundle.refusal import one_line
from edgesteer.errors import ModelError

# general.file_type, llama.cpp's enum llama_ftype; holes are formats that were withdrawn.
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
    12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K",
    19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL",
    26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16",
    36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE",
}  # fmt: skip


def read_model_info(path: str | os.PathLike[str]) -> ModelInfo:
    """The facts of a model GGUF that a bundle records.

    Raises:
        ModelError: it is missing, damaged, or says too little of itself.
    """
    try:
        with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            parsed = gguf.parse(data)
            return _info(parsed, path)
    except (OSError, ValueError) as error:
        found = getattr(error, "strerror", None) or str(error)
        raise ModelError(f"{path}: found {one_line(found)}; expected a model GGUF; fetch it again") from None


def _info(file: gguf.Gguf, path: str | os.PathLike[str]) -> ModelInfo:
    architecture = file.keys.get("general.architecture")
    n_embd = file.keys.get(f"{architecture}.embedding_length")
    n_layer = file.keys.get(f"{architecture}.block_count")
    if not isinstance(architecture, str) or not isinstance(n_embd, int) or not isinstance(n_layer, int):
        raise gguf.GgufError(f"architecture {architecture!r} without embedding_length or block_count")
    if n_embd < 1 or n_layer < 1:
        raise gguf.GgufError(f"embedding_length {n_embd} and block_count {n_layer}")
    file_type = file.keys.get("general.file_type")
    return ModelInfo(
        architecture=architecture,
        name=str(file.keys.get("general.name") or Path(path).stem),
        n_embd=n_embd,
        n_layer=n_layer,
        file_type=_FILE_TYPES.get(file_type, f"type {file_type}")
        if isinstance(file_type, int)
        else "unknown",
        base_sha256=base_sha256(file),
    )


def base_sha256(file: gguf.Gguf) -> str | None:
    """SHA-256 over the norms, which neither quantizers nor merged LoRAs change; None where there are none.

    Of a model split over several files one file has only some of the norms: such a file has none to tell.
    """
    norms = [
        t for t in file.tensors if t.name.endswith("norm.weight") and t.type == gguf.F32 and len(t.shape) == 1
    ]
    if not norms or file.keys.get("split.count", 0) not in (0, 1):
        return None
    digest = hashlib.sha256()
    for tensor in sorted(norms, key=lambda t: t.name.encode()):
        digest.update(tensor.name.encode() + b"\0" + file.array(tensor).tobytes())
    return digest.hexdigest()
