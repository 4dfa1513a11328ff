"""Ways to fit one block's steering to its rows, all with the same inputs and the same outcome.

    constant_mean  h' = h + mean delta
    constant_pca   h' = h + the first principal component of the deltas, as long as the mean is along it
    psr_relu       h' = h + relu(w.h + b) z                        closed form, alternating least squares
    psr_mlp        h' = h + relu(relu(h W1 + b1) w2 + b2) z         Adam, from the closed form on

    fit(h, delta, weight, options, pair) -> BlockFit, or None where there is nothing to learn

NumPy alone, deterministic. A new method is one module with such a `fit` and one line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

from edgesteer.errors import LearnError
from edgesteer.learn.methods import constant_mean, constant_pca, psr_mlp, psr_relu
from edgesteer.learn.methods.block_fit import F32, I32, BlockFit, Layers, Options, checked
from edgesteer.learn.rows import Rows

__all__ = ["METHODS", "BlockFit", "Fit", "Layers", "Options", "fit_blocks", "method"]


class Fit(Protocol):
    """h, delta: float32 [rows, n_embd]. weight: float32 [rows], None for 1 each. pair: int32 [rows], rows of one
    pair belong together; None for each on its own. Raises LearnError for no rows, NaN, or shapes that differ."""

    def __call__(
        self,
        h: F32,
        delta: F32,
        weight: F32 | None = None,
        options: Options = ...,
        pair: I32 | None = None,
    ) -> BlockFit | None: ...


Core = Callable[[F32, F32, F32, Options, I32 | None], BlockFit | None]
"""What a method's module has to bring: Fit on rows that were found fit for it, their weights capped."""


def _on_checked_rows(core: Core) -> Fit:
    def fit(
        h: F32,
        delta: F32,
        weight: F32 | None = None,
        options: Options = Options(),  # noqa: B008 - immutable
        pair: I32 | None = None,
    ) -> BlockFit | None:
        return core(h, delta, checked(h, delta, weight, options), options, pair)

    return fit


METHODS: Mapping[str, Fit] = MappingProxyType(
    {
        "constant_mean": _on_checked_rows(constant_mean.fit),
        "constant_pca": _on_checked_rows(constant_pca.fit),
        "psr_relu": _on_checked_rows(psr_relu.fit),
        "psr_mlp": _on_checked_rows(psr_mlp.fit),
    }
)


def method(name: str) -> Fit:
    """The method of that name. Raises LearnError where there is none."""
    if name not in METHODS:
        raise LearnError(f"method {name!r}: unknown, expected one of {', '.join(METHODS)}")
    return METHODS[name]


def fit_blocks(
    rows: Rows,
    fit: Fit,
    options: Options = Options(),  # noqa: B008 - immutable
    progress: Callable[[float], None] = lambda fraction: None,
) -> dict[int, BlockFit]:
    """Every block's fit; blocks that have nothing to learn are left out."""
    fitted = {}
    for done, (block, h, delta) in enumerate(rows.each()):
        progress(done / len(rows.blocks))
        one = fit(h, delta, None, options, rows.pair)
        if one is not None:
            fitted[block] = one
    return fitted
