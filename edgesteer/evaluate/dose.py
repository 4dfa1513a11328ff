"""Find the largest strength at which steered replies keep a given coherence.

In:  a model, a bundle, questions as plain and as prompted prompts, a target for the coherence.
Out: a Dose: a strength that was measured, and the curve of all that were.

Two bundles, or a bundle and a prompt, are compared fairly at equal coherence, not at the strengths that their
files happen to name. Loops are easy to predict and so look coherent; a lower limit on distinct-2 keeps them
out of the result.

The mean over ten greedy replies is noisy by about 0.05 nats, as much as half a unit of strength may change it
(docs/log.md). So a strength is judged by a smooth curve through all measured points; with three or fewer, by
the measured value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgesteer.bundle import Bundle
from edgesteer.errors import PlanError, SteeringOverflow
from edgesteer.evaluate.matched import keeps
from edgesteer.generate.chat import REPEAT_PENALTY, Chat, Tokens
from edgesteer.generate.scoring import score
from edgesteer.plan import SteeringPlan

# Strengths are searched to this many decimal places, as a person would type them.
_DIGITS = 3

# Points of the curve further than this from the target, in nats, say little about where it is crossed.
_NEAR = 0.25


@dataclass(frozen=True, slots=True)
class Point:
    """Means over the steered replies at one strength; the coherence is infinite if steering overflowed."""

    strength: float
    trait: float
    coherence: float
    distinct2: float


@dataclass(frozen=True, slots=True)
class Dose:
    """The strength that the search chose, and the curve of all that it measured.

    reached: whether the strength keeps the target on the smooth curve, and the least distinct-2 as measured
        (see `keeps`). If no strength does, this is the most coherent one without loops, or else the lowest.
        With `lo` 0 it is always reached if the unsteered model keeps both.
    limited: whether it is the highest strength that was allowed, so a higher one might pass too.
    curve: every strength that was measured, ascending.
    """

    strength: float
    reached: bool
    limited: bool
    target_coherence: float
    min_distinct2: float
    curve: tuple[Point, ...]

    @property
    def point(self) -> Point:
        """The curve's point at the strength."""
        return next(p for p in self.curve if p.strength == self.strength)

    @property
    def smoothed(self) -> Point:
        """The same point on the smooth curve, with distinct2 as measured."""
        return smoothed(self.point, self.curve, self.target_coherence)


