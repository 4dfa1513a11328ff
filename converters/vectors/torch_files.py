"""Vectors that Python packages train and save with Torch: repeng, persona_vectors, steering-vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgesteer.bundle import ModelInfo
from edgesteer.bundle.refusal import refusal
from edgesteer_converters import tensors
from edgesteer_converters.artifact import F32, Artifact, Choice
from edgesteer_converters.vectors.gguf_files import read_control_vector
from edgesteer_converters.vectors.placing import Producer, Source, numbered, one_file, place

TORCH = (".pt", ".pth", ".bin")

# repeng (vgel/repeng): a GGUF by `export_gguf`, or its `directions` in a .pt. Layer N is block N counted from
# 0: it is trained on `hidden_states[N + 1]` and added to the output of `model.layers[N]`, just as llama.cpp
# does with `direction.N`. Nothing is shifted. `train` counts from the end but writes numbers from 0, so a
# negative one comes from elsewhere and is refused. Block 0 is trained only by choice, so it is not dropped
# silently. `hidden_states[-1]` comes after the model's final norm, so the last block's direction does too.
# Each direction has unit norm until someone scales it.
_DIRECTIONS = "directions."


def _is_repeng(path: Path) -> bool:
    """Whether it is a dict of `model_type` and `directions`, or a GGUF that begins with the last block."""
    if path.suffix.lower() == ".gguf":
        file = read_control_vector(path)
        order = list(file.directions)
        counted = file.plain_keys and not file.signed_count and file.layer_count == len(order)
        return counted and len(order) > 1 and order == sorted(order, reverse=True)
    if path.suffix.lower() not in (*TORCH, ".gguf"):
        return False
    saved = tensors.read_file(path)
    return "model_type" in saved.texts and all(name.startswith(_DIRECTIONS) for name in saved.tensors)


def _read_repeng(paths: Sequence[Path], model: ModelInfo, choice: Choice) -> Artifact:
    """The Artifact of one GGUF, or of a .pt that holds {"model_type", "directions"} or {layer: tensor}.

    Raises:
        BundleError: not such a file, or its directions do not fit the model.
    """
    path = one_file(paths, "repeng")
    directions, hint, dtypes, digest = (
        _repeng_gguf(path) if path.suffix.lower() == ".gguf" else _repeng_torch(path)
    )
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


def _repeng_gguf(path: Path) -> tuple[dict[int, F32], str | None, list[str], str]:
    file = read_control_vector(path)
    return dict(file.directions), file.model_hint, [np.dtype(np.float32).name], file.sha256


def _repeng_torch(path: Path) -> tuple[dict[int, F32], str | None, list[str], str]:
    file = tensors.read_file(path)
    nested = any(name.startswith(_DIRECTIONS) for name in file.tensors)
    directions = numbered(file.tensors, _DIRECTIONS if nested else "", str(path))
    return directions, file.texts.get("model_type"), list(file.dtypes.values()), file.sha256


# persona_vectors (safety-research/persona_vectors): `TRAIT_response_avg_diff.pt` and its siblings, one tensor
# [n_layer + 1, n_embd] of differences of Hugging Face's `hidden_states`: row 0 is the embeddings, row N + 1
# the output of block N; the last row was taken after the model's final norm. The producer steers one block at
# a time, with a coefficient: choose one block, or a small strength for all.
_ENDINGS = ("_response_avg_diff", "_prompt_avg_diff", "_prompt_last_diff")


def _is_persona_vectors(path: Path) -> bool:
    """Whether it is one stack of vectors, under one of the three names that the producer gives."""
    if path.suffix.lower() not in TORCH or not path.stem.endswith(_ENDINGS):
        return False
    arrays = tensors.read_tensors(path)
    return list(arrays) == [""] and arrays[""].ndim == 2


def _read_persona_vectors(paths: Sequence[Path], model: ModelInfo, choice: Choice) -> Artifact:
    """The Artifact of one tensor; `choice` counts blocks as the runtime does (its row, less one).

    Raises:
        BundleError: not such a file, or it does not fit the model.
    """
    path = one_file(paths, "persona_vectors")
    file = tensors.read_file(path)
    stack = _stack(file, model)
    vectors = {row - 1: stack[row] for row in range(1, len(stack))}
    source = Source(
        "persona_vectors",
        str(path),
        "row N+1 is block N, row 0 the embeddings",
        "block_output",
        [(path, file.sha256)],
        file.dtypes.values(),
        block_0="row 1 is the output of block 0, which has no slot",
        dropped=["row 0: the embeddings"],
        notes=["the producer steers one block at a time"],
        last_after_norm=True,
    )
    return place(vectors, source, model, choice)


def _stack(file: tensors.TensorFile, model: ModelInfo) -> F32:
    expected = f"one tensor [{model.n_layer + 1}, {model.n_embd}] (n_layer + 1, n_embd of '{model.name}')"
    shapes = [list(array.shape) for array in file.tensors.values()]
    if list(file.tensors) != [""] or shapes != [[model.n_layer + 1, model.n_embd]]:
        remedy = "give the vector's model; a single vector is read with --from plain"
        raise refusal(str(file.path), f"{len(shapes)} of shapes {shapes[:4]}", expected, remedy)
    return file.tensors[""]


# steering-vectors (steering-vectors/steering-vectors): a .pt of {"layer_activations": {layer: tensor},
# "layer_type": "decoder_block"}. Layer N is the output of block N counted from 0, where the package reads and
# where it adds. The package has no file format of its own: its SteeringVector, saved as the object that it
# is, is a pickle that runs code and is refused. It trains on all blocks by default, so a vector of block 0 is
# dropped, and the facts say so.
_ACTIVATIONS, _TYPE = "layer_activations.", "decoder_block"


def _is_steering_vectors(path: Path) -> bool:
    """Whether it is a dict of `layer_activations`."""
    if path.suffix.lower() not in TORCH:
        return False
    return all(name.startswith(_ACTIVATIONS) for name in tensors.read_tensors(path))


def _read_steering_vectors(paths: Sequence[Path], model: ModelInfo, choice: Choice) -> Artifact:
    """The Artifact of one .pt.

    Raises:
        BundleError: not such a file, of another layer type, or it does not fit the model.
    """
    path = one_file(paths, "steering-vectors")
    file = tensors.read_file(path)
    if (kind := file.texts.get("layer_type", _TYPE)) != _TYPE:
        remedy = f"train with layer_type='{_TYPE}'"
        raise refusal(str(path), f"layer_type '{kind}'", f"'{_TYPE}', the residual stream", remedy)
    source = Source(
        "steering-vectors",
        str(path),
        "layer N is block N",
        "block_output",
        [(path, file.sha256)],
        file.dtypes.values(),
        block_0="the package trains on all blocks, and block 0 has no slot",
    )
    return place(numbered(file.tensors, _ACTIVATIONS, str(path)), source, model, choice)


REPENG = Producer("repeng", (".gguf", *TORCH), _is_repeng, _read_repeng)
PERSONA_VECTORS = Producer("persona_vectors", TORCH, _is_persona_vectors, _read_persona_vectors)
STEERING_VECTORS = Producer("steering-vectors", TORCH, _is_steering_vectors, _read_steering_vectors)
