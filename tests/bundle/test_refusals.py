"""What a reader must refuse in the container and in the manifest, each with one clear line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgesteer.bundle import load, save_directory, verify
from edgesteer.errors import BundleError
from tests.bundle.samples import (
    MODEL,
    edited,
    psr,
    refused,
    refused_file,
    relisted,
    vector,
    write_members,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bad.steer"


# --- the file itself


def test_a_missing_file(path: Path) -> None:
    refused_file(path, "nothing there")


def test_an_empty_file(path: Path) -> None:
    path.touch()
    refused_file(path, "0 bytes")


def test_a_file_of_another_kind(path: Path) -> None:
    path.write_bytes(b"{}\n\x1b[31m")
    refused_file(path, ".steer bundle")


def test_a_path_that_cannot_be(path: Path) -> None:
    refused(lambda: load("nul\0byte"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    refused_file(path, "not a file")


# --- directory


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_directory(psr(), tmp_path / "bundle")
    return tmp_path / "bundle"


def test_an_extra_entry(folder: Path) -> None:
    (folder / "evil.py").touch()
    refused_file(folder, "evil.py")


def test_a_folder_as_member(folder: Path) -> None:
    (folder / "signature.json").mkdir()
    refused_file(folder, "signature.json")


def test_a_symbolic_link(folder: Path, tmp_path: Path) -> None:
    (folder / "card.md").rename(tmp_path / "card.md")
    (folder / "card.md").symlink_to(tmp_path / "card.md")
    refused_file(folder, "link")


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused_file(tmp_path / "empty", "no manifest.json")


# --- manifest against members


def test_a_changed_member(path: Path) -> None:
    members = dict(vector().members)
    members["card.md"] = members["card.md"].replace(b"tiny", b"TINY")
    refused_file(write_members(path, members), "card.md", "SHA-256")


def test_another_size(path: Path) -> None:
    members = dict(vector().members)
    refused_file(write_members(path, {**members, "card.md": b""}), "card.md", "0 bytes")


def test_an_unlisted_member(path: Path) -> None:
    refused_file(write_members(path, {**vector().members, "gate.ort": b"x"}), "gate.ort")


def test_a_gate_without_psr_and_psr_without_a_gate(path: Path) -> None:
    members = dict(psr().members)
    refused_file(write_members(path, relisted(members, kind="vector")), "kind vector")
    for name in ("gate.onnx", "gate.gguf"):
        members.pop(name)
    refused_file(write_members(path, relisted(members)), "kind psr")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"layers": [1, 2]}, "blocks [1, 2, 4]"),
        ({"model": {**vector().manifest["model"], "n_embd": 9}}, "width 8"),
        ({"model": {**vector().manifest["model"], "architecture": "gemma3"}}, "model_hint"),
        ({"model": {**vector().manifest["model"], "n_layer": 4}}, "blocks 1 to 3"),
    ],
)
def test_directions_that_the_manifest_does_not_describe(
    path: Path, changes: dict[str, Any], part: str
) -> None:
    refused_file(write_members(path, relisted(dict(vector().members), **changes)), part)


# --- manifest


BAD_VALUES: dict[str, list[Any]] = {
    "format": ["edgesteer/2", 1, None],
    "operation": ["ablate", "Add"],
    "site": ["block_input"],
    "kind": ["lora", ["psr"]],
    "scope": ["prompt", True],
    "name": [None, 3],
    "description": [[]],
    "license": [{}],
    "layers": [[], [2, 1], [1, 1], [0, 1], [1.0], [True], "1", [-1], [1, 10**30]],
    "strength": [
        {"default": 1, "min": 0},
        {"default": True, "min": 0, "max": 1},
        {"default": 3, "min": 0, "max": 2},
        {"default": 1, "min": 2, "max": 0},
        {"default": "1", "min": 0, "max": 2},
        {"default": 1, "min": 0, "max": 2, "unit": "norm"},
        {"default": 10**400, "min": 0, "max": 10**401},
        1,
    ],
    "model": [
        {},
        {"architecture": "llama", "name": "x", "n_embd": "8", "n_layer": 6, "file_type": "F16"},
        {
            "architecture": "llama",
            "name": "x",
            "n_embd": 8,
            "n_layer": 6,
            "file_type": "F16",
            "base_sha256": "AB",
        },
        {
            "architecture": "llama",
            "name": "x",
            "n_embd": 8,
            "n_layer": 6,
            "file_type": "F16",
            "base_sha256": None,
        },
    ],
    "files": [
        [],
        {"directions.gguf": {"sha256": "0" * 64}},
        {"directions.gguf": {"sha256": "0" * 64, "size": -1}},
    ],
    "turns": [[], {"open": [1]}, {"open": ["a"], "close": []}, {"open": [-1], "close": []}],
    "training": [None, []],
    "evaluation": ["good"],
}


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, values in BAD_VALUES.items() for v in values])
def test_a_wrong_value(path: Path, key: str, value: Any) -> None:
    refused_file(edited(path, lambda manifest: manifest.update({key: value})), "manifest.json", key)


@pytest.mark.parametrize("key", [key for key in BAD_VALUES if key != "turns"])
def test_a_missing_key(path: Path, key: str) -> None:
    refused_file(edited(path, lambda manifest: manifest.pop(key)), "manifest.json", key)


def test_an_unknown_key_is_refused_unless_it_begins_with_x(path: Path) -> None:
    refused_file(edited(path, lambda manifest: manifest.update(author="me")), "author")
    edited(path, lambda manifest: manifest.update({"x-author": "me"}))
    assert load(path).extra == {"x-author": "me"}


def _with_manifest_text(path: Path, edit: Any) -> Path:
    members = dict(vector().members)
    return write_members(path, {**members, "manifest.json": edit(members["manifest.json"])})


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        (
            lambda text: text.replace(b'{"description"', b'{"name":"other","description"', 1),
            "duplicate key 'name'",
        ),
        (lambda text: text.replace(b'"training":{}', b'"training":{"a":1,"a":2}'), "duplicate key 'a'"),
        (lambda text: text.replace(b'"training":{}', b'"training":{"loss":NaN}'), "NaN"),
        (lambda text: text.replace(b'"training":{}', b'"training":{"loss":-Infinity}'), "Infinity"),
        (lambda text: text.replace(b'"training":{}', b'"training":{"loss":1e999}'), "1e999"),
        (
            lambda text: text.replace(b'"training":{}', b'"training":{"n":' + b"1" * 5000 + b"}"),
            "not strict JSON",
        ),
        (lambda text: text.replace(b'"training":{}', b'"training":{"t":"\\ud800"}'), "not strict JSON"),
        (
            lambda text: text.replace(b'"training":{}', b'"x-d":' + b"[" * 50_000 + b"]" * 50_000),
            "not strict JSON",
        ),
        (lambda text: text.replace(b"tiny", b"t\xffny"), "not strict JSON"),
        (lambda text: b"\xef\xbb\xbf" + text, "not strict JSON"),
        (lambda text: text.decode().encode("utf-16"), "not strict JSON"),
        (lambda text: text[:-5], "not strict JSON"),
        (lambda text: b"[1]", "expected an object"),
        (lambda text: b"", "not strict JSON"),
    ],
)
def test_json_that_is_not_strict(path: Path, edit: Any, part: str) -> None:
    refused_file(_with_manifest_text(path, edit), "manifest.json", part)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.sampled_from(sorted(vector().manifest)),
    value=st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    ),
)
def test_any_value_at_any_key_is_read_or_refused(path: Path, key: str, value: Any) -> None:
    edited(path, lambda manifest: manifest.update({key: value}))
    try:
        load(path)
    except BundleError as error:
        assert "\n" not in str(error)


# --- card and signature


def test_a_card_that_is_no_text(path: Path) -> None:
    refused_file(write_members(path, relisted({**vector().members, "card.md": b"\xff"})), "card.md")


def test_a_signature_is_kept_and_its_form_is_checked(path: Path) -> None:
    signature = {"algorithm": "ed25519", "public_key": "AA==", "signature": "AA=="}
    signed = {**vector().members, "signature.json": json.dumps(signature).encode()}
    read = load(write_members(path, signed))
    assert read.signature == signed["signature.json"]
    assert any("signature" in line for line in verify(path))
    for key, value in (("algorithm", "none"), ("public_key", 1), ("extra", "x")):
        bad = {**signed, "signature.json": json.dumps({**signature, key: value}).encode()}
        refused_file(write_members(path, bad), "signature.json")


# --- building is reading


@pytest.mark.parametrize(
    "changes",
    [
        {"scope": "everything"},
        {"directions": {}},
        {"directions": {0: [0.0] * 8}},
        {"directions": {6: [0.0] * 8}},
        {"directions": {1: [0.0] * 7}},
        {"directions": {1: [float("nan")] * 8}},
        {"directions": {1: [[0.0] * 8]}},
        {"training": {"loss": float("nan")}},
        {"training": {1: 2}},
        {"training": {"object": object()}},
        {"extra": {"author": "me"}},
        {"gate": b"not a protobuf"},
        {"gate": {1: []}},
        {"model": MODEL.__class__("llama", "x", 8, 6, "F16", "short")},
    ],
)
def test_a_bundle_that_a_reader_would_refuse_cannot_be_built(changes: dict[str, Any]) -> None:
    refused(lambda: vector(**changes))
