"""The first principal component of the deltas, as a constant.

The uncentred second moment: a delta is a difference already, and its mean is what is looked for. The component
is signed and scaled so that it is the mean delta's projection on it. Found by Lanczos iteration on the rows
themselves, so that no n_embd x n_embd matrix is made.
"""

from __future__ import annotations

import numpy as np

from edgesteer.learn.methods.block_fit import F32, F64, I32, BlockFit, Options, finished, mean_of

_STEPS = 64


def fit(h: F32, delta: F32, weight: F32, options: Options, pair: I32 | None) -> BlockFit | None:
    """See methods.Core; None where the component is at right angles to the mean, or all deltas are zero."""
    mean = mean_of(delta, weight)
    top = float(np.abs(delta).max())
    if top == 0:
        return None
    component = principal(delta, weight, mean, top)
    return finished((), component * (component @ mean), h, delta, weight)


def principal(delta: F32, weight: F32, mean: F64, top: float) -> F64:
    """The unit vector with the largest weighted mean of (delta.v)^2, float64 [n_embd].

    Starts from the mean and a little of every direction, so that none is missed.
    """
    noise = np.random.default_rng(0).standard_normal(len(mean))
    basis = [_unit(mean / top + 1e-3 * noise)]
    images: list[F64] = []
    for _ in range(min(_STEPS, len(delta) + 1, len(mean))):
        pull = weight * (delta @ basis[-1].astype(np.float32)) / top
        images.append((pull.astype(np.float32) @ delta).astype(np.float64) / top)
        new = images[-1].copy()
        for _ in range(2):  # once leaves what rounding brought back
            for v in basis:
                new -= (new @ v) * v
        if np.linalg.norm(new) <= 1e-6 * max(np.linalg.norm(image) for image in images):
            break
        basis.append(_unit(new))
    V = np.array(basis[: len(images)])
    projected = V @ np.array(images).T
    _, vectors = np.linalg.eigh((projected + projected.T) / 2)
    return _unit(vectors[:, -1] @ V)


def _unit(v: F64) -> F64:
    return v / np.linalg.norm(v)
