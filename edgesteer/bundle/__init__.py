"""Read, write, verify a steering bundle (format `edgesteer/1`), and tell which model it fits.

    path  --load-->  Bundle  --save, save_directory-->  path
    arrays and metadata  --Bundle.build-->  Bundle
    model GGUF  --read_model_info-->  ModelInfo  --check_model-->  fits or not

Importing this room loads neither an inference runtime nor the onnx package.
"""

from edgesteer.bundle.blocks import spans
from edgesteer.bundle.bundle import Bundle
from edgesteer.bundle.card import render_card
from edgesteer.bundle.directions import encode_directions
from edgesteer.bundle.fingerprint import read_model_info
from edgesteer.bundle.fit import check_model, check_together
from edgesteer.bundle.gate import (
    GateWeights,
    build_gate,
    check_gate,
    gate_weights_gguf,
    probe_gate,
    read_gate_gguf,
)
from edgesteer.bundle.manifest import ModelInfo, StrengthRange
from edgesteer.bundle.store import load, save, save_directory
from edgesteer.bundle.verify import verify

__all__ = [
    "Bundle",
    "GateWeights",
    "ModelInfo",
    "StrengthRange",
    "build_gate",
    "check_gate",
    "check_model",
    "check_together",
    "encode_directions",
    "gate_weights_gguf",
    "load",
    "probe_gate",
    "read_gate_gguf",
    "read_model_info",
    "render_card",
    "save",
    "save_directory",
    "spans",
    "verify",
]
