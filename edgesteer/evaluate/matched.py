"""A bundle at the prompt's coherence on the very questions that were asked: read from its curve over strength.

In:  what was measured on the same questions: unsteered, under the prompt, and under the bundle at several strengths.
Out: a Matched: that strength, each quantity there, and how it differs from the prompt's, with intervals over questions.

A strength that was found on other questions need not be as coherent on these: ten greedy replies are noisy by 0.05
nats. Trait costs coherence, so only at the same coherence two ways can be compared. No more is asked of a bundle than
the unsteered model gives, where the prompt makes replies more coherent than that. Pure and seeded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgesteer.evaluate.intervals import F64, Estimate, Sample, drawn, estimated, values
from edgesteer.evaluate.smoothing import smooth

Samples = Mapping[str, Sample]

# Strengths that a crossing is looked for at, and by how little the target may be missed, in nats: rounding.
_GRID, _ROUNDING = 65, 1e-9


@dataclass(frozen=True, slots=True)
class Matched:
    """strength: the largest at which the smooth curve has at most the prompt's coherence. within: whether the curve
    crosses it; False where the highest strength measured is as coherent too, or none is.
    estimates, minus_prompt: as in a Row, at that strength; each resample of the questions has a strength of its own."""

    strength: float
    within: bool
    estimates: Mapping[str, Estimate]
    minus_prompt: Mapping[str, Estimate]


def matched(curve: Sequence[tuple[float, Samples]], prompted: Samples, seed: int = 0) -> Matched:
    """curve: (strength, samples), ascending, from the unsteered model's at 0 on; all with the names of `prompted`.

    Raises ValueError for fewer than four strengths.
    """
    n = len(prompted["coherence"].above)
    whole = _read(curve, prompted, np.arange(n)[None])
    resampled = _read(curve, prompted, drawn(n, seed))
    strength, highest = float(whole.strength[0]), curve[-1][0]
    return Matched(
        strength=strength,
        within=bool(whole.kept[0]) and strength < highest,
        estimates={k: estimated(float(v[0]), resampled.values[k]) for k, v in whole.values.items()},
        minus_prompt={k: estimated(float(v[0]), resampled.minus[k]) for k, v in whole.minus.items()},
    )


@dataclass(frozen=True, slots=True)
class _Reading:
    """For each resample: the strength, whether the target is kept there, the quantities, and less the prompt's."""

    strength: F64
    kept: npt.NDArray[np.bool_]
    values: dict[str, F64]
    minus: dict[str, F64]


def _read(curve: Sequence[tuple[float, Samples]], prompted: Samples, rows: npt.NDArray[np.intp]) -> _Reading:
    names = list(prompted)
    strengths = np.array([strength for strength, _ in curve])
    measured = np.stack(
        [np.stack([values(s[name], rows) for name in names], -1) for _, s in curve], 1
    )  # [resamples, strengths, names]
    own = np.stack([values(prompted[name], rows) for name in names], -1)
    coherence = measured[:, :, names.index("coherence")]
    target = np.maximum(own[:, names.index("coherence")], coherence[:, 0])
    at = np.linspace(strengths[0], strengths[-1], _GRID)
    found = smooth(at, strengths, measured, coherence - target[:, None])
    smoothed = found[:, :, names.index("coherence")]
    keeps = np.asarray(smoothed <= target[:, None] + _ROUNDING)
    last = _GRID - 1 - keeps[:, ::-1].argmax(1)
    place = np.where(keeps.any(1), last, smoothed.argmin(1))
    there = found[np.arange(len(rows)), place]
    return _Reading(
        at[place],
        np.asarray(keeps.any(1)),
        {name: there[:, i] for i, name in enumerate(names)},
        {name: there[:, i] - own[:, i] for i, name in enumerate(names)},
    )
