"""edgesteer: steer local, quantized language models on llama.cpp, exactly and reversibly.

    from edgesteer import SteeredLlama
    llm = SteeredLlama("model.gguf", n_ctx=2048)
    llm.steer("pirate.steer", strength=1.2)

Importing this loads neither torch, onnx, onnxruntime nor a server; llama_cpp is loaded when
SteeredLlama is first asked for, so that what only reads bundles starts at once.
"""

from typing import TYPE_CHECKING, Any

from edgesteer.bundle import Bundle
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
    "SteeringOverflow",
    "SteeringPlan",
    "SteeringUnavailable",
    "TapError",
]


def __getattr__(name: str) -> Any:
    if name == "SteeredLlama":
        from edgesteer.runtime import SteeredLlama

        return SteeredLlama
    raise AttributeError(f"module 'edgesteer' has no attribute {name!r}")


def _as_html(steering_map: SteeringMap) -> str:
    from edgesteer.report.map_page import fragment

    return fragment(steering_map)


SteeringMap.draw = _as_html
