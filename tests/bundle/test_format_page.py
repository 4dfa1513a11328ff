"""docs/format.md promises a whole reader: it reads what we write, and computes what the page says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesteer.bundle import Bundle, ModelInfo, evaluate_gate
from tests.bundle.samples import LAYERS, N_EMBD, gate_weights, psr, saved, vector

PAGE = Path(__file__).resolve().parents[2] / "docs" / "format.md"


@pytest.fixture(scope="module")
def reader() -> dict[str, Any]:
    code = PAGE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    return names


def test_the_reader_reads_vectors(reader: dict[str, Any], tmp_path: Path) -> None:
    bundle = vector()
    manifest, directions, gates = reader["read_bundle"](saved(bundle, tmp_path / "a.steer"))
    h = np.ones(N_EMBD, np.float32)
    assert manifest == bundle.manifest
    assert gates == {}
    np.testing.assert_allclose(reader["steer"](h, 2, 0.5, directions, gates), h + 0.5 * bundle.directions[2])
    np.testing.assert_array_equal(reader["steer"](h, 3, 0.5, directions, gates), h)


@pytest.mark.parametrize("widths", [(N_EMBD, 1), (N_EMBD, 3, 1)])
def test_the_reader_reads_gates(reader: dict[str, Any], tmp_path: Path, widths: tuple[int, ...]) -> None:
    weights = gate_weights(widths=widths)
    _, directions, gates = reader["read_bundle"](saved(psr(gate=weights), tmp_path / "a.steer"))
    for h in np.random.default_rng(3).standard_normal((5, N_EMBD), dtype=np.float32):
        for n in LAYERS:
            expected = h + 1.5 * evaluate_gate(weights[n], h[None]) * directions[n]
            steered = reader["steer"](h, n, 1.5, directions, gates)
            np.testing.assert_allclose(steered, expected, rtol=1e-5, atol=1e-6)


def test_the_example_with_numbers(reader: dict[str, Any], tmp_path: Path) -> None:
    gate = {5: [(np.array([[0.5], [1], [0]], np.float32), np.array([-0.25], np.float32))]}
    bundle = Bundle.build(
        name="toy", directions={5: [2, 0, -1]}, gate=gate, model=ModelInfo("llama", "Toy", 3, 7, "F32")
    )
    _, directions, gates = reader["read_bundle"](saved(bundle, tmp_path / "toy.steer"))
    first = reader["steer"](np.array([1, 0.5, 4], np.float32), 5, 1.5, directions, gates)
    second = reader["steer"](np.array([-1, 0.25, 4], np.float32), 5, 1.5, directions, gates)
    assert first.tolist() == [3.25, 0.5, 2.875]
    assert second.tolist() == [-1, 0.25, 4]
