"""The bundles that ship: valid, small, carded, and made for the model that the demo uses."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from edgesteer.bundle import check_model, load, read_model_info, verify
from edgesteer_models import resolve_bundle

NAMES = {
    "pirate": "psr",
    "pirate-constant": "vector",
    "shakespeare": "psr",
    "gloomy": "psr",
    "cheerful": "psr",
}


@pytest.mark.parametrize("name", NAMES)
def test_it_is_valid_small_and_says_where_it_comes_from(name: str) -> None:
    path = Path(resolve_bundle(name))
    assert verify(path)
    assert path.stat().st_size < 200 * 1024
    bundle = load(path)
    assert bundle.kind == NAMES[name]
    assert bundle.scope == "response"
    assert bundle.card is not None
    assert bundle.training["trait"] in bundle.card
    assert bundle.license == "Apache-2.0"


@pytest.mark.parametrize("name", NAMES)
def test_it_fits_the_demos_model(name: str, smollm2: Path) -> None:
    assert check_model(load(resolve_bundle(name)), read_model_info(smollm2)) is None


@pytest.mark.parametrize("name", NAMES)
def test_stock_llama_cpp_finds_only_directions_in_it(name: str, tmp_path: Path) -> None:
    bundle = load(resolve_bundle(name))
    file = tmp_path / "directions.gguf"
    file.write_bytes(bundle.members["directions.gguf"])
    reader = gguf.GGUFReader(file)
    tensors = {t.name: np.array(t.data) for t in reader.tensors}
    assert set(tensors) == {f"direction.{n}" for n in bundle.layers}
    assert all(np.array_equal(tensors[f"direction.{n}"], v) for n, v in bundle.directions.items())
