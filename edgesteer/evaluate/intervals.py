"""How sure a mean over questions is: bootstrap intervals, and paired differences between two ways to answer.

In:  per question what is summed above and below a fraction line (a mean is values over ones). Out: Estimates.
Pure and seeded: the same values give the same intervals.

An interval speaks of other questions of the same kind. It does not see another seed, model or trait.
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
    """A value and its 95 % interval, which holds it; NaN where no question has a value."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One quantity over the questions: sum(above) / sum(below). float64 [questions] each."""

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
        """A rate over all questions together, such as matches per word."""
        return cls(np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64))


def estimate(sample: Sample, seed: int = 0) -> Estimate:
    """The sample's value with its interval over resampled questions."""
    rows = drawn(len(sample.above), seed)
    return estimated(_value(sample), values(sample, rows))


def difference(sample: Sample, other: Sample, seed: int = 0) -> Estimate:
    """sample - other, paired: both on the same questions, resampled together.

    Raises ValueError for samples of different length.
    """
    if len(sample.above) != len(other.above):
        raise ValueError(f"{len(sample.above)} and {len(other.above)} questions: expected the same ones")
    rows = drawn(len(sample.above), seed)
    value = _value(sample) - _value(other)
    return estimated(value, values(sample, rows) - values(other, rows))


def drawn(n: int, seed: int) -> npt.NDArray[np.intp]:
    """[RESAMPLES, n] indices of questions."""
    return np.random.default_rng(seed).integers(0, max(n, 1), (RESAMPLES if n else 0, n))


def _value(sample: Sample) -> float:
    return float(values(sample, np.arange(len(sample.above))[None])[0])


def values(sample: Sample, rows: npt.NDArray[np.intp]) -> F64:
    """The sample's value over each row of questions, [len(rows)]; NaN where there is nothing to divide by."""
    above, below = sample.above[rows].sum(axis=1), sample.below[rows].sum(axis=1)
    return np.asarray(np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0))


def estimated(value: float, resampled: F64) -> Estimate:
    """A value with the interval that its resamples give."""
    known = resampled[~np.isnan(resampled)]
    if not len(known) or value != value:
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    # Of a very lopsided sample the percentiles may leave the value itself out.
    return Estimate(value, min(float(low), value), max(float(high), value))
