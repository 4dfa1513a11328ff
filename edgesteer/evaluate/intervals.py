"""Bootstrap intervals for means over questions, and for paired differences between two ways to answer.

In:  for each question a numerator and a denominator, which are summed (a mean has denominators 1).
Out: Estimates. Pure and seeded: the same values give the same intervals.

An interval covers other questions of the same kind, but not another seed, model or trait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its 95 % interval, which contains it; NaN if no question has a value."""

    value: float
    low: float
    high: float

    def for_manifest(self, times: float = 1.0, digits: int = 4) -> dict[str, float | None]:
        """Rounded plain values, multiplied by `times`; None for NaN."""
        ends = sorted((times * self.low, times * self.high))
        named = zip(("value", "low", "high"), (times * self.value, *ends), strict=True)
        return {key: round(one, digits) + 0.0 if one == one else None for key, one in named}


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A quantity over the questions, sum(above) / sum(below); both float64 [questions]."""

    above: F64
    below: F64

    @classmethod
    def mean(cls, values: Sequence[float]) -> Sample:
        """The mean of values; NaN is a question without one."""
        array = np.asarray(values, dtype=np.float64)
        there = ~np.isnan(array)
        return cls(np.where(there, array, 0.0), there.astype(np.float64))

    @classmethod
    def ratio(cls, above: Sequence[float], below: Sequence[float]) -> Sample:
        """A rate over all questions, such as matches per word."""
        return cls(np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64))


def estimate(sample: Sample, seed: int = 0) -> Estimate:
    """The sample's value with its interval over resampled questions."""
    rows = resamples(len(sample.above), seed)
    return estimated(_value(sample), values(sample, rows))


def difference(sample: Sample, other: Sample, seed: int = 0) -> Estimate:
    """sample - other, paired: both on the same questions, resampled together.

    Raises ValueError for samples of different length.
    """
    if len(sample.above) != len(other.above):
        raise ValueError(f"{len(sample.above)} and {len(other.above)} questions: expected the same ones")
    rows = resamples(len(sample.above), seed)
    value = _value(sample) - _value(other)
    return estimated(value, values(sample, rows) - values(other, rows))


def resamples(n: int, seed: int) -> npt.NDArray[np.intp]:
    """Indices of questions, drawn with replacement: [RESAMPLES, n]."""
    return np.random.default_rng(seed).integers(0, max(n, 1), (RESAMPLES if n else 0, n))


def _value(sample: Sample) -> float:
    return float(values(sample, np.arange(len(sample.above))[None])[0])


def values(sample: Sample, rows: npt.NDArray[np.intp]) -> F64:
    """The sample's value over each row of question indices, [len(rows)]; NaN where it would divide by 0."""
    above, below = sample.above[rows].sum(axis=1), sample.below[rows].sum(axis=1)
    return np.asarray(np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0))


def estimated(value: float, resampled: F64) -> Estimate:
    """A value with the 95 % interval of its resampled values."""
    known = resampled[~np.isnan(resampled)]
    if not len(known) or value != value:
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    # If a sample is very skewed, the percentiles may exclude the value itself.
    return Estimate(value, min(float(low), value), max(float(high), value))
