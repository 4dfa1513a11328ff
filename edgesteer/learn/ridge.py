"""Ridge regression on standardised h, whose memory is bounded by one block's rows.

In:  h, float32 [rows, n_embd]; weights.
Out: X = (h - mean) / deviation in float32, and the solution of (X'X + ridge) w = X'y.

For rows x n_embd = 8000 x 4096: X takes 131 MB beside h and delta (131 MB each); the Gram matrix is summed
from chunks of 512 rows in float64, 134 MB with as much again for the next chunk's product, and its Cholesky
factor 134 MB: at most 0.8 GB in all, and no copy of h in float64.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

# Rows that are converted to float64 at a time.
CHUNK = 512

# Columns of a triangular system that are solved at a time.
_PANEL = 256


def mean_of(values: F32, weight: F32) -> F64:
    """The weighted mean row, float64 [n_embd]."""
    total = np.zeros(values.shape[1])
    for i in range(0, len(values), CHUNK):
        total += weight[i : i + CHUNK].astype(np.float64) @ values[i : i + CHUNK].astype(np.float64)
    return np.asarray(total / weight.sum(dtype=np.float64))


class Standard:
    """X: h standardised to weighted mean 0 and deviation 1 in each dimension, float32 [rows, n_embd]; 0 in
    dimensions that never change."""

    def __init__(self, h: F32, weight: F32) -> None:
        self.mean = mean_of(h, weight)
        self.deviation, still = _deviation(h, weight, self.mean)
        self.X: F32 = np.empty(h.shape, dtype=np.float32)
        for i in range(0, len(h), CHUNK):
            self.X[i : i + CHUNK] = (h[i : i + CHUNK] - self.mean) / self.deviation
        self.X[:, still] = 0

    def on_h(self, W: F64, b: F64) -> tuple[F64, F64]:
        """The layer on h that equals the layer (W [n_embd, k], b [k]) on X."""
        scaled = W / self.deviation[:, None]
        return scaled, b - self.mean @ scaled


def _deviation(h: F32, weight: F32, mean: F64) -> tuple[F64, npt.NDArray[np.bool_]]:
    total = np.zeros(h.shape[1])
    for i in range(0, len(h), CHUNK):
        total += weight[i : i + CHUNK].astype(np.float64) @ np.square(h[i : i + CHUNK] - mean)
    deviation = np.sqrt(total / weight.sum(dtype=np.float64))
    still = deviation <= np.finfo(np.float32).eps * np.abs(mean)
    return np.where(still, 1.0, deviation), still


class Ridge:
    """The regression of any target on the columns of X, factored once.

    ridge: against the weighted *mean* squared error, so that a row of weight 2 is that row twice.
    """

    def __init__(self, X: F32, weight: F32, ridge: float) -> None:
        self._X, self._weight = X, weight
        self._factor = np.linalg.cholesky(_gram(X, weight, ridge))
        starts = range(0, X.shape[1], _PANEL)
        self._panels = [slice(i, min(i + _PANEL, X.shape[1])) for i in starts]
        self._inverses = [np.linalg.inv(self._factor[p, p]) for p in self._panels]

    def solve(self, y: F64) -> F64:
        """w, float64 [n_embd], for a target y [rows] of mean 0."""
        top = max(float(np.abs(y).max()), np.finfo(np.float64).tiny)
        right = ((self._weight * y / top).astype(np.float32) @ self._X).astype(np.float64)
        return self._back(self._forward(right)) * top

    def _forward(self, right: F64) -> F64:
        out, L = np.zeros_like(right), self._factor
        for p, inverse in zip(self._panels, self._inverses, strict=True):
            out[p] = inverse @ (right[p] - L[p, : p.start] @ out[: p.start])
        return out

    def _back(self, right: F64) -> F64:
        out, L = np.zeros_like(right), self._factor
        for p, inverse in reversed(list(zip(self._panels, self._inverses, strict=True))):
            out[p] = inverse.T @ (right[p] - out[p.stop :] @ L[p.stop :, p])
        return out


def _gram(X: F32, weight: F32, ridge: float) -> F64:
    gram = np.zeros((X.shape[1], X.shape[1]))
    for i in range(0, len(X), CHUNK):
        part = X[i : i + CHUNK] * np.sqrt(weight[i : i + CHUNK].astype(np.float64))[:, None]
        gram += part.T @ part
    gram.flat[:: X.shape[1] + 1] += ridge * weight.sum(dtype=np.float64)
    return gram
