"""Knows whether a bundle and a model belong together, and whether bundles do.

In: a Bundle and the facts of a model, or several bundles; out: nothing, warnings, or IncompatibleError.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgesteer.bundle.bundle import Bundle
from edgesteer.bundle.manifest import ModelInfo
from edgesteer.bundle.refusal import one_line, refusal
from edgesteer.errors import IncompatibleError


def check_model(bundle: Bundle, info: ModelInfo) -> str | None:
    """Refuse a model that the bundle cannot steer; return a warning for one that it was not made for.

    A bare control vector's architecture is only a hint in the producer's own terms (repeng writes "mistral"
    where a GGUF says "llama"), so it warns.

    Raises:
        IncompatibleError: another architecture, width or number of blocks.
    """
    where, made_for = bundle.source or bundle.name, bundle.model
    remedy = f"use the model it was made for, or a bundle for '{one_line(info.name)}'"
    pairs = [("n_embd", bundle.n_embd, info.n_embd)]
    if made_for is not None:
        pairs += [("n_layer", made_for.n_layer, info.n_layer)]
        _require(where, "architecture", made_for.architecture, info.architecture, remedy)
    for key, wanted, found in pairs:
        _require(where, key, wanted, found, remedy)
    if bundle.layers[-1] >= info.n_layer:
        _require(where, "n_layer", f"more than {bundle.layers[-1]}", info.n_layer, remedy)
    return _doubt(bundle, info, where)


def check_together(bundles: Sequence[Bundle]) -> list[str]:
    """Refuse bundles that no one model can take; return a warning for each made for other base weights.

    A bare control vector is held against its width and its highest block alone: it knows no more.

    Raises:
        IncompatibleError: another architecture, width or number of blocks.
    """
    if not bundles:
        return []
    first = next((b for b in bundles if b.model is not None), bundles[0])
    doubts = [_check_pair(first, bundle) for bundle in bundles if bundle is not first]
    return [doubt for doubt in doubts if doubt is not None]


def _check_pair(first: Bundle, other: Bundle) -> str | None:
    """As `check_model`, with the model that `first` was made for, which names the file it is known from."""
    where, known_from = other.source or other.name, one_line(first.source or first.name)
    if first.model is not None:
        try:
            return check_model(other, first.model)
        except IncompatibleError as error:
            raise IncompatibleError(
                f"{error} ({known_from} was made for '{one_line(first.model.name)}')"
            ) from None
    if other.n_embd != first.n_embd:
        expected = f"{first.n_embd}, the width of {known_from}"
        raise IncompatibleError(
            str(refusal(where, f"width {other.n_embd}", expected, "give bundles for one model"))
        )
    return None


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
