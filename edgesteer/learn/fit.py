"""Fits a block's steering to its deltas. Pure NumPy, no gradient, deterministic.

In:  h and delta, float32 [rows, n_embd], at the positions in scope.
Out: a gate and a direction: h' = h + relu(w.h + b) * z, or the constant h' = h + z.

The rank-1 ReLU map is fitted by alternating least squares. Given z, each row's best coefficient is
delta.z / z.z, and w, b are the ridge regression of it on standardised h; given the coefficients, z is their
least-squares fit to delta. Where the target is not positive and the gate is closed already, ReLU gives zero
whatever the pre-activation: such rows keep theirs, and do not pull on w.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rank1:
    """relu(h @ w + b) * z; scaled so that the mean coefficient over the rows it was fitted on is 1.

    w, z: float32 [n_embd]. b: float32 scalar.
    """

    w: F32
    b: np.float32
    z: F32

    def coefficient(self, h: F32) -> F32:
        """float32 [rows] for h [rows, n_embd]."""
        return np.asarray(np.maximum(h @ self.w + self.b, 0), dtype=np.float32)


def fit_constant(delta: F32) -> F32:
    """The constant that is nearest to all deltas: their mean. float32 [n_embd]."""
    return np.asarray(delta.mean(axis=0, dtype=np.float64), dtype=np.float32)


def fit_rank1(h: F32, delta: F32, *, ridge: float = 0.03, rounds: int = 30) -> Rank1 | None:
    """The rank-1 ReLU map from h to delta; None where its gate never opens (the block is then dropped).

    ridge: weight of |w|^2 against the mean squared error, for h in units of its standard deviation.
    """
    mean, scale = _moments(h)
    X = (h - mean) / scale
    inverse = np.linalg.inv(X.T @ X + ridge * len(X) * np.eye(X.shape[1]))
    target = delta.astype(np.float64)
    z = target.mean(axis=0)
    if not z.any():
        return None
    pre: F64 | None = None
    for _ in range(rounds):
        wanted = target @ z / (z @ z)
        if pre is not None:
            wanted = np.where((wanted <= 0) & (pre < 0), pre, wanted)
        b = wanted.mean()
        w = inverse @ (X.T @ (wanted - b))
        pre = X @ w + b
        opened = np.maximum(pre, 0)
        if not opened.any():
            return None
        z = opened @ target / (opened @ opened)
    w = w / scale
    return _normalised(w, float(b - w @ mean), z, float(opened.mean()))


def _moments(h: F32) -> tuple[F64, F64]:
    mean = h.mean(axis=0, dtype=np.float64)
    scale = h.std(axis=0, dtype=np.float64)
    scale[scale == 0] = 1.0  # a dimension that never changes tells nothing; b takes it up
    return mean, scale


def _normalised(w: F64, b: float, z: F64, mean: float) -> Rank1 | None:
    """Move the mean coefficient from the gate to the direction: relu(c x) = c relu(x) for c > 0."""
    if not (mean > 0 and z.any()):
        return None
    return Rank1(
        np.asarray(w / mean, dtype=np.float32), np.float32(b / mean), np.asarray(z * mean, dtype=np.float32)
    )
