"""The values of `--steer`, `--way` and llama.cpp's options as bundles, strengths and rows.

In:  texts of options; files. Out: (bundle, strength) pairs; rows of them; how a bundle was learnt.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesteer.cli.options import path_of, unescaped
from edgesteer.errors import PlanError

if TYPE_CHECKING:
    from edgesteer.bundle import Bundle

    Pairs = list[tuple[Bundle, float]]
    Rows = list[tuple[str, Pairs]]

STEER_KEYS = ("steer", "control_vector", "control_vector_scaled", "layer_range")


def parse_steer(text: str, separators: Sequence[str | None] = (":",)) -> tuple[str, float | None]:
    """`FILE[:STRENGTH]` -> (file, strength or None).

    Splits at the last separator (None: white space) if a number follows it and the whole text is not the name
    of a file. The first separator that fits is taken. Raises PlanError for a number that is not finite.
    """
    if _exists(text):
        return text, None
    for separator in separators:
        head, tail = ["", *text.rsplit(separator, 1)][-2:]
        strength = _number(tail)
        if not head or strength is None:
            continue
        if not math.isfinite(strength):
            raise PlanError(f"{text}: strength {tail} is not finite; give a number such as {head}:1.2")
        return head, strength
    return text, None


def parse_way(text: str) -> tuple[str | None, list[tuple[str, float | None]]]:
    """`[NAME=]FILE[:STRENGTH][+...]` -> (name or None, [(file, strength or None)]).

    Names of existing files may contain `=` and `+`; the longest such name is taken. Raises UsageError for an
    empty name or file.
    """
    files = _split_sum(text)
    if _exists(parse_steer(files[0])[0]):
        return None, [parse_steer(file) for file in files]
    name, equals, rest = text.partition("=")
    files = _split_sum(rest if equals else text)
    if not all(files) or (equals and not name.strip()):
        raise click.UsageError(f"--way {text}: expected [NAME=]FILE[:STRENGTH], with + between several files")
    return name.strip() if equals else None, [parse_steer(file) for file in files]


def _split_sum(text: str) -> list[str]:
    """Split at each `+` that is not part of an existing file's name or of its strength, such as 1e+2."""
    files, parts = [], text.split("+")
    while parts:
        joined = ["+".join(parts[:n]) for n in range(len(parts), 0, -1)]
        files.append(next((each for each in joined if _exists(parse_steer(each)[0])), parts[0]))
        parts = parts[files[-1].count("+") + 1 :]
    return files


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _exists(name: str) -> bool:
    return bool(name) and os.path.exists(path_of(name))


# -- bundles


def bundle_path(name: str) -> Path:
    """The path of a bundle; `name` is a path or a bundle that ships.

    Raises BundleError if it is neither, PlanError if it is one with something behind a colon that is no
    number.
    """
    from edgesteer_models import resolve_bundle, shipped_bundles

    head, colon, tail = name.rpartition(":")
    if colon and not _exists(name) and (_exists(head) or head in shipped_bundles()):
        raise PlanError(f"{name}: {tail!r} is not a number; give a strength such as {head}:1.2")
    return resolve_bundle(path_of(name) if _exists(name) else name).absolute()


def load_bundle(name: str) -> Bundle:
    from edgesteer.bundle import load

    return load(bundle_path(name))


def load_steering(
    steer: tuple[str, ...] = (),
    control_vector: tuple[str, ...] = (),
    control_vector_scaled: tuple[str, ...] = (),
    layer_range: tuple[int, int] | None = None,
) -> Pairs:
    """The values of `steer_options` as (bundle, strength) pairs, in the order given.

    A bundle without a strength gets its default, a control vector 1. The layer range applies only to control
    vectors, as in llama.cpp. Raises BundleError and PlanError.
    """
    pairs = _loaded(map(parse_steer, steer))
    vectors = [(name, 1.0) for text in control_vector for name in _split_list(text)]
    vectors += [_parse_scaled(item) for text in control_vector_scaled for item in _split_list(text)]
    if layer_range is not None and not vectors:
        raise click.UsageError(
            "--control-vector-layer-range needs --control-vector or --control-vector-scaled"
        )
    return pairs + [_load_vector(path, scale, layer_range) for path, scale in vectors]


def rows_of(steer: Sequence[str], ways: Sequence[str]) -> Rows:
    """The values of `row_options` as (name, pairs): all of --steer as one row, then one for each --way.

    Raises UsageError for no row, and for two rows of one name.
    """
    from edgesteer.evaluate import labels

    texts = [parse_way(text) for text in ways]
    if steer:
        texts.insert(0, (None, [*map(parse_steer, steer)]))
    if not texts:
        raise click.UsageError("give at least one --steer FILE or --way [NAME=]FILE")
    rows = [_loaded(files) for _, files in texts]
    own = iter(labels([row for row, (name, _) in zip(rows, texts, strict=True) if name is None]))
    names = [name or next(own) for name, _ in texts]
    for name in names:
        if names.count(name) > 1 or name in ("unsteered", "prompt"):
            raise click.UsageError(f"--way {name}=...: there is a row of that name already; give another")
    return list(zip(names, rows, strict=True))


