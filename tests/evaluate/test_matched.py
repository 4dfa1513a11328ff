"""At the prompt's coherence: what is read from curves whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesteer.evaluate.intervals import Sample
from edgesteer.evaluate.matched import Matched, isotonic, matched

N = 12
STRENGTHS = (0.0, 0.7, 1.0, 1.4)
STEP = 1.4 / 128


def samples(
    trait: float, coherence: float, distinct2: float = 0.9, noise: float = 0.0, seed: int = 0
) -> dict[str, Sample]:
    """Of N questions, around these means."""
    drawn = np.random.default_rng(seed).standard_normal((2, N)) * noise
    return {
        "trait": Sample.mean(trait + drawn[0]),
        "coherence": Sample.mean(coherence + drawn[1]),
        "distinct2": Sample.mean([distinct2] * N),
    }


def read(coherences: Sequence[float], target: float, noise: float = 0.0, sign: int = 1) -> Matched:
    """A bundle whose trait is its strength, and a prompt of trait 0.4 and coherence `target`."""
    known = zip(STRENGTHS, coherences, strict=True)
    curve = [(sign * s, samples(sign * s, c, noise=noise, seed=i)) for i, (s, c) in enumerate(known)]
    return matched(curve, samples(0.4, target, noise=noise, seed=99))


def line(slope: float) -> list[float]:
    return [0.7 + slope * s for s in STRENGTHS]


@pytest.mark.parametrize("target", [0.75, 0.8, 0.9])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_curve_without_noise_is_read_where_it_crosses(target: float, sign: int) -> None:
    found = read(line(0.2), target, sign=sign)
    crossing = (target - 0.7) / 0.2
    assert not found.limited
    assert crossing - STEP <= sign * found.strength <= crossing + 1e-5  # the target is kept
    assert found.estimates["trait"].value == pytest.approx(found.strength)
    assert found.minus_prompt["trait"].value == pytest.approx(found.strength - 0.4)
    assert all(e.high - e.low < 1e-9 for e in found.estimates.values())


def test_between_two_strengths_it_is_read_between_what_they_brought() -> None:
    curve = [(0.0, samples(0, 0.7)), (1.0, samples(0.0, 0.8)), (2.0, samples(1.0, 0.9))]
    assert matched(curve, samples(0.4, 0.85)).estimates["trait"].value == pytest.approx(0.5, abs=0.02)


def test_where_more_might_do_too_the_highest_is_read_and_said() -> None:
    found = read(line(0.1), 0.95)
    assert (found.strength, found.limited, found.capped) == (1.4, True, 1.0)


@pytest.mark.parametrize("target", [0.6, 0.7, 0.74])
def test_a_little_is_free_where_the_prompt_costs_less(target: float) -> None:
    found = read(line(0.2), target)
    assert (0.05 / 0.2) - STEP <= found.strength <= 0.05 / 0.2 + 1e-5
    assert not found.limited


def test_a_dip_of_noise_is_no_crossing() -> None:
    """0.95 at 1.0 and 0.85 at 1.4 say 0.9 for both: at the target of 0.89 neither will do."""
    found = read([0.7, 0.8, 0.95, 0.85], 0.89)
    assert 0.7 < found.strength < 1.0


@pytest.mark.parametrize("coherences", [(0.749, 0.828, 0.661, 0.822), (0.8, 0.7, 0.7, 0.9)])
def test_there_is_always_a_strength_whatever_the_noise(coherences: Sequence[float]) -> None:
    found = read(coherences, 0.72)
    assert 0 <= found.strength < 1.4
    assert not found.limited


def test_loops_look_coherent_and_do_not_count() -> None:
    points = [(0.0, 0.7, 1.0), (0.7, 0.88, 0.97), (1.0, 0.95, 0.95), (1.4, 0.5, 0.2)]
    curve = [(s, samples(s, c, d)) for s, c, d in points]
    prompted = samples(0.4, 0.9, 1.0)
    found = matched(curve, prompted)
    assert found.estimates["distinct2"].value >= 0.9
    assert found.strength < 1.1


def test_noise_widens_the_interval_which_holds_the_value() -> None:
    found = read(line(0.2), 0.8, noise=0.1)
    for estimates in (found.estimates, found.minus_prompt):
        for name in ("trait", "coherence"):
            assert estimates[name].low <= estimates[name].value <= estimates[name].high
            assert estimates[name].high > estimates[name].low
    assert found == read(line(0.2), 0.8, noise=0.1)


def test_the_share_of_resamples_without_a_crossing_is_told() -> None:
    found = read(line(0.2), 0.93, noise=0.2)
    assert not found.limited
    assert 0.05 < found.capped < 0.95


def test_a_strength_at_which_nothing_was_said_gives_no_number() -> None:
    found = read([0.7, 0.8, math.nan, 1.0], 0.8)
    assert math.isnan(found.estimates["trait"].value)
    assert not found.limited


@pytest.mark.parametrize(
    "strengths", [(0.0, 1.0), (0.0, 1.0, 1.0, 1.25), (0.5, 1.0, 2.0), (0.0, -1.0, 1.5), (-1.0, 0.0, 1.0)]
)
def test_what_is_no_curve_is_refused(strengths: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="expected 0 and at least two more"):
        matched([(s, samples(s, 0.7)) for s in strengths], samples(0.4, 0.8))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6))
def test_an_isotonic_fit_never_falls_and_keeps_the_mean(values: list[float]) -> None:
    fit = isotonic(np.array(values))
    assert (np.diff(fit) >= -1e-9).all()
    assert fit.mean() == pytest.approx(np.mean(values), abs=1e-9)
    rising = np.sort(values)
    assert isotonic(rising) == pytest.approx(rising, abs=1e-9)


def test_resamples_are_fitted_each_for_itself() -> None:
    values = np.random.default_rng(0).standard_normal((5, 4))
    one: Callable[[int], np.ndarray] = lambda i: isotonic(values[i])  # noqa: E731
    assert np.allclose(isotonic(values), np.stack([one(i) for i in range(5)]))


@given(st.lists(st.tuples(st.floats(-1, 1), st.integers(1, 4)), min_size=1, max_size=5))
def test_a_weight_counts_as_so_many_equal_strengths(drawn: list[tuple[float, int]]) -> None:
    measured, weights = np.array(drawn).T
    each = np.repeat(measured, weights.astype(int))
    fit = np.repeat(isotonic(measured, weights), weights.astype(int))
    assert fit == pytest.approx(isotonic(each), abs=1e-9)
