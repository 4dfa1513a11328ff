"""The constant nearest to all deltas: their weighted mean."""

from __future__ import annotations

from edgesteer.learn.methods.block_fit import F32, I32, BlockFit, Options, finished, mean_of


def fit(h: F32, delta: F32, weight: F32, options: Options, pair: I32 | None) -> BlockFit | None:
    """See methods.Core; None where the mean is zero."""
    return finished((), mean_of(delta, weight), h, delta, weight)
