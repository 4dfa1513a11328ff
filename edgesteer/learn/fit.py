"""Fit one block's steering to its training rows: a constant, or a ReLU gate with a direction.

    constant    h' = h + z                    z: the mean of the deltas
    ReLU gate   h' = h + relu(w.h + b) z      alternating least squares, no gradient

In:  h and delta, float32 [rows, n_embd]: the block's residual stream, and what steering should add to it.
Out: a BlockFit whose mean coefficient over those rows is 1, or None if there is nothing to learn.

Given z, a row's best coefficient is delta.z / z.z, and w, b are its ridge regression on standardised h; given
the coefficients, z is their least-squares fit to delta. If a row's target is not positive and its gate is
closed, ReLU gives zero whatever the pre-activation, so the row keeps its pre-activation as target and does
not pull on w.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgesteer.bundle.gate import evaluate_gate
from edgesteer.errors import LearnError
from edgesteer.generate.progress import Done, no_progress
from edgesteer.learn.recipe import Recipe
from edgesteer.learn.ridge import CHUNK, F32, F64, Ridge, Standard, mean_of
from edgesteer.learn.rows import Rows

Layers = tuple[tuple[F32, F32], ...]

ROUNDS = 30  # of alternating least squares


@dataclass(frozen=True, slots=True, eq=False)
class BlockFit:
    """h' = h + c(h) * direction.

    direction: float32 [n_embd].
    layers: ((W [n_in, k], b [k]), ...), float32, each relu(x W + b), the last with k = 1, as `Bundle.build`
        takes them; empty for the constant c = 1.
    explained: share of |delta|^2 over the fitted rows that steering accounts for; 1 is all, and below 0 is
        worse than no steering.
    """

    direction: F32
    layers: Layers
    explained: float

    def coefficient(self, h: F32) -> F32:
        """c(h), float32 [rows], for h [rows, n_embd]."""
        return _coefficient(self.layers, h)


def fit_blocks(rows: Rows, recipe: Recipe, progress: Done = no_progress) -> dict[int, BlockFit]:
    """Each block's fit by the recipe's method, without blocks that have nothing to learn."""
    fits = {}
    for done, (block, h, delta) in enumerate(rows.each()):
        progress(done / len(rows.blocks))
        if recipe.method == "constant":
            fit = fit_constant(h, delta, recipe.cap)
        else:
            fit = fit_relu(h, delta, recipe.ridge, recipe.cap)
        if fit is not None:
            fits[block] = fit
    return fits


def fit_constant(h: F32, delta: F32, cap: float | None = None) -> BlockFit | None:
    """A constant: the mean delta; None if that is zero. cap, errors: see `fit_relu`."""
    weight = _weights(h, delta, cap)
    return _scaled((), mean_of(delta, weight), h, delta, weight)


def fit_relu(
    h: F32, delta: F32, ridge: float, cap: float | None = None, rounds: int = ROUNDS
) -> BlockFit | None:
    """A gate of one ReLU unit and its direction; None if the mean delta is zero or the gate never opens.

    ridge: weight of |w|^2 against the mean squared error, for h in units of its standard deviation.
    cap: a row whose |delta| is more than `cap` times the median gets the weight (cap median / |delta|)^2, so
        that a few tokens with massive activations do not dominate: of the pirate trait's rows at block 2 of
        SmolLM2-135M, 1 % hold 85 % of |delta|^2. None: all rows have the same weight.
    Raises LearnError for no rows, NaN or infinity, or shapes that differ.
    """
    weight = _weights(h, delta, cap)
    z = mean_of(delta, weight)
    if not z.any():
        return None
    standard = Standard(h, weight)
    solver, total = Ridge(standard.X, weight, ridge), weight.sum(dtype=np.float64)
    pre: F64 | None = None
    for _ in range(rounds):
        wanted = _along(delta, z)
        if pre is not None:
            wanted = np.where((wanted <= 0) & (pre < 0), pre, wanted)
        w = solver.solve(wanted - weight @ wanted / total)
        inner = (standard.X @ w.astype(np.float32)).astype(np.float64)
        b = float(weight @ (wanted - inner) / total)
        pre = inner + b
        z = _best_direction(np.maximum(pre, 0), delta, weight)
        if not z.any():
            return None
    layer = standard.on_h(w[:, None], np.array([b]))
    del standard, solver  # as large as the rows: free them before as much is allocated again
    return _scaled((layer,), z, h, delta, weight)


def _weights(h: F32, delta: F32, cap: float | None) -> F32:
    """The rows' weights, float32 [rows]. Raises LearnError for rows that cannot be fitted."""
    if h.ndim != 2 or h.shape != delta.shape:
        raise LearnError(f"training rows: h {h.shape}, delta {delta.shape}; expected both [rows, n_embd]")
    if not h.size:
        raise LearnError("training rows: none, expected at least one; give more questions")
    for values, name in ((h, "h"), (delta, "delta")):
        if not all(np.isfinite(values[i : i + CHUNK]).all() for i in range(0, len(values), CHUNK)):
            raise LearnError(f"training rows: NaN or infinity in {name}, expected finite activations")
    if cap is None:
        return np.ones(len(h), dtype=np.float32)
    length = np.linalg.norm(delta, axis=1)
    most = cap * float(np.median(length))
    share = np.minimum(1, most / np.maximum(length, most)) if most > 0 else np.ones_like(length)
    return np.asarray(np.square(share), dtype=np.float32)


