"""Knows the persona vectors of safety-research/persona_vectors: `TRAIT_response_avg_diff.pt` and its siblings.

In:  the path of one .pt. Out: an Artifact; or BundleError.

The file is one tensor [n_layer + 1, n_embd], differences of Hugging Face's `hidden_states`: row 0 is the
embeddings, row N + 1 the output of block N; the last row was taken after the model's final norm. The producer
steers one block at a time, with a coefficient: choose one block, or a small strength for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgesteer.bundle import ModelInfo
from edgesteer.bundle.refusal import refusal
from edgesteer_converters import tensors
from edgesteer_converters.artifact import F32, Artifact, Choice
from edgesteer_converters.vectors.placing import Source, one_file, place

SUFFIXES = (".pt", ".pth", ".bin")
_ENDINGS = ("_response_avg_diff", "_prompt_avg_diff", "_prompt_last_diff")


def recognises(path: Path) -> bool:
    """One stack of vectors, under one of the three names that the producer gives."""
    if path.suffix.lower() not in SUFFIXES or not path.stem.endswith(_ENDINGS):
        return False
    arrays = tensors.read_tensors(path)
    return list(arrays) == [""] and arrays[""].ndim == 2


def read(paths: Sequence[Path], model: ModelInfo, choice: Choice) -> Artifact:
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
