"""A bundle's measures at the prompt's coherence on the same questions, read from its curve over strength.

A strength that was found on other questions need not be as coherent on these: ten greedy replies are noisy by
0.05 nats. Trait costs coherence, so two ways can only be compared at equal coherence. Pure and seeded.

    coherence(s)    isotonic (least squares, never falling with the strength), linear in between
    anything else   linear between the strengths that were measured
    s*              the largest strength with coherence(s) <= max(prompt's, coherence(0) + 0.05)
                    and distinct2(s) >= min(0.9 prompt's, unsteered's), since loops look coherent

Some prompts (such as to answer in few words) make replies as coherent as the unsteered ones, and any steering
costs something. So 0.05 nats above the unsteered model, the noise of such a mean, are always allowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesteer.evaluate.intervals import F64, Estimate, Sample, estimated, resamples, values

Samples = Mapping[str, Sample]

# Steered replies may repeat themselves a little more than prompted ones, but not loop.
DISTINCT = 0.9

# Multiples of a bundle's strength on its curve, besides 0 and 1.
LEVELS = (0.7, 1.4)

# Nats of coherence that steering may cost in any case, however little the prompt costs.
FREE = 0.05

# Number of strengths at which the crossing is searched.
_GRID = 129

# Tolerance at a bound: log-probabilities are float32, and fits through them round too.
ROUNDING = 1e-6


def keeps(coherence: Any, distinct2: Any, most: Any, least: Any) -> Any:
    """Whether coherence is at most `most` (nats) and distinct2 at least `least`, up to rounding; bool, or an
    array of bools. NaN does not pass."""
    return (coherence <= most + ROUNDING) & (distinct2 >= least - ROUNDING)


@dataclass(frozen=True, slots=True)
class Matched:
    """A bundle at the prompt's coherence.

    strength: s*. limited: whether it is the highest measured strength, so a higher one might pass too.
        capped: the share of resamples where it is; their intervals end too early.
    estimates, minus_prompt: as in a Row, at s*; each resample of the questions has its own s*.
    """

    strength: float
    limited: bool
    capped: float
    estimates: Mapping[str, Estimate]
    minus_prompt: Mapping[str, Estimate]


def matched(curve: Sequence[tuple[float, Samples]], prompted: Samples, seed: int = 0) -> Matched:
    """The bundle of this curve at the coherence of `prompted`.

    curve: (strength, samples), with the unsteered model at 0 and all others on one side of it; the samples
        have the same names as `prompted`.
    Raises ValueError for fewer than three strengths, equal ones, or strengths on both sides of 0.
    """
    ordered = sorted(curve, key=lambda point: abs(point[0]))
    strengths = [strength for strength, _ in ordered]
    one_side = all(s * strengths[-1] > 0 for s in strengths[1:])
    if len(set(strengths)) < max(3, len(strengths)) or strengths[0] != 0 or not one_side:
        raise ValueError(
            f"strengths {strengths}: expected 0 and at least two more, different, on one side of it"
        )
    n = len(prompted["coherence"].above)
    whole = _read(ordered, prompted, np.arange(n)[None])
    resampled = _read(ordered, prompted, resamples(n, seed))
    return Matched(
        strength=float(whole.strength[0]),
        limited=bool(whole.limited[0]),
        capped=float(resampled.limited.mean()),
        estimates={k: estimated(float(v[0]), resampled.values[k]) for k, v in whole.values.items()},
        minus_prompt={k: estimated(float(v[0]), resampled.minus[k]) for k, v in whole.minus.items()},
    )


@dataclass(frozen=True, slots=True)
class _Reading:
    """For each resample: s*, whether it is the highest strength, and the measures there.

    minus: the measures less the prompt's.
    """

    strength: F64
    limited: npt.NDArray[np.bool_]
    values: dict[str, F64]
    minus: dict[str, F64]


def _read(curve: Sequence[tuple[float, Samples]], prompted: Samples, rows: npt.NDArray[np.intp]) -> _Reading:
    names = list(prompted)
    strengths = np.array([strength for strength, _ in curve])
    own = {name: values(prompted[name], rows) for name in names}
    measured = {name: np.stack([values(s[name], rows) for _, s in curve], 1) for name in names}
    between = {name: _between(strengths, each) for name, each in measured.items()}
    rising = isotonic(measured["coherence"])
    coherence = _between(strengths, rising)
    least = np.minimum(DISTINCT * own["distinct2"], measured["distinct2"][:, 0])
    most = np.maximum(own["coherence"], rising[:, 0] + FREE)
    passes = keeps(coherence, between["distinct2"], most[:, None], least[:, None])
    place = _GRID - 1 - passes[:, ::-1].argmax(1)
    known = passes.any(1)  # false where all replies at some strength were empty
    there = {
        name: np.where(known, each[np.arange(len(rows)), place], np.nan) for name, each in between.items()
    }
    return _Reading(
        np.linspace(0, strengths[-1], _GRID)[place * known],
        np.asarray(known & (place == _GRID - 1)),
        there,
        {name: there[name] - own[name] for name in names},
    )


def _between(strengths: F64, measured: F64) -> F64:
    """[resamples, _GRID] from [resamples, strengths], linear."""
    at, known = np.linspace(0, 1, _GRID), strengths / strengths[-1]
    unit = np.eye(len(strengths))
    weights = np.stack([np.interp(at, known, row) for row in unit], 1)
    return np.asarray(measured @ weights.T)


def isotonic(measured: F64, weights: F64 | None = None) -> F64:
    """The least-squares fit that never falls along the last axis: float64 [..., n], as `measured`.

    weights: above 0, as `measured`; None for equal ones."""
    n, counted = measured.shape[-1], np.ones_like(measured) if weights is None else weights
    sums, below = (
        np.concatenate([np.zeros_like(each[..., :1]), each.cumsum(-1)], -1)
        for each in (measured * counted, counted)
    )
    means = {
        (j, k): (sums[..., k + 1] - sums[..., j]) / (below[..., k + 1] - below[..., j])
        for j in range(n)
        for k in range(j, n)
    }
    fits = [
        np.max([np.min([means[j, k] for k in range(i, n)], 0) for j in range(i + 1)], 0) for i in range(n)
    ]
    return np.stack(fits, -1)
