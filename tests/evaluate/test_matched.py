"""At the prompt's coherence: what is read from curves whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from edgesteer.evaluate.intervals import Sample
from edgesteer.evaluate.matched import Matched, matched
from edgesteer.evaluate.smoothing import smooth

N = 12
STRENGTHS = (0.0, 0.75, 1.0, 1.25)


def samples(trait: float, coherence: float, noise: float = 0.0, seed: int = 0) -> dict[str, Sample]:
    """Of N questions, around these means."""
    drawn = np.random.default_rng(seed).standard_normal((2, N)) * noise
    return {"trait": Sample.mean(trait + drawn[0]), "coherence": Sample.mean(coherence + drawn[1])}


def read(
    coherence: Callable[[float], float], target: float, noise: float = 0.0, trait: float = 0.4
) -> Matched:
    """A bundle whose trait is its strength, and a prompt with `trait` and coherence `target`."""
    curve = [(s, samples(s, coherence(s), noise, i)) for i, s in enumerate(STRENGTHS)]
    return matched(curve, samples(trait, target, noise, 99))


@pytest.mark.parametrize("target", [0.75, 0.8, 0.9])
def test_a_curve_without_noise_is_read_where_it_crosses(target: float) -> None:
    found = read(lambda s: 0.7 + 0.2 * s, target)
    crossing = (target - 0.7) / 0.2
    assert found.within
    assert found.strength == pytest.approx(crossing, abs=1.25 / 64 + 1e-9)
    assert found.strength <= crossing + 1e-9  # the target is kept
    assert found.estimates["trait"].value == pytest.approx(found.strength)
    assert found.estimates["coherence"].value <= target + 1e-9
    assert found.minus_prompt["trait"].value == pytest.approx(found.strength - 0.4)
    assert all(e.high - e.low < 1e-9 for e in found.estimates.values())


def test_where_more_might_do_too_the_highest_is_read_and_said() -> None:
    found = read(lambda s: 0.7 + 0.1 * s, 0.95)
    assert (found.strength, found.within) == (1.25, False)


def test_no_more_is_asked_than_the_unsteered_model_gives() -> None:
    found = read(lambda s: 0.7 + 0.2 * s, 0.6)
    assert (found.strength, found.within) == (0.0, True)
    assert found.estimates["trait"].value == pytest.approx(0, abs=1e-9)


def test_noise_widens_the_interval_which_holds_the_value() -> None:
    found = read(lambda s: 0.7 + 0.2 * s, 0.8, noise=0.1)
    for estimates in (found.estimates, found.minus_prompt):
        for one in estimates.values():
            assert one.low <= one.value <= one.high
            assert one.high > one.low
    assert found == read(lambda s: 0.7 + 0.2 * s, 0.8, noise=0.1)


def test_a_strength_at_which_nothing_was_said_gives_no_number() -> None:
    curve = [(s, samples(s, 0.7 + 0.2 * s if s < 1 else math.nan)) for s in STRENGTHS]
    assert math.isnan(matched(curve, samples(0.4, 0.8)).estimates["trait"].value)


@pytest.mark.parametrize("strengths", [(0.0, 1.0, 1.25), (0.0, 1.0, 1.0, 1.25)])
def test_too_few_strengths_are_refused(strengths: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="expected at least 4 different ones"):
        matched([(s, samples(s, 0.7)) for s in strengths], samples(0.4, 0.8))


def test_a_parabola_is_its_own_smooth_curve_whatever_the_weights() -> None:
    strengths, at = np.array([0.0, 0.5, 0.8, 1.1, 2.0]), np.array([0.1, 0.5, 1.7])
    truth = lambda s: np.stack([1 + s - 2 * s**2, 3 * s, np.full_like(s, 7.0)], -1)  # noqa: E731
    off = np.random.default_rng(0).standard_normal((6, 5))
    values = np.broadcast_to(truth(strengths), (6, 5, 3))
    assert np.allclose(smooth(at, strengths, values, off), truth(at))


def test_resamples_are_smoothed_each_for_itself() -> None:
    rng, strengths, at = np.random.default_rng(0), np.array([0.0, 0.5, 0.8, 1.1]), np.array([0.3, 0.9])
    values, off = rng.standard_normal((3, 4, 2)), rng.standard_normal((3, 4))
    whole = smooth(at, strengths, values, off)
    assert whole.shape == (3, 2, 2)
    assert all(np.allclose(whole[i], smooth(at, strengths, values[i], off[i])) for i in range(3))
