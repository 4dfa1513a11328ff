"""The model card: a manifest as Markdown. The same manifest gives the same card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgesteer.bundle.refusal import spans

_INTERVAL = {"value", "low", "high"}
# Measured at one strength, so they do not evaluate a range.
_AT_ONE_STRENGTH = {"parity", "replies", "conversations", "facts", "instructions", "transfer"}
_SCOPES = {
    "all": "every token",
    "conversation": "everything after the system prompt",
    "response": "the reply alone",
}
_KINDS = {
    "vector": "a constant vector per block",
    "psr": "PSR: a small gate sets the coefficient of every token",
}


def render_card(manifest: Mapping[str, Any]) -> str:
    """The model card of a bundle, in Markdown.

    Args:
        manifest: the values of manifest.json; `files` is ignored, since it covers the card itself.
    """
    sections = [_head(manifest), _facts(manifest), _use(manifest)]
    for title in ("training", "evaluation"):
        if manifest[title]:
            sections.append(f"## {title.capitalize()}\n\n" + "\n".join(_bullets(manifest[title])))
    return "\n\n".join(sections) + "\n"


def _head(manifest: Mapping[str, Any]) -> str:
    return f"# {_inline(manifest['name'])}\n\n{manifest['description'] or 'No description.'}"


def _facts(manifest: Mapping[str, Any]) -> str:
    model, strength = manifest["model"], manifest["strength"]
    rows = {
        "License": manifest["license"],
        "Kind": _KINDS[manifest["kind"]],
        "Acts on": _SCOPES[manifest["scope"]] + f" (scope `{manifest['scope']}`)",
        "Blocks": spans(manifest["layers"]),
        "Strength": f"{strength['default']} ({_range_of(manifest)} {strength['min']} to {strength['max']})",
        "Made for": f"{model['name']}, {model['file_type']}",
        "Model shape": f"`{model['architecture']}`, {model['n_layer']} blocks, width {model['n_embd']}",
        "Base weights": f"`{model['base_sha256']}`" if "base_sha256" in model else "not identified",
    }
    return "\n".join(
        ["| | |", "|---|---|", *(f"| {key} | {_inline(value)} |" for key, value in rows.items())]
    )


def _range_of(manifest: Mapping[str, Any]) -> str:
    """How the card introduces the range."""
    over_strengths = manifest["evaluation"].keys() - _AT_ONE_STRENGTH
    return "evaluated from" if over_strengths else "not evaluated; meant for"


def _use(manifest: Mapping[str, Any]) -> str:
    lines = [
        "## Use",
        "",
        "Strength 0 is the unsteered model, bit for bit.",
        "`directions.gguf` also works in stock llama.cpp (`--control-vector`), on every token.",
    ]
    if manifest["kind"] == "psr":
        lines.append("There it is the constant vector with the gate's mean coefficient.")
    return "\n".join(lines)


def entries(values: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[int, str, str]]:
    """(depth, key, value in words) of nested values, by key; without a value where deeper ones follow."""
    for key in sorted(values):
        value = values[key]
        if isinstance(value, Mapping) and value and value.keys() != _INTERVAL:
            yield depth, key, ""
            yield from entries(value, depth + 1)
        else:
            yield depth, key, words(value)


def _bullets(values: Mapping[str, Any]) -> Iterator[str]:
    for depth, key, value in entries(values):
        yield f"{'  ' * depth}- {_inline(key)}: {_inline(value)}".rstrip()


def _inline(value: object) -> str:
    """Text for one table cell or list item."""
    return " ".join(words(value).split()).replace("|", "\\|")


def words(value: object) -> str:
    """A manifest's value as people would write it: without braces or quotes, an interval as 1 [0.5, 1.5]."""
    if isinstance(value, Mapping) and value.keys() == _INTERVAL:
        middle, low, high = (words(value[key]) for key in ("value", "low", "high"))
        return middle if value["low"] is None else f"{middle} [{low}, {high}]"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {words(value[key])}" for key in sorted(value)) or "none"
    if isinstance(value, (list, tuple)):
        return "; ".join(words(item) for item in value) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)