def strength_at(
    chat: Chat,
    source: Bundle | SteeringPlan,
    plain: Sequence[Tokens],
    prompted: Sequence[Tokens],
    target_coherence: float,
    *,
    min_distinct2: float = 0.0,
    lo: float = 0.0,
    hi: float = 2.0,
    scan: int = 4,
    steps: int = 4,
    beyond: int = 0,
    max_tokens: int = 64,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Dose:
    """The largest strength of a bundle, or multiple of a plan, in lo..hi that keeps the target coherence.

    Its replies to `plain` have, on the smooth curve, at most `target_coherence` (nats, lower is more
    coherent) and at least `min_distinct2`.

    The search goes down from hi in `scan` equal steps to the first strength that passes, then halves the
    interval above it `steps` times: to (hi - lo) / scan / 2**steps. It does not see strengths that pass only
    between two steps of the scan. If hi itself passes, up to `beyond` higher ones are tried, each half as
    high again. Replies are greedy: the same call gives the same Dose.
    Raises PlanError for arguments that cannot be searched.
    """
    _check(plain, prompted, target_coherence, (lo, hi), (scan, steps, beyond))
    unit = source if isinstance(source, SteeringPlan) else SteeringPlan.of([(source, 1.0, None)])

    def measure(strength: float) -> Point:
        progress(min(1.0, len(search.curve) / (scan + 1 + steps)))
        try:
            with chat.llm.steered(unit * strength):
                replies = chat.replies(plain, max_tokens, repeat_penalty=REPEAT_PENALTY)
        except SteeringOverflow:
            return Point(strength, math.nan, math.inf, 0.0)
        scores = score(chat, replies, plain, prompted)
        return Point(strength, scores.mean("trait"), scores.mean("coherence"), scores.mean("distinct2"))

    search = _Search(measure, target_coherence, min_distinct2)
    largest = search.largest(_descending(lo, hi, scan), _ascending(hi, beyond), steps)
    progress(1.0)
    return search.dose(largest)


@dataclass
class _Search:
    """Measures strengths and keeps every point."""

    measure: Callable[[float], Point]
    target: float
    least: float
    curve: list[Point] = field(default_factory=list)

    def passes(self, strength: float) -> bool:
        self.curve.append(self.measure(strength))
        return self._sound(self.curve[-1])

    def _sound(self, point: Point) -> bool:
        coherence = smoothed(point, self.curve, self.target).coherence
        return bool(keeps(coherence, point.distinct2, self.target, self.least))

    def largest(self, descending: Sequence[float], ascending: Sequence[float], steps: int) -> float | None:
        """The largest strength that passes; None if none does. `ascending` continues above descending[0]."""
        if self.passes(descending[0]):
            all(self.passes(strength) for strength in ascending)  # up to the first that does not
        else:
            any(self.passes(strength) for strength in descending[1:])  # down to the first that does
        narrowed = 0
        for _ in range(2 * steps):
            before = self._largest_sound()
            if narrowed == steps or before is None or not self._halve(before):
                break
            # If the new point moved the curve so that `before` fails, the interval is wide again.
            after = self._largest_sound()
            narrowed += after is not None and after >= before
        return self._largest_sound()

    def _halve(self, below: float) -> bool:
        """Measure halfway between `below` and the next measured strength; False if nothing lies between."""
        above = min((p.strength for p in self.curve if p.strength > below), default=None)
        if above is None:
            return False
        middle = round((below + above) / 2, _DIGITS)
        if not below < middle < above:
            return False
        self.passes(middle)
        return True

    def _largest_sound(self) -> float | None:
        return max((point.strength for point in self.curve if self._sound(point)), default=None)

    def dose(self, largest: float | None) -> Dose:
        """The result. largest: the largest strength that passed, or None."""
        curve = tuple(sorted(self.curve, key=lambda point: point.strength))
        strength = self._nearest(curve) if largest is None else largest
        limited = largest == curve[-1].strength
        return Dose(strength, largest is not None, limited, self.target, self.least, curve)

    def _nearest(self, curve: Sequence[Point]) -> float:
        sound = [p for p in curve if math.isfinite(p.coherence) and p.distinct2 >= self.least]
        return min(sound, key=lambda p: p.coherence).strength if sound else curve[0].strength


def smoothed(at: Point, curve: Sequence[Point], target: float) -> Point:
    """`at` with the trait and coherence of a parabola fitted to the curve around it.

    Least squares with the weights exp(-(ds / width)^2 / 2) / (1 + (dc / _NEAR)^2): ds is a point's distance
    in strength, dc its coherence less the target, width half the measured range. At strength 0 nothing
    steers, so there, and with fewer than four points, `at` is returned as measured.
    """
    known = [p for p in curve if math.isfinite(p.coherence) and math.isfinite(p.trait)]
    if len(known) < 4 or at.strength == 0 or not math.isfinite(at.coherence):
        return at
    x = np.array([p.strength for p in known]) - at.strength
    off = np.array([p.coherence for p in known]) - target
    weight = np.exp(-((x / (np.ptp(x) / 2)) ** 2) / 2) / (1 + (off / _NEAR) ** 2)
    columns = np.stack([np.ones_like(x), x, x**2], 1) * np.sqrt(weight)[:, None]
    values = np.array([(p.trait, p.coherence) for p in known]) * np.sqrt(weight)[:, None]
    (trait, coherence), *_ = np.linalg.lstsq(columns, values, rcond=None)[0]
    return Point(at.strength, float(trait), float(coherence), at.distinct2)


def _descending(lo: float, hi: float, scan: int) -> list[float]:
    """From hi down to lo in `scan` equal steps, both ends exact."""
    between = [round(hi - (hi - lo) * i / scan, _DIGITS) for i in range(1, scan)]
    return list(dict.fromkeys([hi, *between, lo]))


def _ascending(hi: float, n: int) -> list[float]:
    """`n` strengths above hi."""
    return [round(hi * 1.5 ** (i + 1), _DIGITS) for i in range(n)] if hi > 0 else []


def _check(
    plain: Sequence[Tokens],
    prompted: Sequence[Tokens],
    target: float,
    ends: tuple[float, float],
    counts: tuple[int, int, int],
) -> None:
    if not plain or len(plain) != len(prompted):
        raise PlanError(
            f"dose: {len(plain)} plain and {len(prompted)} prompted prompts, expected as many, not 0"
        )
    if not math.isfinite(target):
        raise PlanError(f"dose: target coherence {target}, expected a finite number of nats")
    if not (all(map(math.isfinite, ends)) and ends[0] <= ends[1]):
        raise PlanError(
            f"dose: strengths {ends[0]:g} to {ends[1]:g}, expected a finite range, the lower end first"
        )
    if counts[0] < 1 or min(counts) < 0:
        raise PlanError("dose: scan {}, steps {}, beyond {}; expected at least 1, 0 and 0".format(*counts))
