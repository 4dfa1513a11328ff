"""Knows whether a gate says what its producer's network says: the largest difference per block.

In: how to ask the network, the gate, and activations. Out: figures, or an error with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgesteer.bundle import GateWeights
from edgesteer.bundle.refusal import refusal
from edgesteer_converters.networks.coefficients import asking

F32 = npt.NDArray[np.float32]
MAX_ABS = 1e-5
"""Largest difference of a coefficient allowed in float32, for coefficients up to 1; in proportion above."""


class Parity(NamedTuple):
    """How one block's coefficients differ: over `n` of them, the largest of which is `size` in the producer's."""

    block: int
    max_abs: float
    mean_abs: float
    n: int
    size: float


def same_coefficients(
    asked: Mapping[int, Callable[[F32], F32]], gate: GateWeights | bytes, activations: Mapping[int, F32]
) -> list[Parity]:
    """The figures, without a judgement.

    Args:
        asked: block -> the network as a function, activations [rows, n_embd] -> coefficients [rows].
        gate: what was made of it.
        activations: block -> float32 [rows, n_embd].
    Raises:
        BundleError: no activations.
    """
    if not activations or any(len(rows) == 0 for rows in activations.values()):
        raise refusal("gate", "no activations to compare on", "some rows for every block", "pass activations")
    ask, found = asking(gate), []
    for n in sorted(activations):
        expected = np.asarray(asked[n](activations[n]), np.float64)
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
