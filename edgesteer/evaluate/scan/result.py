"""The result of a steerability scan: each block alone, at equal norms. Pure values.

In:  for each block, norm and question, sums over the reply's tokens.
Out: a Scan: means with intervals, the blocks that gain the trait, and its JSON.

Each cell has two numbers, both in nats per token. KL is how far the steered model's next-token distribution
is from the unsteered one's, averaged over the rows of unsteered replies; it shows that steering changes
something, not whether that is good. Gain is how much likelier the steered model finds the prompted replies
without their prompt. It includes everything else that the prompt changes, and says little about free replies:
judge a bundle by `edgesteer eval`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesteer.evaluate.intervals import Sample, estimate

F64 = npt.NDArray[np.float64]

# Below this a KL is the noise of float32 and of batch shapes.
_LEAST_KL = 1e-4
# A multiple of the rounding that the scan measured: cells below it may be rounding alone and are not ranked.
CLEAR = 3.0


@dataclass(frozen=True, slots=True)
class Useful:
    """A block that gains the trait by itself, at the size with the best score; its KL is clear of rounding.

    gain, low, high: nats per token, with the 95 % interval over the questions, which lies above 0.
    score: gain / sqrt(KL). For small steps the gain grows with the step and KL with its square, so the
        quotient compares directions, not steps.
    """

    block: int
    size: float
    gain: float
    low: float
    high: float
    kl: float

    @property
    def score(self) -> float:
        return self.gain / math.sqrt(max(self.kl, _LEAST_KL))


@dataclass(frozen=True, eq=False)
class Scan:
    """Every steered block alone. Arrays are float64 [blocks, sizes]; NaN where nothing was measured.

    model: the name of its file.
    trait: the sentence that prompted the replies; if None, no gain was measured, and `gain` and its interval
        are None too.
    unit: what `sizes` mean: "share" of the mean |h| at the block, or "norm" in the residual stream's units.
    streams: mean |h| at each block, over the rows of the unsteered replies.
    strengths: the strength at which the block's mean |u| over the same rows has that size.
    closed: blocks whose part is zero on all these rows (a gate that never opens): no strength gives a norm.
    overflowed: cells that overflowed float32.
    noise: the KL of a step of a ten-thousandth of |h| at the first block: rounding, amplified.
    tokens: rows of the unsteered replies, and of the prompted ones.
    """

    name: str
    model: str
    trait: str | None
    unit: str
    sizes: tuple[float, ...]
    blocks: tuple[int, ...]
    streams: tuple[float, ...]
    strengths: F64
    kl: F64
    gain: F64 | None
    low: F64 | None
    high: F64 | None
    closed: tuple[int, ...]
    overflowed: int
    noise: float
    questions: tuple[str, ...]
    max_tokens: int
    tokens: tuple[int, int]
    gated: bool
    scope: str

    @property
    def floor(self) -> float:
        """The smallest KL of a cell that is ranked."""
        return CLEAR * self.noise if math.isfinite(self.noise) else 0.0

    @property
    def unclear(self) -> int:
        """How many cells gain the trait but are not ranked, because their KL may be rounding."""
        return 0 if self.low is None else int(((self.low > 0) & (self.kl < self.floor)).sum())

    @property
    def useful(self) -> tuple[Useful, ...]:
        """The blocks that gain the trait, the best score first; empty if no trait was measured."""
        ranked = [one for i in range(len(self.blocks)) if (one := self._useful(i)) is not None]
        return tuple(sorted(ranked, key=lambda one: (-one.score, one.block)))

    def _useful(self, row: int) -> Useful | None:
        if self.gain is None or self.low is None or self.high is None:
            return None
        sure = [
            Useful(
                self.blocks[row], size, *(float(v[row, j]) for v in (self.gain, self.low, self.high, self.kl))
            )
            for j, size in enumerate(self.sizes)
            if self.low[row, j] > 0 and self.kl[row, j] >= self.floor  # NaN is neither
        ]
        return max(sure, key=lambda one: one.score, default=None)

    @property
    def movers(self) -> tuple[tuple[int, float], ...]:
        """(block, KL at its largest measured size), the largest KL first, without those below `floor`."""
        known = [(block, row[~np.isnan(row)]) for block, row in zip(self.blocks, self.kl, strict=True)]
        ranked = [(block, float(row[-1])) for block, row in known if len(row) and row[-1] >= self.floor]
        return tuple(sorted(ranked, key=lambda one: (-one[1], one[0])))

    def to_json(self) -> dict[str, Any]:
        """Plain values; None for what was not measured."""
        plain = (
            "name",
            "model",
            "trait",
            "unit",
            "scope",
            "gated",
            "overflowed",
            "noise",
            "floor",
            "unclear",
            "max_tokens",
        )
        lists = ("sizes", "blocks", "streams", "closed", "questions", "tokens")
        arrays = ("strengths", "kl", "gain", "low", "high")
        useful = [{name: getattr(one, name) for name in (*Useful.__slots__, "score")} for one in self.useful]
        return {
            **{key: getattr(self, key) for key in plain},
            **{key: list(getattr(self, key)) for key in lists},
            **{key: _lists(getattr(self, key)) for key in arrays},
            "useful": useful,
        }


def _lists(values: F64 | None) -> list[list[float | None]] | None:
    if values is None:
        return None
    return [[float(v) if math.isfinite(v) else None for v in row] for row in values]


def pooled(sums: F64, tokens: Sequence[int]) -> tuple[F64, F64, F64]:
    """Mean per token with its interval over the questions: value, low and high, float64 [cells] each.

    sums: float64 [questions, cells], over the tokens of each reply; NaN makes the cell NaN.
    """
    each = [estimate(Sample.ratio(column, tokens)) for column in sums.T]
    values, low, high = (np.array([getattr(one, name) for one in each]) for name in ("value", "low", "high"))
    return values, low, high
