"""edgesteer: steer local, quantized language models on llama.cpp, exactly and reversibly.

    from edgesteer import SteeredLlama
    llm = SteeredLlama("model.gguf", n_ctx=2048)
    llm.steer("pirate.steer", strength=1.2)

Importing this loads neither torch, onnx, onnxruntime nor a server.
"""

from edgesteer.bundle import Bundle
from edgesteer.errors import (
    BundleError,
    EdgesteerError,
    EdgesteerWarning,
    IncompatibleError,
    LearnError,
    MissingExtra,
    ModelError,
    OutputError,
    PlanError,
    SteeringOverflow,
    SteeringUnavailable,
    TapError,
)
from edgesteer.plan import SteeringPlan
from edgesteer.runtime import SteeredLlama

__version__ = "0.1.0"

__all__ = [
    "Bundle",
    "BundleError",
    "EdgesteerError",
    "EdgesteerWarning",
    "IncompatibleError",
    "LearnError",
    "MissingExtra",
    "ModelError",
    "OutputError",
    "PlanError",
    "SteeredLlama",
    "SteeringOverflow",
    "SteeringPlan",
    "SteeringUnavailable",
    "TapError",
]
