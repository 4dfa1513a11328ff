"""What every method takes and gives: options, checked rows, a BlockFit in the format's scale.

In:  rows as they were recorded; the layers and direction that a method found.
Out: a BlockFit whose mean coefficient over those rows is 1, and what it explains of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from edgesteer.errors import LearnError

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
Layers = tuple[tuple[F32, F32], ...]

# Rows that are turned into float64 at a time.
CHUNK = 512


@dataclass(frozen=True, slots=True)
class Options:
    """ridge: weight of |w|^2 against the mean squared error, for h in units of its standard deviation.
    rounds: of alternating least squares. hidden: ReLU units of psr_mlp's hidden layer. seed: of its start.
    cap: where given, a row whose |delta| is more than `cap` times the median weighs (cap median / |delta|)^2 times
        as much, so that a few tokens with massive activations do not decide for all: of the pirate trait's rows
        at block 2 of SmolLM2-135M, 1 % hold 85 % of |delta|^2.
    """

    ridge: float = 0.03
    rounds: int = 30
    hidden: int = 8
    seed: int = 0
    cap: float | None = None

    def __post_init__(self) -> None:
        if not (0 < self.ridge < float("inf") and self.rounds >= 1 and self.hidden >= 2 and self.seed >= 0):
            raise LearnError(
                f"{self}: expected ridge above 0, rounds at least 1, hidden at least 2, seed at least 0"
            )
        if self.cap is not None and not self.cap > 0:
            raise LearnError(f"{self}: expected a cap above 0, or none")


@dataclass(frozen=True, slots=True, eq=False)
class BlockFit:
    """h' = h + c(h) * direction.

    direction: float32 [n_embd]. layers: ((W [n_in, k], b [k]), ...), float32, each relu(x W + b), the last with
    k = 1, as `Bundle.build` takes them; empty for the constant c = 1.
    explained: share of |delta|^2 over the fitted rows that the steering accounts for; 1 is all, and below 0
    it is worse than none.
    """

    direction: F32
    layers: Layers
    explained: float

    def coefficient(self, h: F32) -> F32:
        """c(h), float32 [rows], for h [rows, n_embd]."""
        return coefficient(self.layers, h)


def coefficient(layers: Layers, h: F32) -> F32:
    """What a gate gives, float32 [rows]; 1 where it has no layers."""
    if not layers:
        return np.ones(len(h), dtype=np.float32)
    signal = h
    for W, b in layers:
        signal = np.maximum(signal @ W + b, np.float32(0))
    return signal[:, 0]


def checked(h: F32, delta: F32, weight: F32 | None, options: Options) -> F32:
    """The weights, capped as the options say, once everything is found to be fit for fitting. Raises LearnError."""
    if h.ndim != 2 or h.shape != delta.shape or (weight is not None and weight.shape != h.shape[:1]):
        shapes = f"h {h.shape}, delta {delta.shape}" + (
            f", weight {weight.shape}" if weight is not None else ""
        )
        raise LearnError(f"training rows: {shapes}; expected h and delta [rows, n_embd], weight [rows]")
    if not h.size:
        raise LearnError("training rows: none, expected at least one; give more questions")
    weight = np.ones(len(h), dtype=np.float32) if weight is None else weight
    if not (np.isfinite(weight).all() and (weight >= 0).all() and weight.any()):
        raise LearnError("training rows: weights below 0, not finite or all 0, expected positive ones")
    for values, name in ((h, "h"), (delta, "delta")):
        if not all(np.isfinite(values[i : i + CHUNK]).all() for i in range(0, len(values), CHUNK)):
            raise LearnError(f"training rows: NaN or infinity in {name}, expected finite activations")
    return weight if options.cap is None else _capped(delta, weight, options.cap)


def _capped(delta: F32, weight: F32, cap: float) -> F32:
    length = np.linalg.norm(delta, axis=1)
    most = cap * float(np.median(length[weight > 0]))
    share = np.minimum(1, most / np.maximum(length, most)) if most > 0 else np.ones_like(length)
    return np.asarray(weight * np.square(share), dtype=np.float32)


def mean_of(values: F32, weight: F32) -> F64:
    """The weighted mean row, float64 [n_embd]."""
    total = np.zeros(values.shape[1])
    for i in range(0, len(values), CHUNK):
        total += weight[i : i + CHUNK].astype(np.float64) @ values[i : i + CHUNK].astype(np.float64)
    return np.asarray(total / weight.sum(dtype=np.float64))


def along(delta: F32, z: F64) -> F64:
    """Each row's best coefficient of z: delta.z / z.z, float64 [rows]."""
    length = float(np.linalg.norm(z))
    return np.asarray((delta @ (z / length).astype(np.float32)).astype(np.float64) / length)


def best_direction(c: F64, delta: F32, weight: F32) -> F64:
    """The z that explains most of delta where the coefficients are c; zero where they all are."""
    pull = weight * c
    power = float(pull @ c)
    if power == 0:
        return np.zeros(delta.shape[1])
    top = np.abs(pull).max()
    return np.asarray(((pull / top).astype(np.float32) @ delta).astype(np.float64) * (top / power))


def explained(
    c: npt.NDArray[np.floating], direction: npt.NDArray[np.floating], delta: F32, weight: F32
) -> float:
    """1 - weighted |delta - c z|^2 / |delta|^2."""
    z: F64 = np.asarray(direction, dtype=np.float64)
    power = total_power(delta, weight)
    if not (power > 0 and z.any()):
        return 0.0
    gained = c * (2 * along(delta, z) - c) * weight.astype(np.float64)
    return float(gained.sum() * (z @ z) / power)


def total_power(delta: F32, weight: F32) -> float:
    """Weighted sum of |delta|^2."""
    total = 0.0
    for i in range(0, len(delta), CHUNK):
        squares = np.square(delta[i : i + CHUNK].astype(np.float64)).sum(axis=1)
        total += float(weight[i : i + CHUNK] @ squares)
    return total


def finished(layers: Sequence[tuple[F64, F64]], z: F64, h: F32, delta: F32, weight: F32) -> BlockFit | None:
    """The fit in float32, with the mean coefficient moved from the gate to the direction: relu(c x) = c relu(x)
    for c > 0. None where the gate never opens or nothing is left of z."""
    assert all(left[0].shape[1] == right[0].shape[0] for left, right in pairwise(layers))
    single: Layers = tuple((W.astype(np.float32), b.astype(np.float32)) for W, b in layers)
    mean = float(weight @ coefficient(single, h).astype(np.float64) / weight.sum(dtype=np.float64))
    direction = (z * mean).astype(np.float32)
    if not (mean > 0 and direction.any() and np.isfinite(direction).all()):
        return None
    if layers:
        W, b = layers[-1]
        single = (*single[:-1], ((W / mean).astype(np.float32), (b / mean).astype(np.float32)))
    return BlockFit(direction, single, explained(coefficient(single, h), direction, delta, weight))
