"""Directions for other tools: llama.cpp, repeng, and whatever reads safetensors.

The numbers are written unchanged and read back bit for bit. No such file can hold a gate; the directions of a
PSR bundle are its mean-equivalent constant.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesteer.bundle import Bundle, encode_directions
from edgesteer.bundle.container import write_file
from edgesteer.bundle.refusal import refusal
from edgesteer.bundle.strict_json import canonical
from edgesteer.errors import MissingExtra
from edgesteer_converters.artifact import F32
from edgesteer_converters.extras import missing
from edgesteer_converters.vectors.plain import MARK

Directions = Mapping[int, npt.NDArray[np.float32]]


def write_control_vector(
    source: Bundle | Directions, path: str | Path, *, architecture: str | None = None, force: bool = False
) -> None:
    """Write the bare GGUF that stock llama.cpp takes with `--control-vector`, and repeng with `import_gguf`.

    Args:
        source: a Bundle, or block N (at least 1) -> float32 [n_embd].
        architecture: the model's `general.architecture`; None: the bundle's.
        force: replace an existing file.
    Raises:
        BundleError: no or invalid directions, or no architecture.
        OutputError: the file exists, or cannot be written.
    """
    directions = _checked(source)
    write_file(path, encode_directions(directions, _architecture(source, architecture)), force)


def write_safetensors(
    source: Bundle | Directions,
    path: str | Path,
    *,
    facts: Mapping[str, Any] | None = None,
    force: bool = False,
) -> None:
    """Write arrays `direction.N`, and the facts as JSON under the metadata key "edgesteer.directions".

    Args:
        facts: the origin of the directions; None: the bundle's `training`.
    Raises:
        BundleError: no or invalid directions, or facts that are not JSON.
        MissingExtra: safetensors is not installed.
        OutputError: the file exists, or cannot be written.
    """
    try:
        from safetensors.numpy import save
    except ImportError:
        raise missing("safetensors", f"write {path}") from None
    origin = facts if facts is not None else source.training if isinstance(source, Bundle) else {}
    arrays = {f"direction.{n}": array for n, array in _checked(source).items()}
    # A single key, because the library writes several in any order, and equal input must give equal bytes.
    write_file(path, save(arrays, metadata={MARK: canonical(dict(origin)).decode()}), force)


def to_repeng(source: Bundle | Directions, *, model_type: str | None = None) -> Any:
    """repeng's ControlVector of these directions; its layer N is block N.

    Args:
        model_type: Hugging Face's name of the architecture, which repeng compares when vectors are added;
            None: the GGUF's, which is the same for llama, qwen2 or gemma2, but not for every model.
    Raises:
        MissingExtra: repeng is not installed, or does not work with this NumPy.
    """
    try:
        repeng = importlib.import_module("repeng")
    except ImportError:
        raise MissingExtra(
            "repeng: not installed; needed for its ControlVector; pip install repeng"
        ) from None
    except AttributeError as error:  # repeng 0.4.0 names np.float_, which NumPy 2 no longer has
        message = f"repeng: cannot be imported with NumPy {np.__version__} ({error})"
        raise MissingExtra(f"{message}; write a GGUF, or use NumPy below 2") from None
    directions = {n: array.copy() for n, array in _checked(source).items()}
    return repeng.ControlVector(_architecture(source, model_type), directions)


def _checked(source: Bundle | Directions) -> dict[int, F32]:
    """Block -> contiguous float32, ascending."""
    where = _where(source)
    directions = source.directions if isinstance(source, Bundle) else source
    if not directions:
        raise refusal(where, "no directions", "at least one", "check what was made")
    shape = next(iter(directions.values())).shape
    for n, array in directions.items():
        if n < 1 or array.dtype != np.float32 or array.ndim != 1 or array.shape != shape or not len(array):
            found = f"block {n}: {array.dtype} {list(array.shape)}"
            raise refusal(where, found, "blocks from 1 on, float32 [n_embd]", "convert the arrays first")
        if not np.isfinite(array).all():
            raise refusal(where, f"NaN or infinity at block {n}", "finite numbers", "train it again")
    return {n: np.ascontiguousarray(directions[n]) for n in sorted(directions)}


def _architecture(source: Bundle | Directions, given: str | None) -> str:
    if given is None and isinstance(source, Bundle):
        given = source.model.architecture if source.model else source.architecture_hint
    if not given:
        raise refusal(_where(source), "no architecture", "the model's, such as 'llama'", "name it")
    return given


def _where(source: Bundle | Directions) -> str:
    return source.source or source.name if isinstance(source, Bundle) else "directions"
