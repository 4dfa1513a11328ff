"""Does a gate give the coefficients of its producer's network? The largest difference per block."""

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
"""Largest difference of a coefficient allowed in float32, for coefficients up to 1; in proportion above."""


class Parity(NamedTuple):
    """How one block's coefficients differ: over `n` of them, the largest of which is `size` in the
    producer's."""

    block: int
    max_abs: float
    mean_abs: float
    n: int
    size: float


def coefficients_of(gate: GateWeights | bytes) -> Coefficients:
    """The gate as a function, outside the runtime.

    NumPy for weights, ONNX Runtime for bytes. Raises BundleError for bytes that ONNX Runtime refuses.
    """
    if isinstance(gate, bytes):
        run = gate_session(gate)
        return lambda block, activation: run(activation, block)
    return lambda block, activation: evaluate_gate(gate[block], np.asarray(activation, np.float32))


def same_coefficients(
    network: Coefficients, gate: GateWeights | bytes, activations: Mapping[int, F32]
) -> list[Parity]:
    """The figures, without a judgement.

    Args:
        network: the producer's.
        gate: what was made of it.
        activations: block -> float32 [rows, n_embd].
    Raises:
        BundleError: no activations.
    """
    if not activations or any(len(rows) == 0 for rows in activations.values()):
        raise refusal("gate", "no activations to compare on", "some rows for every block", "pass activations")
    ask, found = coefficients_of(gate), []
    for n in sorted(activations):
        expected = np.asarray(network(n, activations[n]), np.float64)
        error = np.abs(ask(n, activations[n]) - expected)
        found.append(
            Parity(n, float(error.max()), float(error.mean()), error.size, float(np.abs(expected).max()))
        )
    return found


def require(found: list[Parity], where: str, max_abs: float = MAX_ABS) -> None:
    """Raise BundleError for the worst block beyond `max_abs`; NaN is beyond it too."""
    missed = [p for p in found if not p.max_abs <= max_abs * max(1.0, p.size)]
    if missed:
        worst = max(missed, key=lambda p: np.inf if np.isnan(p.max_abs) else p.max_abs)
        text = (
            f"coefficients that differ by up to {worst.max_abs:.3g} (mean {worst.mean_abs:.3g}, {worst.n} tokens, "
            f"largest coefficient {worst.size:.3g}) at block {worst.block}"
        )
        raise refusal(where, text, f"at most {max_abs:g}", "convert again, or report the network")
