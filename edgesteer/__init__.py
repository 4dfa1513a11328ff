"""edgesteer: steer local, quantized language models on llama.cpp, exactly and reversibly.

    from edgesteer import SteeredLlama
    llm = SteeredLlama("model.gguf", n_ctx=2048)
    llm.steer("pirate.steer", strength=1.2)

Importing this loads neither torch, onnx, onnxruntime nor a server; llama_cpp is loaded when
SteeredLlama is first asked for, so that what only reads bundles starts at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgesteer.bundle import Bundle, load, save
from edgesteer.errors import (
    BundleError,
    EdgesteerError,
    EdgesteerWarning,
    IncompatibleError,
    InputError,
    LearnError,
    MissingExtra,
    ModelError,
    OutputError,
    PlanError,
    StateError,
    SteeringOverflow,
    SteeringUnavailable,
    TapError,
)
from edgesteer.plan import SteeringPlan
from edgesteer.steering_map import SteeringMap

if TYPE_CHECKING:
    from edgesteer.learn import learn
    from edgesteer.runtime import SteeredLlama

__version__ = "0.1.0"

__all__ = [
    "Bundle",
    "BundleError",
    "EdgesteerError",
    "EdgesteerWarning",
    "IncompatibleError",
    "InputError",
    "LearnError",
    "MissingExtra",
    "ModelError",
    "OutputError",
    "PlanError",
    "StateError",
    "SteeredLlama",
    "SteeringMap",
    "SteeringOverflow",
    "SteeringPlan",
    "SteeringUnavailable",
    "TapError",
    "learn",
    "load",
    "save",
]


def __getattr__(name: str) -> Any:
    # Loaded when first asked for, with llama_cpp. edgesteer.learn is a package that can be called: importing the
    # package must not hide the function.
    if name == "SteeredLlama":
        return import_module("edgesteer.runtime").SteeredLlama
    if name == "learn":
        return import_module("edgesteer.learn")
    raise AttributeError(f"module 'edgesteer' has no attribute {name!r}")
