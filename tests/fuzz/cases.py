"""From a case's number to its file: the same number gives the same bytes.

In: a number. Out: a Case, which says what was mutated and how deep, and can be written to a folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from edgesteer.bundle.container import zip_bytes
from tests.fuzz import of_gguf, of_json, of_onnx, of_zip, raw
from tests.fuzz.seeds import Members, bundles, control_vectors, models

MODEL_GGUF = "model GGUF"


@dataclass(frozen=True)
class Case:
    """A mutated file: `content` is bytes, or for a bundle's directory what is in it (None: a folder
    there)."""

    number: int
    depth: str
    seed: str
    content: bytes | dict[str, bytes | None]

    @property
    def name(self) -> str:
        return f"case {self.number} ({self.depth} of '{self.seed}')"

    def write(self, folder: Path) -> Path:
        if isinstance(self.content, bytes):
            path = folder / ("model.gguf" if self.depth.startswith(MODEL_GGUF) else "bundle.steer")
            path.write_bytes(self.content)
            return path
        path = folder / "directory"
        path.mkdir()
        for name, data in self.content.items():
            if data is None:
                (path / name).mkdir()
            else:
                (path / name).write_bytes(data)
        return path


def case(number: int) -> Case:
    """The case of this number."""
    rng = Random(f"edgesteer fuzz {number}")
    return rng.choices(list(_DEPTHS), list(_DEPTHS.values()))[0](number, rng)


def _bundle(rng: Random, *needed: str) -> tuple[str, Members]:
    known = {name: members for name, members in bundles().items() if set(needed) <= members.keys()}
    name = rng.choice(sorted(known))
    return name, dict(known[name])


def _zip_bytes(number: int, rng: Random) -> Case:
    seed, members = _bundle(rng)
    return Case(number, "ZIP bytes", seed, raw.mutate(zip_bytes(members), rng))


def _zip_structure(number: int, rng: Random) -> Case:
    seed, members = _bundle(rng)
    return Case(number, "ZIP structure", seed, of_zip.mutate(members, rng))


def _directory(number: int, rng: Random) -> Case:
    seed, members = _bundle(rng)
    content: dict[str, bytes | None] = dict(members)
    name = rng.choice(sorted(members))
    how = rng.randrange(4)
    if how == 0:
        content[rng.choice(("evil.py", ".hidden", "gate.ort", "CARD.MD", "a\nb"))] = b"x"
    elif how == 1:
        content[name] = None
    elif how == 2:
        del content[name]
    else:
        content |= _repaired({**members, name: raw.mutate(members[name], rng)})
    return Case(number, "directory", seed, content)


def _member(name: str, way: Callable[[bytes, Random], bytes], depth: str) -> Callable[[int, Random], Case]:
    """Cases with one member mutated, and everything that vouches for it made right again."""

    def make(number: int, rng: Random) -> Case:
        seed, members = _bundle(rng, name)
        changed = {**members, name: way(members[name], rng)}
        if name != "manifest.json":
            changed = _repaired(changed)
        elif rng.random() < 0.5:
            changed = _relisted_if_json(changed)
        return Case(number, depth, seed, zip_bytes(changed))

    return make


def _repaired(members: Members) -> Members:
    """The manifest lists the members as they are, and the gate names the directions as they are."""
    old = _listed(members).get("directions.gguf", {}).get("sha256", "")
    new = hashlib.sha256(members["directions.gguf"]).hexdigest()
    if "gate.onnx" in members:
        members = {**members, "gate.onnx": members["gate.onnx"].replace(old.encode(), new.encode())}
    return _relisted_if_json(members)


def _listed(members: Members) -> dict[str, dict[str, str]]:
    listed: dict[str, dict[str, str]] = json.loads(bundles()["vector"]["manifest.json"])["files"]
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
        listed = json.loads(members["manifest.json"])["files"]
    return listed if isinstance(listed, dict) else {}


def _relisted_if_json(members: Members) -> Members:
    try:
        manifest = json.loads(members["manifest.json"])
        manifest["files"] = {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            for name, data in members.items()
            if name not in ("manifest.json", "signature.json")
        }
        return {**members, "manifest.json": json.dumps(manifest).encode(errors="surrogatepass")}
    except (ValueError, TypeError, RecursionError):
        return members


def _bare(number: int, rng: Random) -> Case:
    seed = rng.choice(sorted(control_vectors()))
    way = rng.choice((raw.mutate, of_gguf.mutate, of_gguf.mutate))
    return Case(number, "bare control vector", seed, way(control_vectors()[seed], rng))


def _model(number: int, rng: Random) -> Case:
    seed = rng.choice(sorted(models()))
    way = rng.choice((raw.mutate, of_gguf.mutate, of_gguf.mutate))
    return Case(number, MODEL_GGUF, seed, way(models()[seed], rng))


def _untouched(number: int, rng: Random) -> Case:
    seed, members = _bundle(rng)
    content: bytes | dict[str, bytes | None] = zip_bytes(members) if rng.random() < 0.5 else dict(members)
    return Case(number, "nothing", seed, content)


_DEPTHS: dict[Callable[[int, Random], Case], int] = {
    _zip_bytes: 6,
    _zip_structure: 12,
    _directory: 5,
    _member("manifest.json", of_json.mutate, "manifest.json"): 14,
    _member("signature.json", of_json.mutate, "signature.json"): 3,
    _member("card.md", raw.mutate, "card.md"): 1,
    _member("directions.gguf", raw.mutate, "directions.gguf, bytes"): 3,
    _member("directions.gguf", of_gguf.mutate, "directions.gguf, structure"): 8,
    _member("gate.gguf", of_gguf.mutate, "gate.gguf, structure"): 9,
    _member("gate.onnx", raw.mutate, "gate.onnx, bytes"): 4,
    _member("gate.onnx", of_onnx.mutate, "gate.onnx, structure"): 22,
    _bare: 6,
    _model: 8,
    _untouched: 1,
}
