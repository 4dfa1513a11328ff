"""How large an intervention is against the residual stream, block by block. Pure: no llama.cpp.

In:  a plan's terms; for the rows (tokens) of one text their strengths, their recorded coefficients, and the
     residual stream after steering.
Out: NormReport: per steered block the norms of stream and intervention, their ratio and their cosine.

At block N, for row t in scope, with h the residual stream after block N and before any steering there:

    u[t] = sum over terms i of strength_i * coefficient_i(h[t], N) * direction_i[N]        h'[t] = h[t] + u[t]
    ratio[t] = |u[t]| / |h[t]|        cosine[t] = h[t] . u[t] / (|h[t]| |u[t]|)

Norms are L2, in the units of the residual stream, which differ from model to model and grow along the blocks;
ratio and cosine have no unit. h is what the model computes *under the plan*, so the blocks before have
steered it already; it is recovered as h' - u from float32 values, so a ratio of 10^k costs k of its seven
digits.

What the numbers tell: where a plan is strong for its model, whether two plans are alike in size, and whether
a strength is out of all proportion. What they cannot tell: whether the model says what was meant, or still
makes sense. Directions are not alike: a small step may turn a model and a large one leave it be, and what the
blocks before have added is no longer counted here. Judge by replies, or measure them with 'edgesteer eval'.

Measured on SmolLM2-135M-Instruct Q4_1, over three questions with 24 greedy tokens each: `pirate` at its
default (1.5) had a median ratio of 0.013 to 0.016 and `pirate-constant` (2.2) one of 0.018; their largest,
always at block 23, were 0.13 to 0.15 and 0.17 to 0.18. Yet the smaller one showed more: two of three replies
under `pirate` were like a pirate's or a sailor's, and one of three under `pirate-constant`. At twice the
default the medians were 0.030 to 0.037, the largest 0.25 to 0.34; all six replies were like a pirate's, and
two of them repeated words. It is one small model, one trait and a few replies: an example, not a limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesteer.plan import Term

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BlockNorms:
    """One block; means over the rows in scope there, None where no row has a value.

    layer: 0-based block number N. rows: how many are in scope. acting: how many of these have u other than 0
    (a gate may be closed). stream: mean |h|. intervention: mean |u|. ratio: mean of |u| / |h|, so not the
    quotient of the two. cosine: mean over the acting rows, in [-1, 1].
    """

    layer: int
    rows: int
    acting: int
    stream: float | None
    intervention: float | None
    ratio: float | None
    cosine: float | None

    def to_json(self) -> dict[str, Any]:
        names = ("rows", "acting", "stream", "intervention", "ratio", "cosine")
        return {"block": self.layer, **{name: getattr(self, name) for name in names}}


@dataclass(frozen=True)
class NormReport:
    """The blocks that the plan steers, ascending, over one text of `n_tokens`."""

    n_tokens: int
    blocks: tuple[BlockNorms, ...]

    @property
    def largest(self) -> tuple[float, int] | None:
        """(ratio, block) of the largest ratio, the first of equal ones; None where no row is in scope."""
        known = [(b.ratio, -b.layer) for b in self.blocks if b.ratio is not None]
        ratio, layer = max(known, default=(None, 0))
        return None if ratio is None else (ratio, -layer)

    @property
    def median(self) -> float | None:
        """The median of the blocks' ratios."""
        known = [b.ratio for b in self.blocks if b.ratio is not None]
        return median(known) if known else None

    def to_json(self) -> dict[str, Any]:
        """Numbers as they are; null for None."""
        largest = self.largest and {"ratio": self.largest[0], "block": self.largest[1]}
        return {
            "tokens": self.n_tokens,
            "largest": largest,
            "median": self.median,
            "blocks": [block.to_json() for block in self.blocks],
        }


def norm_report(
    terms: Sequence[Term], strengths: F32, coefficients: F32, steered: Mapping[int, F32]
) -> NormReport:
    """The report of one text, in float64.

    strengths: float32 [terms, rows], 0 where the row is not in the term's scope.
    coefficients: float32 [terms, rows, n_layer], strength times coefficient.
    steered: block -> h', float32 [rows, n_embd], for each block to report.

    Raises ValueError where these shapes disagree.
    """
    n_terms, rows = strengths.shape
    if len(terms) != n_terms or coefficients.shape[:2] != (n_terms, rows):
        raise ValueError(
            f"norm report: {len(terms)} terms, strengths {strengths.shape}, "
            f"coefficients {coefficients.shape}; "
            "expected [terms, rows] and [terms, rows, n_layer]"
        )
    blocks = []
    for layer, after in sorted(steered.items()):
        if len(after) != rows:
            raise ValueError(f"norm report: block {layer} has {len(after)} rows, expected {rows}")
        here = [i for i, term in enumerate(terms) if layer in term.bundle.directions]
        in_scope = strengths[here].any(axis=0)
        amounts = coefficients[here][:, in_scope, layer].astype(np.float64)
        directions = [terms[i].bundle.directions[layer].astype(np.float64) for i in here]
        u = amounts.T @ np.array(directions).reshape(len(here), after.shape[1])
        blocks.append(_block(layer, after[in_scope].astype(np.float64) - u, u))
    return NormReport(rows, tuple(blocks))


def _block(layer: int, h: F64, u: F64) -> BlockNorms:
    """From h and u, float64 [rows in scope, n_embd]."""
    stream, size = np.linalg.norm(h, axis=1), np.linalg.norm(u, axis=1)
    known = stream > 0  # a stream of zeros has no ratio
    acting = known & (size > 0)
    units = h[acting] / stream[acting, None], u[acting] / size[acting, None]
    cosines = np.clip((units[0] * units[1]).sum(axis=1), -1, 1)
    ratios = size[known] / stream[known]
    means = (_mean(values) for values in (stream, size, ratios, cosines))
    return BlockNorms(layer, len(h), int((size > 0).sum()), *means)


def _mean(values: F64) -> float | None:
    return float(values.mean()) if len(values) else None
