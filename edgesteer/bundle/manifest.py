"""manifest.json: its keys and their types, read from untrusted bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NoReturn, cast

from edgesteer.bundle.refusal import refusal
from edgesteer.bundle.strict_json import parse_json

FORMAT = "edgesteer/1"
KINDS = ("vector", "psr")
SCOPES = ("all", "conversation", "response")

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_EDIT = "correct the manifest or build the bundle again"
_NEWER = "use a newer edgesteer or build the bundle again"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Facts of the model that a bundle was made for.

    Attributes:
        architecture: `general.architecture` of the GGUF, such as "llama".
        name: the model's name, for display only.
        n_embd: width of the residual stream.
        n_layer: number of blocks.
        file_type: quantization, such as "Q4_1".
        base_sha256: identifies the base weights whatever the quantization; None where it cannot be computed.
    """

    architecture: str
    name: str
    n_embd: int
    n_layer: int
    file_type: str
    base_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class StrengthRange:
    """The strength to start with, and the range in which the bundle was evaluated."""

    default: float = 1.0
    min: float = 0.0
    max: float = 2.0


@dataclass(frozen=True, slots=True)
class FileEntry:
    """Hex SHA-256 and size in bytes of a member."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The values of a manifest.json, checked as far as that is possible without the other members."""

    name: str
    description: str
    license: str
    kind: str
    scope: str
    layers: tuple[int, ...]
    strength: StrengthRange
    model: ModelInfo
    files: Mapping[str, FileEntry]
    turns: dict[str, list[int]] | None
    training: dict[str, Any]
    evaluation: dict[str, Any]
    extra: dict[str, Any]


class _Object:
    """A JSON object whose keys are taken out one by one; the keys left at the end are unknown ones."""

    def __init__(self, values: dict[str, Any], where: str, path: str = "") -> None:
        self.rest, self.where, self.path = dict(values), where, path

    def refuse(self, key: str, found: str, expected: str, remedy: str = _EDIT) -> NoReturn:
        raise refusal(self.where, f"{self.path}{key} = {found}", expected, remedy)

    def take(self, key: str, accepts: Callable[[Any], bool], expected: str) -> Any:
        if key not in self.rest:
            self.refuse(key, "nothing (the key is missing)", expected)
        value = self.rest.pop(key)
        if not accepts(value):
            self.refuse(key, json.dumps(value, ensure_ascii=False)[:100], expected)
        return value

    def text(self, key: str) -> str:
        return cast(str, self.take(key, lambda v: isinstance(v, str), "a string"))

    def sha256(self, key: str) -> str:
        expected = "64 lower-case hex digits"
        return cast(
            str, self.take(key, lambda v: isinstance(v, str) and bool(_SHA256.fullmatch(v)), expected)
        )

    def integer(self, key: str, least: int) -> int:
        return cast(
            int, self.take(key, lambda v: _is_int(v) and v >= least, f"an integer of at least {least}")
        )

    def number(self, key: str) -> float:
        return float(
            self.take(key, lambda v: (_is_int(v) and abs(v) < 2**53) or isinstance(v, float), "a number")
        )

    def integers(self, key: str, least: int) -> list[int]:
        expected = f"a list of integers of at least {least}"
        return cast(
            list[int], self.take(key, lambda v: _all_ints(v) and min(v, default=least) >= least, expected)
        )

    def choice(self, key: str, allowed: tuple[str, ...], remedy: str = _EDIT) -> str:
        value = self.text(key)
        if value not in allowed:
            self.refuse(key, repr(value), " or ".join(map(repr, allowed)), remedy)
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        return cast(dict[str, Any], self.take(key, lambda v: isinstance(v, dict), "an object"))

    def object(self, key: str) -> _Object:
        return _Object(self.mapping(key), self.where, f"{self.path}{key}.")

    def extra(self) -> dict[str, Any]:
        return {key: self.rest.pop(key) for key in list(self.rest) if key.startswith("x-")}

    def done(self) -> None:
        for key in self.rest:
            raise refusal(
                self.where, f"the unknown key '{self.path}{key}'", "the keys of edgesteer/1 and x-...", _NEWER
            )


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _all_ints(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_int, value))


def decode_manifest(data: bytes, where: str) -> Manifest:
    """Read and check manifest.json. `where` names it in messages.

    Raises:
        BundleError: a rule of the format is broken.
    """
    top = _Object(parse_json(data, where), where)
    for key, only in (("format", FORMAT), ("operation", "add"), ("site", "block_output")):
        top.choice(key, (only,), _NEWER)
    manifest = Manifest(
        name=top.text("name"),
        description=top.text("description"),
        license=top.text("license"),
        kind=top.choice("kind", KINDS, _NEWER),
        scope=top.choice("scope", SCOPES, _NEWER),
        layers=tuple(top.integers("layers", 1)),
        strength=_strength(top.object("strength")),
        model=_model(top.object("model")),
        files=_files(top.object("files")),
        turns=_turns(top.object("turns")) if "turns" in top.rest else None,
        training=top.mapping("training"),
        evaluation=top.mapping("evaluation"),
        extra=top.extra(),
    )
    top.done()
    _check_layers(manifest, top)
    return manifest


def _strength(item: _Object) -> StrengthRange:
    strength = StrengthRange(item.number("default"), item.number("min"), item.number("max"))
    item.done()
    if not strength.min <= strength.default <= strength.max:
        item.refuse(
            "default", f"{strength.default}, min {strength.min}, max {strength.max}", "min <= default <= max"
        )
    return strength


def _model(item: _Object) -> ModelInfo:
    model = ModelInfo(
        architecture=item.text("architecture"),
        name=item.text("name"),
        n_embd=item.integer("n_embd", 1),
        n_layer=item.integer("n_layer", 2),
        file_type=item.text("file_type"),
        base_sha256=item.sha256("base_sha256") if "base_sha256" in item.rest else None,
    )
    item.done()
    return model


def _files(item: _Object) -> dict[str, FileEntry]:
    return {name: _file(item.object(name)) for name in list(item.rest)}


def _file(item: _Object) -> FileEntry:
    entry = FileEntry(item.sha256("sha256"), item.integer("size", 0))
    item.done()
    return entry


def _turns(item: _Object) -> dict[str, list[int]]:
    turns = {key: item.integers(key, 0) for key in ("open", "close")}
    item.done()
    return turns


def _check_layers(manifest: Manifest, top: _Object) -> None:
    layers, last = manifest.layers, manifest.model.n_layer - 1
    if not layers or any(a >= b for a, b in pairwise(layers)):
        top.refuse("layers", str(list(layers)), "a list of blocks, ascending, without repeats")
    if layers[-1] > last:
        top.refuse("layers", str(list(layers)), f"blocks 1 to {last} (model.n_layer - 1)")
