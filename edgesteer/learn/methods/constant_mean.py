"""The constant nearest to all deltas: their weighted mean."""

from __future__ import annotations

from edgesteer.learn.methods.block_fit import F32, I32, BlockFit, Options, checked, finished, mean_of


def fit(
    h: F32,
    delta: F32,
    weight: F32 | None = None,
    options: Options = Options(),  # noqa: B008 - immutable
    pair: I32 | None = None,
) -> BlockFit | None:
    """See methods.Fit; None where the mean is zero."""
    weight = checked(h, delta, weight, options)
    return finished((), mean_of(delta, weight), h, delta, weight)
