"""Writing and reading are inverse to each other, in bytes and in values."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgesteer.bundle import (
    Bundle,
    ModelInfo,
    StrengthRange,
    gguf,
    load,
    read_model_info,
    save,
    save_directory,
    verify,
)
from tests.bundle.samples import LAYERS, MODEL, directions, gate_weights, psr, refused, saved, vector

BUNDLES = [vector, psr, lambda: psr(gate=gate_weights(widths=(8, 3, 1)))]


@pytest.mark.parametrize("make", BUNDLES)
def test_write_read_write_gives_the_same_bytes(make: Any, tmp_path: Path) -> None:
    first = saved(make(), tmp_path / "a.steer")
    second = saved(load(first), tmp_path / "b.steer")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("make", BUNDLES)
def test_building_twice_gives_the_same_bytes(make: Any, tmp_path: Path) -> None:
    first, second = (saved(make(), tmp_path / f"{i}.steer") for i in range(2))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("make", BUNDLES)
def test_directory_and_zip_hold_the_same(make: Any, tmp_path: Path) -> None:
    bundle = make()
    save_directory(bundle, tmp_path / "extracted")
    again = saved(load(tmp_path / "extracted"), tmp_path / "again.steer")
    assert load(tmp_path / "extracted") == load(again) == bundle
    assert again.read_bytes() == saved(bundle, tmp_path / "direct.steer").read_bytes()
    extracted = {path.name: path.read_bytes() for path in (tmp_path / "extracted").iterdir()}
    assert extracted == dict(bundle.members)


def test_values_survive(tmp_path: Path) -> None:
    bundle = psr(
        name="Käpt'n",
        description="two\nlines",
        license="MIT",
        scope="conversation",
        strength=StrengthRange(1.2, -0.5, 3),
        turns={"open": [1, 2], "close": [3]},
        training={"seed": np.int64(7), "losses": np.array([0.5, 0.25])},
        evaluation={"trait": {"score": 1.5}},
        extra={"x-phone": {"any": [1, None, True]}},
    )
    read = load(saved(bundle, tmp_path / "a.steer"))
    assert (read.name, read.description, read.license) == ("Käpt'n", "two\nlines", "MIT")
    assert (read.kind, read.scope, read.layers) == ("psr", "conversation", LAYERS)
    assert read.strength == StrengthRange(1.2, -0.5, 3)
    assert read.turns == {"open": [1, 2], "close": [3]}
    assert read.training == {"seed": 7, "losses": [0.5, 0.25]}
    assert read.evaluation == {"trait": {"score": 1.5}}
    assert read.extra == {"x-phone": {"any": [1, None, True]}}
    assert read.model == MODEL
    assert read.source == str(tmp_path / "a.steer")


def test_paths_from_home_and_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    save(vector(), "~/a.steer")
    save_directory(vector(), "~/folder")
    (tmp_path / "v.gguf").write_bytes(vector().members["directions.gguf"])
    for name in ("a.steer", "folder", "v.gguf"):
        assert load(f"~/{name}").source == load(name).source == str(tmp_path / name)
    keys = {"general.architecture": "llama", "llama.embedding_length": 8, "llama.block_count": 6}
    (tmp_path / "m.gguf").write_bytes(gguf.encode(keys, []))
    assert read_model_info("~/m.gguf").n_embd == 8


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.dictionaries(st.integers(1, 9), st.lists(finite, min_size=4, max_size=4), min_size=1, max_size=4),
    facts=st.dictionaries(st.text(st.characters(codec="utf-8")), plain, max_size=3),
    name=st.text(st.characters(codec="utf-8"), max_size=20),
    sha=st.none() | st.just("0" * 64),
)
def test_any_directions_and_facts_survive(
    tmp_path: Path, rows: dict[int, list[float]], facts: dict[str, Any], name: str, sha: str | None
) -> None:
    model = ModelInfo("llama", name, 4, 10, "F16", sha)
    bundle = Bundle.build(name=name, directions=rows, model=model, training=facts)
    path = tmp_path / "any.steer"
    save(bundle, path, force=True)
    read = load(path)
    assert read == bundle
    assert read.training == facts
    assert read.model == model
    for n, row in rows.items():
        assert read.directions[n].tobytes() == np.float32(row).tobytes()


def test_identity_is_what_is_inside(tmp_path: Path) -> None:
    bundle = psr()
    read = load(saved(bundle, tmp_path / "a.steer"))
    assert read == bundle
    assert hash(read) == hash(bundle)
    assert read.source != bundle.source
    assert bundle != vector()
    assert bundle.with_metadata(description="other") != bundle
    assert bundle.with_metadata(description="other").digest == bundle.digest
    assert psr(directions=directions(seed=9)).digest != bundle.digest
    assert psr(gate=gate_weights(seed=9)).digest != bundle.digest


def test_directions_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValueError, match="read-only"):
        psr().directions[1][0] = 1


def test_bundles_can_be_copied_and_pickled() -> None:
    bundle = psr()
    assert copy.deepcopy(bundle) == bundle
    assert pickle.loads(pickle.dumps(bundle)) == bundle


def test_metadata_can_be_replaced_and_the_rest_stays() -> None:
    bundle = psr()
    changed = bundle.with_metadata(evaluation={"trait": 0.9}, strength=StrengthRange(1, 0, 4))
    assert changed.evaluation == {"trait": 0.9}
    assert changed.strength.max == 4
    assert changed.gate == bundle.gate
    assert changed.card != bundle.card
    refused(lambda: bundle.with_metadata(layers=[1]), "layers")


def test_manifest_is_canonical_and_lists_every_member(tmp_path: Path) -> None:
    members = psr().members
    manifest = json.loads(members["manifest.json"])
    form = json.dumps(manifest, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    assert members["manifest.json"] == form.encode()
    assert set(manifest["files"]) == set(members) - {"manifest.json"}


def test_verify_says_what_held(tmp_path: Path) -> None:
    lines = verify(saved(psr(), tmp_path / "a.steer"))
    assert any("gate.onnx" in line for line in lines)
    assert all("\n" not in line for line in lines)


def test_reading_needs_no_inference_runtime(tmp_path: Path) -> None:
    """Law 9, for this room: its modules bring in none of these, even when a bundle with a gate is read."""
    path = saved(psr(), tmp_path / "a.steer")
    code = (
        "import sys, types\n"
        "package = types.ModuleType('edgesteer'); package.__path__ = [sys.argv[1]]\n"
        "sys.modules['edgesteer'] = package\n"  # without the package's own imports
        "from edgesteer.bundle import load\n"
        "load(sys.argv[2])\n"
        "print(sorted({'onnx', 'onnxruntime', 'torch', 'llama_cpp', 'gguf'} & set(sys.modules)))\n"
    )
    import edgesteer.bundle

    package = Path(edgesteer.bundle.__file__).parent.parent
    result = subprocess.run(
        [sys.executable, "-c", code, package, path], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
