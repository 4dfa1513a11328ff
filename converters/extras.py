"""Import optional packages when they are needed, or say how to install them."""

from __future__ import annotations

import importlib
from typing import Any

from edgesteer.errors import MissingExtra


def need(package: str, purpose: str) -> Any:
    """Import the package. Raises MissingExtra."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise missing(package, purpose) from error


def need_torch(purpose: str) -> Any:
    return need("torch", purpose)


def need_onnx() -> Any:
    return need("onnx", "write a gate")


def missing(package: str, purpose: str) -> MissingExtra:
    """The error to raise if an optional package is not installed."""
    return MissingExtra(f"{package}: not installed; needed to {purpose}; pip install 'edgesteer[convert]'")
