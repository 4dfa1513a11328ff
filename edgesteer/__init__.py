"""edgesteer: steer local, quantized language models on llama.cpp, exactly and reversibly.

    from edgesteer import SteeredLlama
    llm = SteeredLlama("model.gguf", n_ctx=2048)
    llm.steer("pirate.steer", strength=1.2)

Importing this loads the errors alone; every other name is imported when it is first used, so that the command
line starts at once, and what only reads bundles does not load llama_cpp.
"""

import importlib
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from edgesteer.bundle import Bundle
    from edgesteer.plan import SteeringPlan
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


_HOMES = {"Bundle": "bundle", "SteeredLlama": "runtime", "SteeringPlan": "plan"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgesteer' has no attribute {name!r}")
    return getattr(importlib.import_module(f"edgesteer.{_HOMES[name]}"), name)
