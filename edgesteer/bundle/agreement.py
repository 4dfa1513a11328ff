"""Check that the members of a bundle agree: each is as the manifest describes it, and none is missing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from edgesteer.bundle.container import MAX_MEMBER_BYTES, MEMBERS
from edgesteer.bundle.directions import Directions
from edgesteer.bundle.gate import read_gate_gguf
from edgesteer.bundle.manifest import Manifest
from edgesteer.bundle.onnx_rules import check_gate
from edgesteer.bundle.refusal import FETCH_AGAIN, refusal
from edgesteer.bundle.strict_json import parse_json

UNLISTED = ("manifest.json", "signature.json")
"""Members that the manifest's `files` cannot cover."""

_GATES = ("gate.onnx", "gate.ort", "gate.gguf")


def sha256(data: bytes) -> str:
    """Hex SHA-256."""
    return hashlib.sha256(data).hexdigest()


def check_names(members: Mapping[str, bytes], where: str) -> None:
    """Refuse members that lack one of the two that every bundle has, and unknown ones."""
    for name in ("manifest.json", "directions.gguf"):
        if name not in members:
            raise refusal(
                where, f"no {name}", "manifest.json and directions.gguf in every bundle", FETCH_AGAIN
            )
    for name, data in members.items():
        if name not in MEMBERS:
            raise refusal(where, f"the extra member '{name}'", f"only {', '.join(MEMBERS)}", "remove it")
        if len(data) > MAX_MEMBER_BYTES:
            raise refusal(
                where, f"{name} of {len(data)} bytes", f"at most {MAX_MEMBER_BYTES}", "make it smaller"
            )


def check_files(manifest: Manifest, members: Mapping[str, bytes], where: str) -> None:
    """Refuse members that the manifest does not list, the reverse, and a gate that does not fit the kind."""
    present = {name for name in members if name not in UNLISTED}
    if missing := sorted(manifest.files.keys() - present):
        raise refusal(where, f"no {missing[0]}", f"the manifest's {', '.join(manifest.files)}", FETCH_AGAIN)
    if extra := sorted(present - manifest.files.keys()):
        raise refusal(
            where, f"{extra[0]}, which the manifest does not list", "listed members only", FETCH_AGAIN
        )
    if "gate.onnx" not in present and manifest.kind == "psr":
        raise refusal(where, "kind psr without gate.onnx", "a gate", FETCH_AGAIN)
    if manifest.kind == "vector" and (gates := [name for name in _GATES if name in present]):
        raise refusal(where, f"kind vector with {gates[0]}", "no gate", FETCH_AGAIN)
    for name, entry in manifest.files.items():
        if len(members[name]) != entry.size:
            raise refusal(
                f"{where}: {name}", f"{len(members[name])} bytes", f"{entry.size} as in the manifest"
            )
        if (found := sha256(members[name])) != entry.sha256:
            raise refusal(f"{where}: {name}", f"SHA-256 {found}", f"{entry.sha256} as in the manifest")


def check_directions(manifest: Manifest, directions: Directions, hint: str | None, where: str) -> None:
    """Refuse directions whose blocks, width or architecture are not the manifest's."""
    if tuple(directions) != manifest.layers:
        found = f"directions for the blocks {list(directions)}"
        raise refusal(where, found, f"the manifest's layers {list(manifest.layers)}", FETCH_AGAIN)
    width = len(directions[manifest.layers[0]])
    if width != manifest.model.n_embd:
        raise refusal(where, f"directions of width {width}", f"the manifest's n_embd {manifest.model.n_embd}")
    if hint != manifest.model.architecture:
        expected = f"the manifest's architecture '{manifest.model.architecture}'"
        raise refusal(where, f"controlvector.model_hint = {hint!r}", expected)


def check_gates(manifest: Manifest, members: Mapping[str, bytes], where: str) -> None:
    """Refuse gates that break the format's rules or lack the manifest's blocks. gate.ort is not read."""
    layers, n_embd = manifest.layers, manifest.model.n_embd
    if "gate.onnx" in members:
        directions_sha256 = manifest.files["directions.gguf"].sha256
        check_gate(members["gate.onnx"], layers, n_embd, directions_sha256, f"{where}: gate.onnx")
    if "gate.gguf" in members:
        read_gate_gguf(members["gate.gguf"], layers, n_embd, f"{where}: gate.gguf")


def check_texts(members: Mapping[str, bytes], where: str) -> None:
    """Refuse a card.md that is not UTF-8, and a signature.json of another form."""
    try:
        members.get("card.md", b"").decode()
    except UnicodeDecodeError:
        raise refusal(f"{where}: card.md", "text that is not UTF-8", "UTF-8", FETCH_AGAIN) from None
    if "signature.json" in members:
        signature = parse_json(members["signature.json"], f"{where}: signature.json")
        form = {key: type(value) for key, value in signature.items()}
        if (
            form != dict.fromkeys(("algorithm", "public_key", "signature"), str)
            or signature["algorithm"] != "ed25519"
        ):
            expected = "algorithm 'ed25519', public_key and signature in base64"
            raise refusal(f"{where}: signature.json", f"keys {sorted(form)}", expected, "sign it again")
