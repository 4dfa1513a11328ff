"""Tensors of a file, without running anything: `.safetensors`, and `.pt` through torch's weights-only reader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesteer.bundle.refusal import refusal
from edgesteer.errors import MissingExtra


def read_tensors(path: str) -> dict[str, npt.NDArray[Any]]:
    """Name -> array; floats become float32. A bare tensor in a .pt file has the name ''.

    Raises:
        BundleError: not such a file, or one that holds more than tensors.
        MissingExtra: torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtra(
            f"torch: not installed; needed to read {path}; pip install 'edgesteer[convert]'"
        ) from error
    try:
        found = _read(str(path), torch)
    except Exception as error:  # torch and safetensors raise whatever they meet
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise refusal(
            str(path), reason, "a file of tensors (.pt, .safetensors)", "save a state dict"
        ) from None
    if isinstance(found, torch.Tensor):
        found = {"": found}
    if not isinstance(found, Mapping) or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise refusal(str(path), "something else than tensors", "name -> tensor", "save model.state_dict()")
    return {str(k): _array(v, torch) for k, v in found.items()}


def _read(path: str, torch: Any) -> Any:
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _array(tensor: Any, torch: Any) -> npt.NDArray[Any]:
    tensor = tensor.detach().cpu()
    return np.asarray((tensor.to(torch.float32) if tensor.is_floating_point() else tensor).numpy())
