"""Knows the vectors of the package steering-vectors (steering-vectors/steering-vectors).

In:  the path of a .pt that holds {"layer_activations": {layer: tensor}, "layer_type": "decoder_block"}. Out: an
     Artifact; or BundleError.

Layer N is the output of block N counted from 0, where the package reads and where it adds. The package has no
file format of its own: its SteeringVector, saved as the object that it is, is a pickle that runs code and is
refused. It trains on all blocks by default, so a vector of block 0 is dropped, and the facts say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgesteer.bundle import ModelInfo
from edgesteer.bundle.refusal import refusal
from edgesteer_converters import tensors
from edgesteer_converters.artifact import Artifact, Choice
from edgesteer_converters.vectors.placing import Source, numbered, one_file, place

SUFFIXES = (".pt", ".pth", ".bin")
_PREFIX, _TYPE = "layer_activations.", "decoder_block"


def recognises(path: Path) -> bool:
    """A dict of `layer_activations`."""
    if path.suffix.lower() not in SUFFIXES:
        return False
    return all(name.startswith(_PREFIX) for name in tensors.read_tensors(path))


def read(paths: Sequence[Path], model: ModelInfo, choice: Choice) -> Artifact:
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
    return place(numbered(file.tensors, _PREFIX, str(path)), source, model, choice)
