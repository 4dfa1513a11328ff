"""Compare a gate's coefficients with those of its producer's network, block by block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgesteer.bundle import GateWeights, evaluate_gate
from edgesteer.bundle.refusal import refusal
from edgesteer.bundle.verify import gate_session

F32 = npt.NDArray[np.float32]
Coefficients = Callable[[int, F32], F32]
"""(block, activations float32 [rows, n_embd]) -> coefficients float32 [rows]."""

MAX_ABS = 1e-5
"""Largest allowed difference of a coefficient in float32, for coefficients up to 1; in proportion above."""


class Parity(NamedTuple):
    """How a block's `n` coefficients differ. size: the producer's largest coefficient."""

    block: int
    max_abs: float
    mean_abs: float
    n: int
    size: float


def coefficients_of(gate: GateWeights | bytes) -> Coefficients:
    """The gate as a function that does not need the runtime.

    NumPy computes weights, ONNX Runtime bytes. Raises BundleError for bytes that ONNX Runtime refuses.
    """
    if isinstance(gate, bytes):
        run = gate_session(gate)
        return lambda block, activation: run(activation, block)
    return lambda block, activation: evaluate_gate(gate[block], np.asarray(activation, np.float32))


def same_coefficients(
    network: Coefficients, gate: GateWeights | bytes, activations: Mapping[int, F32]
) -> list[Parity]:
    """The differences of each block; `require` judges them.

    Args:
        network: the producer's.
        gate: the one that was made from it.
        activations: block -> float32 [rows, n_embd].
    Raises:
        BundleError: no activations.
    """
    if not activations or any(len(rows) == 0 for rows in activations.values()):
        raise refusal("gate", "no activations to compare on", "some rows for every block", "pass activations")
    coefficients, out = coefficients_of(gate), []
    for n in sorted(activations):
        expected = np.asarray(network(n, activations[n]), np.float64)
        error = np.abs(coefficients(n, activations[n]) - expected)
        out.append(
            Parity(n, float(error.max()), float(error.mean()), error.size, float(np.abs(expected).max()))
        )
    return out


def require(blocks: list[Parity], where: str, max_abs: float = MAX_ABS) -> None:
    """Raise BundleError for the worst block if it is beyond `max_abs` or NaN."""
    missed = [p for p in blocks if not p.max_abs <= max_abs * max(1.0, p.size)]
    if missed:
        worst = max(missed, key=lambda p: np.inf if np.isnan(p.max_abs) else p.max_abs)
        text = (
            f"coefficients that differ by up to {worst.max_abs:.3g} (mean {worst.mean_abs:.3g}, "
            f"{worst.n} tokens, largest coefficient {worst.size:.3g}) at block {worst.block}"
        )
        raise refusal(where, text, f"at most {max_abs:g}", "convert again, or report the network")
