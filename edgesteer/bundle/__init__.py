"""Read, write and verify a steering bundle (format `edgesteer/1`), and check which model it fits.

    path  --load-->  Bundle  --save, save_directory-->  path
    arrays and metadata  --Bundle.build-->  Bundle
    model GGUF  --read_model_info-->  ModelInfo  --check_model-->  fits or not

Importing this package loads neither an inference runtime nor the onnx package.
"""

from edgesteer.bundle.bundle import Bundle
from edgesteer.bundle.card import render_card
from edgesteer.bundle.directions import encode_directions
from edgesteer.bundle.gate import GateWeights, evaluate_gate, gate_weights_gguf, probe_gate, read_gate_gguf
from edgesteer.bundle.manifest import ModelInfo, StrengthRange
from edgesteer.bundle.model import check_model, check_together, read_model_info
from edgesteer.bundle.onnx_rules import check_gate
from edgesteer.bundle.onnx_write import build_gate, fold_layer
from edgesteer.bundle.refusal import spans
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
    "evaluate_gate",
    "fold_layer",
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
