"""What the tests of control vectors share: a model's facts, a GGUF written by hand, refusals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from edgesteer.bundle import ModelInfo
from edgesteer_converters.artifact import Artifact, Choice
from edgesteer_converters.readers import PRODUCERS

FIXTURES = Path(__file__).parent / "fixtures"
N_EMBD, N_LAYER = 16, 4
MODEL = ModelInfo("llama", "Tiny", N_EMBD, N_LAYER, "F32")


def read(producer: str, *paths: Path, model: ModelInfo = MODEL, **choice: Any) -> Artifact:
    return PRODUCERS[producer].read(paths, model, Choice(**choice))


def rows(blocks: Sequence[int], width: int = N_EMBD, seed: int = 0) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {n: rng.standard_normal(width, dtype=np.float32) for n in blocks}


def same(found: Mapping[int, np.ndarray], wanted: Mapping[int, np.ndarray]) -> None:
    """Equal blocks, in ascending order, and equal bits."""
    assert list(found) == sorted(wanted)
    for n, array in wanted.items():
        assert found[n].dtype == np.float32
        assert found[n].tobytes() == array.tobytes()


def write_gguf(
    path: Path, tensors: Mapping[Any, np.ndarray], count: int, signed: bool = False, **keys: str
) -> Path:
    """As the gguf package writes it for repeng and jukofyork (u32 count) or llama.cpp (i32), in this
    order."""
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    (writer.add_int32 if signed else writer.add_uint32)("controlvector.layer_count", count)
    for key, value in keys.items():
        writer.add_string(key, value)
    for n, row in tensors.items():
        writer.add_tensor(f"direction.{n}", row)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
