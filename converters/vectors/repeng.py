"""Knows repeng's control vectors (vgel/repeng): a GGUF by `export_gguf`, or its `directions` in a .pt.

In:  a path. Out: an Artifact; or BundleError.

Layer N is block N counted from 0: it is trained on `hidden_states[N + 1]` and added to the output of
`model.layers[N]`, just as llama.cpp does with `direction.N`. Nothing is shifted. `train` counts from the end but
writes numbers from 0, so a negative one comes from elsewhere and is refused. Block 0 is trained only where
someone asked for it, so it is not dropped silently. `hidden_states[-1]` comes after the model's final norm, so the
last block's direction does too. Each direction has unit norm until someone scales it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgesteer.bundle import ModelInfo
from edgesteer_converters import tensors
from edgesteer_converters.artifact import F32, Artifact, Choice
from edgesteer_converters.vectors.control_vector import read_control_vector
from edgesteer_converters.vectors.placing import Source, numbered, one_file, place

SUFFIXES = (".gguf", ".pt", ".pth", ".bin")
_PREFIX = "directions."


def recognises(path: Path) -> bool:
    """A dict of `model_type` and `directions`; or a GGUF in the order that `train` leaves: the last block first."""
    if path.suffix.lower() == ".gguf":
        file = read_control_vector(path)
        order = list(file.directions)
        counted = file.plain_keys and not file.signed_count and file.layer_count == len(order)
        return counted and len(order) > 1 and order == sorted(order, reverse=True)
    if path.suffix.lower() not in SUFFIXES:
        return False
    found = tensors.read_file(path)
    return "model_type" in found.texts and all(name.startswith(_PREFIX) for name in found.tensors)


def read(paths: Sequence[Path], model: ModelInfo, choice: Choice) -> Artifact:
    """The Artifact of one GGUF, or of a .pt that holds {"model_type", "directions"} or {layer: tensor}.

    Raises:
        BundleError: not such a file, or its directions do not fit the model.
    """
    path = one_file(paths, "repeng")
    directions, hint, dtypes, digest = _gguf(path) if path.suffix.lower() == ".gguf" else _torch(path)
    notes = [f"model_type: {hint}"] if hint else []
    source = Source(
        "repeng",
        str(path),
        "layer N is block N",
        "block_output",
        [(path, digest)],
        dtypes,
        notes=notes,
        last_after_norm=True,
    )
    return place(directions, source, model, choice)


def _gguf(path: Path) -> tuple[dict[int, F32], str | None, list[str], str]:
    file = read_control_vector(path)
    return dict(file.directions), file.model_hint, [np.dtype(np.float32).name], file.sha256


def _torch(path: Path) -> tuple[dict[int, F32], str | None, list[str], str]:
    file = tensors.read_file(path)
    nested = any(name.startswith(_PREFIX) for name in file.tensors)
    directions = numbered(file.tensors, _PREFIX if nested else "", str(path))
    return directions, file.texts.get("model_type"), list(file.dtypes.values()), file.sha256
