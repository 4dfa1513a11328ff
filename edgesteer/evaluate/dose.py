"""Find the largest strength at which steered replies keep to three bounds, by a sequential test.

In:  what answers questions at a strength (`Asked`). Out: a Dose. Knows no model; seeded.

    coherence    at most FREE above the prompt's or the unsteered model's, or a given target
    distinct-2   at least min(DISTINCT x prompt's, unsteered's), since loops look coherent
    relevance    at least RELEVANT x prompt's

Coherence hardly changes up to the strength at which a prompt is imitated, and rises beyond it: without FREE,
the noise of such a mean decides between half that strength and all of it.

All hold in the mean over questions, which are the same at every strength, so that differences are paired.
How far each bound is kept is taken to fall with the strength (isotonic least squares), and is linear between
the strengths that were measured: neighbours in a grid of ratio STEP. The first questions find the two
neighbours between which a bound is crossed. More are asked there until the interval of the crossing
(bootstrap over questions) is within ACCURACY of it, or no question is left. It is looked at after each batch,
so each look has its share of the error (Bonferroni): whenever it stops, the interval holds at 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgesteer.errors import PlanError
from edgesteer.evaluate.intervals import F64, LEVEL, resamples
from edgesteer.evaluate.matched import DISTINCT, FREE, ROUNDING, isotonic
from edgesteer.generate.progress import Done, no_progress

# The share of the prompt's relevance that steered replies keep.
RELEVANT = 0.8

# The ratio of neighbouring strengths, and how many there are below and above the first one.
STEP, BELOW, ABOVE = 1.4, 5, 3

# Questions are asked until the interval ends within this share of the strength.
ACCURACY = 0.15

# Numbers of questions: at first, and in each later batch. Relevance is read in groups of MIN_BATCH, and not
# at all with fewer questions.
FIRST, BATCH, MIN_BATCH = 9, 12, 3

# Strengths are given to this many decimal places, as a person would type them.
_DIGITS = 3

# The lowest strength to search around: below it, neighbours would be rounded to the same.
_LEAST = 0.01

# How far a strength is off its bounds at which steering overflowed or every reply was empty.
_WORST = 10.0

# About how many strengths each batch is asked at, the prompt and the relevance included; for the progress.
_STEPS = 6

_SEED = 0
_NAMES = ("trait", "coherence", "distinct2", "relevance")

COHERENCE, REPETITION, RELEVANCE, RANGE = "coherence", "repetition", "relevance", "range"


@dataclass(frozen=True, slots=True)
class Point:
    """Means over the steered replies at one strength; the coherence is infinite if steering overflowed."""

    strength: float
    trait: float
    coherence: float
    distinct2: float


@dataclass(frozen=True, slots=True)
class Measured(Point):
    """relevance: nats per token, NaN if it was not measured. questions: how many were asked."""

    relevance: float
    questions: int


@dataclass(frozen=True, slots=True)
class Dose:
    """The strength that the search chose, and what it measured.

    strength: where the first bound is crossed; usually between two strengths that were measured.
    low, high: its interval, corrected for the number of looks.
    reached: whether it keeps the bounds; if no strength that may be tried does, it is the lowest of these.
    bound: what is crossed there: "coherence", "repetition" or "relevance", or "range" if all bounds are kept
        at the highest strength that may be tried.
    questions: how many were asked.
    target_coherence, min_distinct2, min_relevance: the bounds, on all questions that they were measured on;
        NaN if none was.
    point: the figures at the strength, from the curve. curve: every strength that was measured, ascending,
        without 0.
    """

    strength: float
    low: float
    high: float
    reached: bool
    bound: str
    questions: int
    target_coherence: float
    min_distinct2: float
    min_relevance: float
    point: Measured
    curve: tuple[Measured, ...]

    @property
    def limited(self) -> bool:
        """Whether it is the highest strength that may be tried, so a higher one might pass too."""
        return self.bound == RANGE


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """One value a question, float64 [n]; NaN for an empty reply, a coherence of inf for an overflow."""

    trait: F64
    coherence: F64
    distinct2: F64


class Asked(Protocol):
    """Answers questions, which are given by their indices. Every range is one of `batches`."""

    def prompted(self, questions: range) -> Answers: ...

    def steered(self, strength: float, questions: range) -> Answers:
        """strength: 0 for the unsteered model."""

    def relevance(self, strength: float | None, questions: range) -> F64:
        """The relevance of replies that were given before; strength None for the prompt. float64 [n]."""


def batches(n: int) -> list[range]:
    """The questions that are asked together: the first few, then more; a remainder too small for relevance
    is part of the batch before."""
    ends = [0, *range(FIRST, n - MIN_BATCH + 1, BATCH), n]
    return [range(a, b) for a, b in zip(ends, ends[1:], strict=False)]


def search(
    asked: Asked,
    n: int,
    around: float,
    *,
    target: float | None = None,
    progress: Done = no_progress,
) -> Dose:
    """The dose of what answers `n` questions, found from the strength `around` on.

    It lies between around / STEP**BELOW and around * STEP**ABOVE. target: the coherence, in nats per token,
    in place of the prompt's and the unsteered model's. The same answers give the same Dose.
    Raises PlanError for no questions, and for arguments that cannot be searched.
    """
    if n < 1:
        raise PlanError("dose: no questions, expected at least one")
    if not _LEAST <= around < math.inf:
        raise PlanError(f"dose: search around the strength {around}, expected a number from {_LEAST} on")
    if target is not None and not math.isfinite(target):
        raise PlanError(f"dose: target coherence {target}, expected a finite number of nats")
    return _Search(asked, n, around, target, progress).dose()


Key = float | None
"""A strength; 0 for the unsteered model, None for the prompt."""


@dataclass(slots=True, eq=False)
class _Values:
    """What was measured at one strength: float64 [all questions], NaN where it was not.

    asked, read: up to which question replies were given, and their relevance read.
    """

    trait: F64
    coherence: F64
    distinct2: F64
    relevance: F64
    asked: int = 0
    read: int = 0


class _Search:
    def __init__(
        self, asked: Asked, n: int, around: float, target: float | None, progress: Done
    ) -> None:
        self._asked, self._given, self._progress = asked, target, progress
        self._n_all, self._batches = n, batches(n)
        self._error = (1 - LEVEL) / len(self._batches)
        self._grid = [round(around * STEP**k, _DIGITS) for k in range(-BELOW, ABOVE + 1)]
        self._n, self._steps = 0, 0
        self._resampled = np.zeros((0, n))
        self._values: dict[Key, _Values] = {}

    def dose(self) -> Dose:
        for batch in self._batches:
            self._n, self._resampled = batch.stop, _counts(batch.stop, self._n_all)
            self._settle()
            strength, low, high, bound = self._interval()
            if max(high - strength, strength - low) <= ACCURACY * strength:
                break
        self._progress(1.0)
        at = max(strength, self._known[0])
        return Dose(
            strength=at,
            low=min(low, at),
            high=max(high, at),
            reached=strength >= at,
            bound=bound,
            questions=self._n,
            target_coherence=self._target,
            min_distinct2=float(
                np.fmin(DISTINCT * self._mean(None, "distinct2"), self._mean(0.0, "distinct2"))
            ),
            min_relevance=RELEVANT * self._mean(None, "relevance"),
            point=self._between(at),
            curve=tuple(self._point(strength) for strength in self._known),
        )

    # -- asking

    def _settle(self) -> None:
        """Ask all questions so far around the crossing, wherever that moves it."""
        self._ask(None)
        self._ask(0.0)
        if not self._known:
            self._ask(self._grid[BELOW])
        while any(self._ask(strength) for strength in self._near()) or self._read_relevance():
            pass

    def _near(self) -> list[float]:
        """The measured strengths around the crossing, or the grid's next one outside them."""
        crossing, known = float(self._crossing(self._all)[0][0]), self._known
        first, last = self._grid.index(known[0]), self._grid.index(known[-1])
        if crossing < known[0] and first > 0:
            return [self._grid[first - 1]]
        if crossing >= known[-1] and last < len(self._grid) - 1:
            return [self._grid[last + 1]]
        below, above = [s for s in known if s <= crossing], [s for s in known if s > crossing]
        return [*below[-1:], *above[:1]]

    def _ask(self, key: Key) -> bool:
        """Ask the questions so far that were not asked yet; whether there were any."""
        if key not in self._values:
            self._values[key] = _Values(*np.full((4, self._n_all), np.nan))
        values = self._values[key]
        left = [batch for batch in self._batches if values.asked < batch.stop <= self._n]
        for batch in left:
            answers = self._asked.prompted(batch) if key is None else self._asked.steered(key, batch)
            for name in ("trait", "coherence", "distinct2"):
                getattr(values, name)[batch.start : batch.stop] = getattr(answers, name)
            values.asked = batch.stop
            self._advance()
        return bool(left)

    def _read_relevance(self) -> bool:
        """Read it around the crossing, from above, up to where it is clearly kept; whether there was any."""
        for strength in sorted(self._near(), reverse=True):
            if self._n < MIN_BATCH or self._clear(strength):
                return False
            if any(self._read(key) for key in (None, strength)):
                return True
        return False

    def _read(self, key: Key) -> bool:
        values = self._values[key]
        left = [batch for batch in self._batches if values.read < batch.stop <= values.asked]
        for batch in left:
            values.relevance[batch.start : batch.stop] = self._asked.relevance(key, batch)
            values.read = batch.stop
            self._advance()
        return bool(left)

    def _clear(self, strength: float) -> bool:
        """Whether the relevance there was read, and keeps its bound in nearly all resamples."""
        means, counted = self._kept(RELEVANCE, [strength], self._resampled)
        return bool(counted.any() and (means < 0).mean() <= self._error / 2)

    def _advance(self) -> None:
        self._steps += 1
        self._progress(min(0.99, self._steps / (_STEPS * len(self._batches))))

    # -- reading

    @property
    def _known(self) -> list[float]:
        """The strengths that were measured, ascending, without 0."""
        return sorted(key for key in self._values if key)

    @property
    def _all(self) -> F64:
        """Each question once: weights, [1, questions]."""
        return np.ones((1, self._n_all))

    def _interval(self) -> tuple[float, float, float, str]:
        """The crossing, the ends of its interval, and the bound that is crossed."""
        crossing, bounds = self._crossing(self._all)
        ends = np.quantile(self._crossing(self._resampled)[0], [self._error / 2, 1 - self._error / 2])
        strength = math.floor(float(crossing[0]) * 10**_DIGITS + ROUNDING) / 10**_DIGITS
        low, high = (round(float(end), _DIGITS) for end in ends)
        return strength, min(low, strength), max(high, strength), bounds[0]

    def _crossing(self, weights: F64) -> tuple[F64, list[str]]:
        """The largest strength that keeps all bounds, and what is crossed there: for each row of weights."""
        bounds = [COHERENCE, REPETITION]
        if any(values.read for key, values in self._values.items() if key):
            bounds.append(RELEVANCE)
        each = np.stack([self._crossed(bound, weights) for bound in bounds], 1)
        lowest, top = each.min(1), self._grid[-1]
        names = [bounds[i] if s < top else RANGE for i, s in zip(each.argmin(1), lowest, strict=True)]
        return lowest, names

    def _crossed(self, bound: str, weights: F64) -> F64:
        """The strength at which one bound is crossed: float64 [rows of weights]."""
        strengths, kept = self._fitted(bound, weights)
        top = self._grid[-1]
        if strengths[-1] < top:  # only leads to the next strength to measure
            slope = (kept[:, -1] - kept[:, -2]) / (strengths[-1] - strengths[-2])
            kept = np.column_stack([kept, kept[:, -1] + slope * (top - strengths[-1])])
            strengths = np.append(strengths, top)
        fails = kept < -ROUNDING
        after = np.where(fails.any(1), fails.argmax(1), len(strengths))
        rows, above = np.arange(len(kept)), np.clip(after, 1, len(strengths) - 1)
        a, b = np.maximum(kept[rows, above - 1], 0), kept[rows, above]
        part = np.divide(a, a - b, out=np.zeros_like(a), where=b < 0)
        between = strengths[above - 1] + part * (strengths[above] - strengths[above - 1])
        return np.select([after == 0, after == len(strengths)], [0.0, top], between)

    def _fitted(self, bound: str, weights: F64) -> tuple[F64, F64]:
        """Strengths from 0 on, and by how much the bound is kept there, never rising: [rows, strengths].

        That of 0 is not part of the fit, as a little steering may well be better than none. Unsteered replies
        are taken to be as relevant as prompted ones.
        """
        known = [s for s in self._known if bound != RELEVANCE or self._values[s].read]
        means, counted = self._kept(bound, known, weights)
        fit = -isotonic(-means, np.maximum(counted, 1e-9))
        if bound == RELEVANCE:
            own = np.full(len(weights), (1 - RELEVANT) * max(self._mean(None, "relevance"), 0.0))
        else:
            own = self._kept(bound, [0.0], weights)[0][:, 0]
        return np.array([0.0, *known]), np.column_stack([np.maximum(own, fit[:, 0]), fit])

    def _kept(self, bound: str, strengths: Sequence[float], weights: F64) -> tuple[F64, F64]:
        """By how much the bound is kept at each strength, in the mean over the weighted questions, and the
        weights' sums: [rows, strengths] both."""
        each = [self._differences(bound, strength) for strength in strengths]
        counted = np.stack([weights @ ~np.isnan(one[0]) for one in each], 1)
        return np.stack([np.max([_mean(d, weights) for d in one], 0) for one in each], 1), counted

    def _differences(self, bound: str, strength: float) -> list[F64]:
        """For each question, by how much the bound is kept: [questions]. Of several, the mean that is higher
        counts."""
        own, prompt, unsteered = (self._values[key] for key in (strength, None, 0.0))
        if bound == RELEVANCE:
            return [own.relevance - RELEVANT * prompt.relevance]
        if bound == REPETITION:
            return [own.distinct2 - DISTINCT * prompt.distinct2, own.distinct2 - unsteered.distinct2]
        if self._given is not None:
            return [np.maximum(self._given - own.coherence, -_WORST)]
        most = (prompt.coherence + FREE, unsteered.coherence + FREE)
        return [np.maximum(each - own.coherence, -_WORST) for each in most]

    @property
    def _target(self) -> float:
        if self._given is not None:
            return self._given
        return float(np.fmax(self._mean(None, "coherence"), self._mean(0.0, "coherence"))) + FREE

    # -- figures

    def _mean(self, key: Key, name: str) -> float:
        values: F64 = getattr(self._values[key], name)
        there = values[~np.isnan(values)]
        return float(there.mean()) if len(there) else math.nan

    def _point(self, strength: float) -> Measured:
        trait, coherence, distinct2, relevance = (self._mean(strength, name) for name in _NAMES)
        return Measured(strength, trait, coherence, distinct2, relevance, self._values[strength].asked)

    def _between(self, strength: float) -> Measured:
        """The curve at any strength. Its coherence is that of the isotonic fit."""
        strengths, kept = self._fitted(COHERENCE, self._all)
        coherence = self._target - float(np.interp(strength, strengths, kept[0]))

        def linear(name: str) -> float:
            means = {s: self._mean(s, name) for s in (0.0, *self._known)}
            known = {s: mean for s, mean in means.items() if math.isfinite(mean)}
            return float(np.interp(strength, [*known], [*known.values()])) if known else math.nan

        trait, distinct2, relevance = (linear(name) for name in _NAMES if name != "coherence")
        return Measured(strength, trait, coherence, distinct2, relevance, self._n)


def _counts(n: int, width: int) -> F64:
    """How often each question occurs in each resample of the first n: [RESAMPLES, width]."""
    drawn = resamples(n, _SEED)
    places = drawn + width * np.arange(len(drawn))[:, None]
    return np.bincount(places.ravel(), minlength=width * len(drawn)).reshape(-1, width).astype(np.float64)


def _mean(differences: F64, weights: F64) -> F64:
    """The mean for each row of weights. Where these leave no question, that of all questions; where there is
    none at all, -_WORST."""
    there = ~np.isnan(differences)
    if not there.any():
        return np.full(len(weights), -_WORST)
    sums, counted = weights @ np.where(there, differences, 0.0), weights @ there
    whole = np.full(len(weights), differences[there].mean())
    return np.asarray(np.divide(sums, counted, out=whole, where=counted > 0))