def gives_steering(options: Mapping[str, Any]) -> bool:
    """Whether any of the values of `steer_options` was given."""
    return any(options[key] for key in STEER_KEYS)


def _loaded(files: Iterable[tuple[str, float | None]]) -> Pairs:
    pairs = []
    for name, strength in files:
        bundle = load_bundle(name)
        pairs.append((bundle, bundle.strength.default if strength is None else strength))
    return pairs


def _load_vector(path: str, scale: float, layer_range: tuple[int, int] | None) -> tuple[Bundle, float]:
    bundle = load_bundle(path)
    if bundle.kind != "vector":
        raise PlanError(
            f"{path}: is a {bundle.kind} bundle, not a control vector; use --steer {path}:{scale:g}"
        )
    return _as_control_vector(bundle, path, layer_range), scale


def _split_list(text: str) -> list[str]:
    """llama.cpp's comma-separated lists; a file whose name holds a comma is taken whole."""
    return [text] if _exists(text) else [item for item in text.split(",") if item]


def _parse_scaled(item: str) -> tuple[str, float]:
    path, scale = parse_steer(item)
    if scale is None:
        raise click.UsageError(f"--control-vector-scaled {item}: expected FNAME:SCALE, such as {path}:0.8")
    return path, scale


def _as_control_vector(bundle: Bundle, path: str, layer_range: tuple[int, int] | None) -> Bundle:
    """The bundle as llama.cpp reads it: its directions in the range, on every token."""
    from edgesteer.bundle import Bundle, encode_directions, spans

    start, end = layer_range or (bundle.layers[0], bundle.layers[-1])
    kept = {n: direction for n, direction in bundle.directions.items() if start <= n <= end}
    if not kept:
        raise PlanError(
            f"{path}: no direction in the layer range {start}..{end}; it holds {spans(bundle.layers)}; "
            "give another --control-vector-layer-range"
        )
    architecture = bundle.model.architecture if bundle.model else bundle.architecture_hint
    return Bundle.from_control_vector(encode_directions(kept, architecture or ""), bundle.name, bundle.source)


# -- a chat's dial


@dataclass(frozen=True)
class Dial:
    """(bundle, strength) pairs in the order given; a bundle is identified by its file.

    Unlike a plan, a dial keeps bundles of strength 0, so that they can be turned up again.
    """

    pairs: tuple[tuple[Bundle, float], ...] = ()

    @classmethod
    def of(cls, pairs: Iterable[tuple[Bundle, float]]) -> Dial:
        """The strengths of a bundle that occurs twice add up, as in a plan."""
        merged: list[tuple[Bundle, float]] = []
        for bundle, strength in pairs:
            at = next((i for i, (b, _) in enumerate(merged) if _same(b, bundle)), None)
            if at is None:
                merged.append((bundle, strength))
            else:
                merged[at] = (bundle, merged[at][1] + strength)
        return cls(tuple(merged))

    def put(self, bundle: Bundle, strength: float) -> Dial:
        """A dial with `bundle` at `strength`, in place of bundles from the same file."""
        kept = [(b, s) for b, s in self.pairs if _file(b) != _file(bundle)]
        return Dial((*kept, (bundle, strength)))

    def at(self, strength: float) -> Dial:
        """A dial with every bundle at `strength`."""
        return Dial(tuple((bundle, strength) for bundle, _ in self.pairs))


def _file(bundle: Bundle) -> str:
    return os.path.realpath(bundle.source) if bundle.source else f"{bundle.name}\0"


def _same(a: Bundle, b: Bundle) -> bool:
    # A control vector with a layer range is another bundle than the whole file.
    return (_file(a), a.layers, a.scope) == (_file(b), b.layers, b.scope)


# -- what a bundle says about how it was learnt


def trait_of(text: str | None, bundle: Bundle | None) -> str | None:
    """`text` (of --trait), or the bundle's own trait, or None. Raises UsageError for an empty text."""
    if text is not None and not text.strip():
        raise click.UsageError("--trait is empty; give a text, or omit it for the bundle's own")
    return _own(bundle, "trait") if text is None else text


def require_trait(text: str | None, rows: Rows) -> str:
    """`trait_of` the first row's first bundle. Raises UsageError if there is no trait."""
    first = rows[0][1][0][0]
    trait = trait_of(text, first)
    if trait is None:
        raise click.UsageError(f"{first.name} does not say what it was learnt from; give --trait TEXT")
    return trait


def text_of(text: str | None, bundle: Bundle | None, key: str) -> str | None:
    """The option's text, with \\n as a line break, or the bundle's own."""
    return _own(bundle, key) if text is None else unescaped(text)


def template_args_of(bundle: Bundle) -> dict[str, Any]:
    """The arguments of the chat template that the bundle was learnt with."""
    arguments = bundle.training.get("template_args")
    return dict(arguments) if isinstance(arguments, dict) else {}


def _own(bundle: Bundle | None, key: str) -> str | None:
    """A text in the manifest's `training`; None if it is missing, blank, or not text."""
    value = None if bundle is None else bundle.training.get(key)
    return value if isinstance(value, str) and value.strip() else None
