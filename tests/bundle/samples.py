"""Small bundles, and their members in every state of disrepair, for the tests of this room."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesteer.bundle import Bundle, GateWeights, ModelInfo, load, save
from edgesteer.bundle.container import MEMBERS, zip_bytes
from edgesteer.errors import BundleError

N_EMBD, LAYERS = 8, (1, 2, 4)
MODEL = ModelInfo("llama", "Tiny", N_EMBD, 6, "Q4_1", "ab" * 32)


def directions(layers: Iterable[int] = LAYERS, width: int = N_EMBD, seed: int = 0) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {n: rng.standard_normal(width, dtype=np.float32) for n in layers}


def gate_weights(
    layers: Iterable[int] = LAYERS, widths: tuple[int, ...] = (N_EMBD, 1), seed: int = 1
) -> GateWeights:
    rng = np.random.default_rng(seed)
    shapes = list(pairwise(widths))
    return {n: [(_normal(rng, a, b), _normal(rng, b)) for a, b in shapes] for n in layers}


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def vector(**changes: Any) -> Bundle:
    return Bundle.build(**{"name": "tiny", "directions": directions(), "model": MODEL, **changes})


def psr(**changes: Any) -> Bundle:
    return vector(**{"gate": gate_weights(), **changes})


def relisted(members: dict[str, bytes], **changes: Any) -> dict[str, bytes]:
    """The members under a manifest that lists them as they are now, with some of its values changed."""
    manifest = json.loads(members["manifest.json"])
    manifest["files"] = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        for name, data in members.items()
        if name not in ("manifest.json", "signature.json")
    }
    manifest |= changes
    return {**members, "manifest.json": json.dumps(manifest).encode()}


def write_members(path: Path, members: dict[str, bytes]) -> Path:
    path.write_bytes(zip_bytes(members))
    return path


def edited(path: Path, edit: Callable[[dict[str, Any]], None], bundle: Bundle | None = None) -> Path:
    """A bundle at `path` whose manifest went through `edit`."""
    members = dict((bundle or vector()).members)
    manifest = json.loads(members["manifest.json"])
    edit(manifest)
    return write_members(path, {**members, "manifest.json": json.dumps(manifest).encode()})


def foreign_zip(path: Path, members: Iterable[tuple[str, bytes]], **info: Any) -> Path:
    """A ZIP as another program might write it: attributes of every ZipInfo set from `info`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members:
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            for key, value in info.items():
                setattr(entry, key, value)
            archive.writestr(entry, data)
    path.write_bytes(buffer.getvalue())
    return path


def in_order(members: dict[str, bytes]) -> list[tuple[str, bytes]]:
    return [(name, members[name]) for name in MEMBERS if name in members]


def refused(action: Callable[[], object], *parts: object) -> None:
    """The action ends in a BundleError of one line that holds every part, what was expected, and a remedy."""
    with pytest.raises(BundleError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    assert "found " in message
    assert "; expected " in message
    assert message.count("; ") >= 2, "no remedy"
    for part in parts:
        assert str(part) in message


def refused_file(path: Path, *parts: object) -> None:
    refused(lambda: load(path), path, *parts)


def saved(bundle: Bundle, path: Path) -> Path:
    save(bundle, path)
    return path