def _along(delta: F32, z: F64) -> F64:
    """Each row's best coefficient of z: delta.z / z.z, float64 [rows]."""
    length = float(np.linalg.norm(z))
    return np.asarray((delta @ (z / length).astype(np.float32)).astype(np.float64) / length)


def _best_direction(c: F64, delta: F32, weight: F32) -> F64:
    """The z that explains most of delta with the coefficients c; zero if all of them are."""
    pull = weight * c
    power = float(pull @ c)
    if power == 0:
        return np.zeros(delta.shape[1])
    top = np.abs(pull).max()
    return np.asarray(((pull / top).astype(np.float32) @ delta).astype(np.float64) * (top / power))


def _scaled(layers: Sequence[tuple[F64, F64]], z: F64, h: F32, delta: F32, weight: F32) -> BlockFit | None:
    """The fit in float32, with its mean coefficient moved to the direction: relu(c x) = c relu(x) for c > 0.

    None if the gate never opens or z vanishes in float32.
    """
    gate: Layers = tuple((W.astype(np.float32), b.astype(np.float32)) for W, b in layers)
    mean = float(weight @ _coefficient(gate, h).astype(np.float64) / weight.sum(dtype=np.float64))
    direction = (z * mean).astype(np.float32)
    if not (mean > 0 and direction.any() and np.isfinite(direction).all()):
        return None
    gate = tuple(((W / mean).astype(np.float32), (b / mean).astype(np.float32)) for W, b in layers)
    return BlockFit(direction, gate, _explained(_coefficient(gate, h), direction, delta, weight))


def _coefficient(layers: Layers, h: F32) -> F32:
    """The coefficients, float32 [rows]; 1 without layers."""
    return evaluate_gate(layers, h) if layers else np.ones(len(h), dtype=np.float32)


def _explained(c: npt.NDArray[np.floating], direction: F32, delta: F32, weight: F32) -> float:
    """1 - weighted |delta - c z|^2 / |delta|^2."""
    z = direction.astype(np.float64)
    power = 0.0
    for i in range(0, len(delta), CHUNK):
        squares = np.square(delta[i : i + CHUNK].astype(np.float64)).sum(axis=1)
        power += float(weight[i : i + CHUNK] @ squares)
    if not power > 0:
        return 0.0
    gained = c * (2 * _along(delta, z) - c) * weight.astype(np.float64)
    return float(gained.sum() * (z @ z) / power)
