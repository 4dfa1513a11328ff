"""Knows whether a bundle and a model belong together.

In: a Bundle and the facts of a model; out: nothing, a warning, or IncompatibleError.
"""

from __future__ import annotations

from edgesteer.bundle.bundle import Bundle
from edgesteer.bundle.manifest import ModelInfo
from edgesteer.bundle.refusal import refusal
from edgesteer.errors import IncompatibleError


def check_model(bundle: Bundle, info: ModelInfo) -> str | None:
    """Refuse a model that the bundle cannot steer; return a warning for one that it was not made for.

    A bare control vector's architecture is only a hint in the producer's own terms (repeng writes "mistral"
    where a GGUF says "llama"), so it warns.

    Raises:
        IncompatibleError: another architecture, width or number of blocks.
    """
    where, made_for = bundle.source or bundle.name, bundle.model
    remedy = f"use the model it was made for, or a bundle for '{info.name}'"
    pairs = [("n_embd", bundle.n_embd, info.n_embd)]
    if made_for is not None:
        pairs += [("n_layer", made_for.n_layer, info.n_layer)]
        _require(where, "architecture", made_for.architecture, info.architecture, remedy)
    for key, wanted, found in pairs:
        _require(where, key, wanted, found, remedy)
    if bundle.layers[-1] >= info.n_layer:
        _require(where, "n_layer", f"more than {bundle.layers[-1]}", info.n_layer, remedy)
    return _doubt(bundle, info, where)


def _require(where: str, key: str, wanted: object, found: object, remedy: str) -> None:
    if wanted != found:
        raise IncompatibleError(str(refusal(where, f"a model with {key} {found}", f"{key} {wanted}", remedy)))


def _doubt(bundle: Bundle, info: ModelInfo, where: str) -> str | None:
    if bundle.model is None:
        hint = bundle.architecture_hint
        if hint in (None, info.architecture):
            return None
        return str(
            refusal(where, f"a model of architecture '{info.architecture}'", f"'{hint}'", "check the result")
        )
    wanted, found = bundle.model.base_sha256, info.base_sha256
    if None in (wanted, found) or wanted == found:
        return None
    expected = f"those of {bundle.model.name} ({str(wanted)[:12]}...)"
    remedy = "check the result, or learn the bundle on this model"
    return str(refusal(where, f"other base weights ({str(found)[:12]}...)", expected, remedy))
