"""Scale a gate so that its mean coefficient is 1, and its direction inversely: the steering stays the same.

A ReLU chain is positively homogeneous, so the factor goes into its last layer. Any other gate gets a final
Mul by a constant per block. A negative mean (of a gate that may be below 0) also flips the direction. A block
whose mean is 0 is dropped: its gate never opens, or its coefficients cancel to less than CANCELLED of their
size, so that no mean-equivalent constant exists and the factor would be rounding alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgesteer.bundle import GateWeights
from edgesteer.bundle.refusal import refusal
from edgesteer_converters.artifact import Artifact
from edgesteer_converters.networks.merge import scale
from edgesteer_converters.parity import coefficients_of

F32 = npt.NDArray[np.float32]
CANCELLED = 1e-6


def mean_coefficients(artifact: Artifact, activations: Mapping[int, F32]) -> dict[int, float]:
    """Block -> the mean coefficient over its rows, in float64; 0.0 for a block that has none.

    Raises:
        BundleError: no rows for a block, rows of another width, or a coefficient that is not finite.
    """
    assert artifact.gate is not None
    ask, means = coefficients_of(artifact.gate), {}
    for n, direction in sorted(artifact.directions.items()):
        rows = np.asarray(activations.get(n, np.empty((0, 0))), np.float32)
        if rows.ndim != 2 or not len(rows) or rows.shape[1] != len(direction):
            raise refusal("activations", f"{list(rows.shape)} at block {n}", f"[rows, {len(direction)}]",
                          "capture activations for every block")  # fmt: skip
        values = ask(n, rows).astype(np.float64)
        if not np.isfinite(values).all():
            raise refusal("gate", f"NaN or infinity at block {n}", "finite coefficients", "train again")
        size = float(np.abs(values).mean())
        means[n] = float(values.mean()) if abs(values.mean()) > CANCELLED * size else 0.0
    return means


def normalise(artifact: Artifact, activations: Mapping[int, F32]) -> Artifact:
    """`artifact` with mean coefficient 1 in every block over `activations`; a constant is returned unchanged.

    Args:
        activations: block -> float32 [rows, n_embd], at tokens in scope: the residual stream that the gate
            reads, steered at the blocks before it.
    Raises:
        BundleError: as `mean_coefficients`; or the mean is 0 in every block.
    """
    if artifact.gate is None:
        return artifact
    means = mean_coefficients(artifact, activations)
    kept = {n: mean for n, mean in means.items() if mean}
    if not kept:
        expected = "a gate that opens for some token in scope"
        remedy = "capture activations of the kind that it was trained on"
        raise refusal("gate", "a mean coefficient of 0 in every block", expected, remedy)
    directions = {n: (artifact.directions[n] * mean).astype(np.float32) for n, mean in kept.items()}
    without = [n for n in means if n not in kept]
    facts = {
        "mean_coefficient": {str(n): mean for n, mean in kept.items()},
        "dropped_blocks": without,
        "dropped": [
            *artifact.facts.get("dropped", []),
            *(f"block {n}: a mean coefficient of 0" for n in without),
        ],
    }
    gate = _scaled(artifact.gate, {n: 1 / mean for n, mean in kept.items()})
    return replace(artifact, directions=directions, gate=gate, facts={**artifact.facts, **facts})


def _scaled(gate: GateWeights | bytes, factors: Mapping[int, float]) -> GateWeights | bytes:
    if isinstance(gate, bytes):
        return scale(gate, factors)
    return {n: _last_layer_times(gate[n], factor) for n, factor in factors.items()}


def _last_layer_times(layers: Sequence[tuple[F32, F32]], factor: float) -> list[tuple[F32, F32]]:
    *before, (weight, bias) = layers
    return [*before, ((weight * factor).astype(np.float32), (bias * factor).astype(np.float32))]
