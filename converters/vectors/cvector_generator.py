"""Knows what llama.cpp's `llama-cvector-generator` writes.

In:  the path of its GGUF. Out: an Artifact; or BundleError.

Its first capture, `l_out-0`, is the output of block 0, and it names that `direction.1`: `direction.N` was learned
at block N-1, and so it is placed here. (llama.cpp itself adds it after block N; give the GGUF itself to `--steer`
for that.) It captures every block but the last, so there is always one for block 0: it is dropped, and the facts
say so. Directions have unit norm; of those by PCA, its default, the sign is arbitrary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgesteer.bundle import ModelInfo
from edgesteer_converters.artifact import Artifact, Choice
from edgesteer_converters.vectors.control_vector import SUFFIXES, read_control_vector
from edgesteer_converters.vectors.placing import Source, one_file, place

_BASE = "direction.N is block N-1: shifted by one"
_NOTES = (
    "llama.cpp adds direction.N after block N, one block later than it was learned",
    "by PCA the sign is arbitrary: try a negative strength too",
)


def recognises(path: Path) -> bool:
    """A layer count that is an i32, as llama.cpp's own writer makes it, and directions from 1 up to it."""
    if path.suffix.lower() not in SUFFIXES:
        return False
    file = read_control_vector(path)
    expected = list(range(1, len(file.directions) + 1))
    counted = file.plain_keys and file.signed_count and file.layer_count == len(expected)
    return counted and list(file.directions) == expected


def read(paths: Sequence[Path], model: ModelInfo, choice: Choice) -> Artifact:
    """The Artifact of one GGUF; `choice` counts blocks as the runtime does, after the shift.

    Raises:
        BundleError: not such a file, or its directions do not fit the model.
    """
    path = one_file(paths, "cvector-generator")
    file = read_control_vector(path)
    source = Source(
        "cvector-generator",
        str(path),
        _BASE,
        "block_output",
        [(path, file.sha256)],
        ["float32"],
        block_0="direction.1 was learned at the output of block 0, which has no slot",
        notes=_NOTES,
    )
    return place({n - 1: vector for n, vector in file.directions.items()}, source, model, choice)


__all__ = ["SUFFIXES", "read", "recognises"]
