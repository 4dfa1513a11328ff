"""Smaller gates: fewer bytes, a loss that is told truly, and the ORT format."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from torch import nn

from edgesteer.bundle import build_gate, check_gate
from edgesteer.errors import BundleError
from edgesteer.runtime.native import OrtGate
from edgesteer_converters.networks.export import export_gate
from edgesteer_converters.networks.quantize import KINDS, quantize, to_ort
from edgesteer_converters.parity import coefficients_of
from tests.converters.torch_gates import BLOCKS, activations, networks, relu_networks

WIDTH, HIDDEN = 64, 16
BIG: dict[str, Any] = {"width": WIDTH, "hidden": HIDDEN}
ROWS = activations(width=WIDTH)


def _gate(kind: str) -> Any:
    if kind == "relu":
        return export_gate(relu_networks(**BIG), BLOCKS, WIDTH)
    if kind == "one block":
        return export_gate(networks(nn.Tanh(), blocks=(1,), **BIG), (1,), WIDTH)
    if kind == "shared":  # no tables: all blocks have the same weights
        return export_gate(networks(nn.Tanh(), **BIG)[1], BLOCKS, WIDTH)
    return export_gate(networks(nn.GELU(), last=nn.Tanh(), **BIG), BLOCKS, WIDTH)


@pytest.mark.parametrize("gate", ["relu", "gelu", "one block", "shared"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_smaller_gate_keeps_the_rules_and_tells_its_loss(gate: str, kind: Any) -> None:
    given = _gate(gate)
    before = given if isinstance(given, bytes) else build_gate(given, "0" * 64)
    blocks = (1,) if gate == "one block" else BLOCKS
    rows = {n: ROWS[n] for n in blocks}
    made = quantize(given, kind, rows)
    check_gate(made.gate, blocks, WIDTH, "0" * 64)
    onnx.checker.check_model(made.gate, full_check=True)
    assert (made.bytes_after, made.bytes_before) == (len(made.gate), len(before))
    assert made.bytes_after < made.bytes_before * {"fp16": 0.75, "int8": 0.55}[kind]
    for parity in made.loss:
        error = np.abs(
            coefficients_of(made.gate)(parity.block, rows[parity.block])
            - coefficients_of(before)(parity.block, rows[parity.block])
        )
        assert parity.n == len(rows[parity.block])
        assert np.isclose(parity.max_abs, error.max(), atol=1e-6)
        assert np.isclose(parity.mean_abs, error.mean(), atol=1e-6)
        assert 0 < error.max() < {"fp16": 5e-3, "int8": 5e-2}[kind]
    assert kind in str(made)


@pytest.mark.parametrize("kind", KINDS)
def test_the_runtimes_own_engine_runs_it(kind: Any) -> None:
    made = quantize(_gate("gelu"), kind, ROWS)
    if OrtGate.available():
        engine = OrtGate(made.gate, list(BLOCKS), (6, WIDTH), "test")
        for n in BLOCKS:
            assert np.abs(engine.coefficient(n, ROWS[n]) - coefficients_of(made.gate)(n, ROWS[n])).max() < 1e-6


def test_int8_has_a_step_of_its_own_for_every_unit() -> None:
    """One huge unit does not cost the others their precision; each weight is within half a step."""
    rng = np.random.default_rng(0)
    first = rng.standard_normal((WIDTH, HIDDEN)).astype(np.float32)
    first[:, 0] *= 1000
    weights = {
        1: [
            (first, np.zeros(HIDDEN, np.float32)),
            (np.eye(HIDDEN, 1, -1, dtype=np.float32), np.zeros(1, np.float32)),
        ]
    }
    loss = quantize(weights, "int8", {1: ROWS[1]}).loss[0]  # the second layer reads unit 1 alone
    assert loss.max_abs <= np.abs(ROWS[1]).sum(axis=1).max() * np.abs(first[:, 1]).max() / 127 / 2 * 1.01


def test_a_matrix_of_zeros_stays_zero() -> None:
    weights = {1: [(np.zeros((WIDTH, 1), np.float32), np.ones(1, np.float32))]}
    assert quantize(weights, "int8", {1: ROWS[1]}).loss[0].max_abs == 0


def test_what_cannot_be_quantized_is_refused() -> None:
    gate = _gate("gelu")
    with pytest.raises(BundleError, match="one of fp16, int8"):
        quantize(gate, "int4", ROWS)  # type: ignore[arg-type]
    for rows in ({}, {1: ROWS[1][:0]}):
        with pytest.raises(BundleError, match="no activations"):
            quantize(gate, "fp16", rows)
    with pytest.raises(BundleError, match="no float32 matrix"):
        quantize(quantize(gate, "fp16", ROWS).gate, "fp16", ROWS)
    huge = {1: [(np.full((WIDTH, 1), 1e5, np.float32), np.zeros(1, np.float32))]}
    with pytest.raises(BundleError, match="65504"):
        quantize(huge, "fp16", {1: ROWS[1]})


def test_the_ort_format_gives_the_same_coefficients() -> None:
    for gate in (
        _gate("gelu"),
        quantize(_gate("gelu"), "int8", ROWS).gate,
        build_gate(_gate("relu"), "0" * 64),
    ):
        data = to_ort(gate, ROWS)
        assert data[4:8] == b"ORTM"
        for n in BLOCKS:
            assert np.abs(coefficients_of(data)(n, ROWS[n]) - coefficients_of(gate)(n, ROWS[n])).max() < 1e-5
    with pytest.raises(BundleError, match="ONNX Runtime"):
        to_ort(b"no model", ROWS)
