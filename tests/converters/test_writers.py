"""What leaves for other tools comes back bit for bit."""

from __future__ import annotations

import sys
import types
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesteer.bundle import Bundle, encode_directions, load
from edgesteer.errors import MissingExtra, OutputError
from edgesteer_converters.readers import recognise
from edgesteer_converters.writers import to_repeng, write_control_vector, write_safetensors
from tests.bundle.samples import refused
from tests.converters.make_fixtures import import_repeng
from tests.converters.vector_samples import MODEL, N_EMBD, read, rows, same

# Numbers whose bits a careless copy would change: the smallest, the largest, minus zero.
ROWS = rows([1, 3]) | {2: np.array([1e-45, -0.0, 3.4028235e38, *range(1, 14)], np.float32)}
BUNDLE = Bundle.build(name="tiny", directions=ROWS, model=MODEL, scope="all", training={"producer": "repeng"})


def test_a_bare_control_vector_is_the_bundles_own_encoding(tmp_path: Path) -> None:
    write_control_vector(BUNDLE, tmp_path / "a.gguf")
    write_control_vector(ROWS, tmp_path / "b.gguf", architecture="llama")
    wanted = encode_directions(ROWS, "llama")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes() == wanted
    assert wanted == BUNDLE.members["directions.gguf"]
    same(load(tmp_path / "a.gguf").directions, ROWS)
    same(read("repeng", tmp_path / "a.gguf").directions, ROWS)


def test_a_bare_control_vector_that_was_read(tmp_path: Path) -> None:
    write_control_vector(BUNDLE, tmp_path / "a.gguf")
    write_control_vector(load(tmp_path / "a.gguf"), tmp_path / "b.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_safetensors_there_and_back(tmp_path: Path) -> None:
    pytest.importorskip("safetensors.numpy")
    path = tmp_path / "a.safetensors"
    write_safetensors(BUNDLE, path)
    assert recognise([path]) == "plain"
    same(read("plain", path).directions, ROWS)
    first = path.read_bytes()
    write_safetensors(dict(reversed(ROWS.items())), path, facts={"producer": "repeng"}, force=True)
    assert path.read_bytes() == first, "the same facts and arrays give the same bytes"
    assert b"repeng" in first


@dataclass
class ControlVector:
    model_type: str
    directions: dict[int, Any]


def test_repengs_value(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("repeng")
    module.ControlVector = ControlVector  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "repeng", module)
    vector = to_repeng(BUNDLE)
    same(vector.directions, ROWS)
    assert vector.model_type == "llama"
    assert to_repeng(ROWS, model_type="mistral").model_type == "mistral"
    vector.directions[1][0] = 9
    assert BUNDLE.directions[1][0] != 9


def test_repeng_itself_there_and_back(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            repeng = import_repeng()
        except ImportError:
            pytest.skip("repeng is not installed")
    write_control_vector(BUNDLE, tmp_path / "a.gguf")
    imported = repeng.ControlVector.import_gguf(tmp_path / "a.gguf")
    assert imported.model_type == "llama"
    same(imported.directions, ROWS)
    made = to_repeng(BUNDLE)
    assert made == imported
    made.export_gguf(tmp_path / "b.gguf")
    same(read("repeng", tmp_path / "b.gguf").directions, ROWS)
    assert (tmp_path / "b.gguf").read_bytes() == (tmp_path / "a.gguf").read_bytes()


@pytest.mark.parametrize("write", [write_control_vector, write_safetensors])
def test_a_file_that_is_there_stays(tmp_path: Path, write: Any) -> None:
    if write is write_safetensors:
        pytest.importorskip("safetensors")
    path = tmp_path / "a"
    path.write_bytes(b"mine")
    with pytest.raises(OutputError, match="existing file"):
        write(BUNDLE, path)
    assert path.read_bytes() == b"mine"
    write(BUNDLE, path, force=True)
    assert path.read_bytes() != b"mine"
    with pytest.raises(OutputError):
        write(BUNDLE, tmp_path / "none" / "a")
    with pytest.raises(OutputError, match="directory"):
        write(BUNDLE, tmp_path, force=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    "directions",
    [
        {},
        {0: ROWS[1]},
        {1: ROWS[1].astype(np.float64)},
        {1: ROWS[1][None]},
        {1: ROWS[1], 2: ROWS[2][:4]},
        {1: np.full(N_EMBD, np.nan, np.float32)},
        {1: ROWS[1][:0]},
    ],
)
def test_directions_that_are_none(tmp_path: Path, directions: dict[int, np.ndarray]) -> None:
    pytest.importorskip("safetensors")
    refused(lambda: write_control_vector(directions, tmp_path / "a", architecture="llama"))
    refused(lambda: write_safetensors(directions, tmp_path / "a"))
    assert not list(tmp_path.iterdir())


def test_an_architecture_that_nobody_names(tmp_path: Path) -> None:
    refused(lambda: write_control_vector(ROWS, tmp_path / "a"), "architecture")
    refused(lambda: write_safetensors(ROWS, tmp_path / "a", facts={"x": object()}))


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("safetensors", "safetensors.numpy", "repeng"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match="safetensors: not installed"):
        write_safetensors(BUNDLE, tmp_path / "a")
    with pytest.raises(MissingExtra, match="repeng: not installed"):
        to_repeng(BUNDLE)
