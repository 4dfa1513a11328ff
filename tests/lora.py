"""Small random LoRA adapters for the tests; the same arguments give the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np


def write_lora(
    path: Path,
    model: Path,
    *,
    rank: int = 2,
    scale: float = 0.5,
    seed: int = 0,
    without: str = "",
    extra: dict[str, np.ndarray] | None = None,
    **keys: Any,
) -> Path:
    """Write an adapter for the queries and values of every block. scale 0: B is zero, and changes nothing.

    without: a suffix of tensors to leave out. extra: more tensors. keys: arch, kind, adapter, alpha (None: no
    key), data_sets.
    """
    reader = gguf.GGUFReader(model)
    writer = gguf.GGUFWriter(path, keys.get("arch") or reader.fields["general.architecture"].contents())
    writer.add_string("general.type", keys.get("kind", "adapter"))
    writer.add_string("adapter.type", keys.get("adapter", "lora"))
    alpha = keys.get("alpha", 4.0)
    if isinstance(alpha, str):
        writer.add_string("adapter.lora.alpha", alpha)
    elif alpha is not None:
        writer.add_float32("adapter.lora.alpha", alpha)
    for i, name in enumerate(keys.get("data_sets", ())):
        writer.add_string(f"general.dataset.{i}.name", name)
    for name, array in {**_tensors(reader, rank, scale, seed), **(extra or {})}.items():
        if not without or not name.endswith(without):
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(reader: gguf.GGUFReader, rank: int, scale: float, seed: int) -> dict[str, np.ndarray]:
    rng, out = np.random.default_rng(seed), {}
    for tensor in reader.tensors:
        if tensor.name.endswith(("attn_q.weight", "attn_v.weight")):
            n_in, n_out = (int(n) for n in tensor.shape)
            a = rng.standard_normal((rank, n_in), dtype=np.float32)
            b = rng.standard_normal((n_out, rank), dtype=np.float32)
            out[f"{tensor.name}.lora_a"] = a / np.float32(n_in**0.5)
            out[f"{tensor.name}.lora_b"] = b * np.float32(scale)
    return out
