"""The rank-1 ReLU map h' = h + relu(w.h + b) z, by alternating least squares. No gradient.

Given z, each row's best coefficient is delta.z / z.z, and w, b are the ridge regression of it on standardised
h; given the coefficients, z is their least-squares fit to delta. Where the target is not positive and the gate
is closed already, ReLU gives zero whatever the pre-activation: such rows keep theirs, and do not pull on w.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edgesteer.learn.methods.block_fit import (
    F32,
    F64,
    I32,
    BlockFit,
    Options,
    along,
    best_direction,
    finished,
    mean_of,
)
from edgesteer.learn.methods.standard import Ridge, Standard


class Probe(NamedTuple):
    """relu(X @ w + b) * z on standardised h; float64."""

    w: F64
    b: float
    z: F64


def fit(h: F32, delta: F32, weight: F32, options: Options, pair: I32 | None) -> BlockFit | None:
    """See methods.Core; None where the mean delta is zero or the gate never opens."""
    standard = Standard(h, weight)
    found = probe(standard.X, delta, weight, options)
    if found is None:
        return None
    layer = standard.on_h(found.w[:, None], np.array([found.b]))
    del standard
    return finished((layer,), found.z, h, delta, weight)


def probe(X: F32, delta: F32, weight: F32, options: Options) -> Probe | None:
    """The map on standardised h; None where there is none."""
    z = mean_of(delta, weight)
    if not z.any():
        return None
    ridge, total = Ridge(X, weight, options.ridge), weight.sum(dtype=np.float64)
    pre: F64 | None = None
    for _ in range(options.rounds):
        wanted = along(delta, z)
        if pre is not None:
            wanted = np.where((wanted <= 0) & (pre < 0), pre, wanted)
        w = ridge.solve(wanted - weight @ wanted / total)
        inner = (X @ w.astype(np.float32)).astype(np.float64)
        b = float(weight @ (wanted - inner) / total)
        pre = inner + b
        z = best_direction(np.maximum(pre, 0), delta, weight)
        if not z.any():
            return None
    return Probe(w, b, z)
