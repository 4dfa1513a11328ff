"""The dose on a chat whose coherence is a given function of the strength."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgesteer.errors import PlanError
from edgesteer.evaluate import Dose, strength_at
from edgesteer.evaluate.dose import Point, smoothed
from edgesteer.evaluate.matched import ROUNDING, keeps
from edgesteer.plan import SteeringPlan
from tests.evaluate.fake import BUNDLE, LENGTH, FakeChat

PLAIN, PROMPTED = [[1], [2]], [[3], [4]]

NEAR = 3 * ROUNDING  # beyond what rounding of float32 can explain


def dose(chat: FakeChat, target: float, **options: Any) -> Dose:
    return strength_at(chat, BUNDLE, PLAIN, PROMPTED, target, **options)  # type: ignore[arg-type]


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 5), st.integers(1, 6), st.integers(0, 6), st.floats(0.5, 3))
@example(1.0, 1, 3, 1.0)  # the unsteered model lies on the target
def test_it_finds_the_boundary_and_only_says_what_it_measured(
    target: float, scan: int, steps: int, hi: float
) -> None:
    chat = FakeChat(lambda strength: 1 + strength**2)
    found = dose(chat, target, hi=hi, scan=scan, steps=steps)
    assert sorted(chat.asked) == [point.strength for point in found.curve]
    off = found.point.coherence - target
    assert off <= NEAR if found.reached else off > -NEAR
    boundary = math.sqrt(max(target - 1, 0))
    if found.limited:
        assert found.strength == hi
        assert boundary >= hi - 2e-3
    elif found.reached:
        assert found.strength <= boundary + 2e-3
        assert boundary - found.strength <= hi / scan / 2**steps + 2e-3
    else:
        assert target < 1
        assert found.strength == 0


LAWS: dict[str, Callable[[float], float]] = {
    "flat": lambda s: 0.0,
    "rising": lambda s: s,
    "falling": lambda s: -s / 4,
    "dip": lambda s: (s - 1) ** 2 - 1,
    "bump": lambda s: s * (2 - s),
    "jump": lambda s: 3.0 * (s > 0),
}


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(sorted(LAWS)),
    st.floats(0.125, 4, width=32),
    st.sampled_from([0.0, 1e-7, -1e-7]) | st.floats(0, 1),
    st.integers(1, 4),
    st.integers(0, 4),
    st.floats(0.5, 3),
)
@example("rising", 1.0, 0.0, 1, 3, 1.0)
def test_what_the_unsteered_model_keeps_is_reached(
    law: str, unsteered: float, room: float, scan: int, steps: int, hi: float
) -> None:
    """Whatever steering does: strength 0 is in the range, and on the target, or off it by rounding, is
    kept."""
    found = dose(
        FakeChat(lambda s: unsteered + LAWS[law](s)), unsteered + room, hi=hi, scan=scan, steps=steps
    )
    assert found.reached
    assert keeps(found.smoothed.coherence, 1.0, found.target_coherence, 0.0)


@given(st.floats(-5, 5), st.floats(0, 1), st.booleans())
def test_what_lies_on_a_bound_keeps_it_and_what_is_unknown_does_not(
    most: float, least: float, wide: bool
) -> None:
    as_measured = np.array if wide else float
    assert np.all(keeps(as_measured(most), as_measured(least), most, least))
    assert np.all(keeps(np.float32(most), np.float32(least), most, least))
    for coherence, distinct2 in (
        (most + NEAR, least),
        (most, least - NEAR),
        (math.nan, least),
        (most, math.nan),
    ):
        assert not np.any(keeps(as_measured(coherence), as_measured(distinct2), most, least))
    assert not keeps(math.inf, 1.0, most, least)


def test_the_repetition_guard_binds() -> None:
    """Above 1 replies loop, and are ever easier to predict."""
    chat = FakeChat(lambda s: 1 / (1 + s), lambda s: LENGTH if s <= 1 else 2)
    assert dose(chat, 1.0).strength == 2
    guarded = dose(FakeChat(lambda s: 1 / (1 + s), lambda s: LENGTH if s <= 1 else 2), 1.0, min_distinct2=0.9)
    assert guarded.strength == 1
    assert not guarded.limited


def test_without_any_that_will_do_it_names_the_nearest_and_says_so() -> None:
    found = dose(FakeChat(lambda s: 2 + (s - 1) ** 2), 1.0)
    assert (found.strength, found.reached, found.limited) == (1.0, False, False)
    looping = dose(FakeChat(lambda s: 2.0, lambda s: 1), 1.0, lo=0.5, min_distinct2=0.5)
    assert (looping.strength, looping.reached) == (0.5, False)


def test_a_low_end_that_fails_does_not_hide_a_strength_that_passes() -> None:
    found = dose(FakeChat(lambda s: abs(s - 1.5)), 0.6)
    assert found.reached
    assert found.strength == pytest.approx(2.0)


def test_overflow_is_a_strength_that_will_not_do() -> None:
    found = dose(FakeChat(lambda s: 1.0, overflow_at=1.2), 2.0, steps=6)
    assert found.reached
    assert 1.1 < found.strength < 1.2
    assert found.curve[-1].coherence == math.inf


def test_the_same_call_gives_the_same_dose_and_progress_ends() -> None:
    seen: list[float] = []
    first = dose(FakeChat(lambda s: s), 1.1)
    assert dose(FakeChat(lambda s: s), 1.1, progress=seen.append) == first
    assert seen == sorted(seen)
    assert seen[-1] == 1


def test_of_a_plan_the_strength_is_a_multiple() -> None:
    plan = SteeringPlan.of([(BUNDLE, 0.5, None)])
    found = strength_at(FakeChat(lambda s: s), plan, PLAIN, PROMPTED, 1.0, hi=4.0, steps=6)  # type: ignore[arg-type]
    assert found.reached
    assert found.strength == pytest.approx(2 * dose(FakeChat(lambda s: s), 1.0, steps=6).strength, abs=0.01)


@pytest.mark.parametrize(("target", "beyond"), [(3.5, 2), (1.9, 2), (9.0, 2), (3.5, 1), (3.5, 0)])
def test_where_the_range_is_too_low_it_looks_beyond(target: float, beyond: int) -> None:
    """Coherence is the strength: the boundary is the target, the range ends at 2, what is tried at 2, 3 and
    4.5."""
    found = dose(FakeChat(lambda s: s), target, hi=2.0, beyond=beyond, steps=5)
    top = 2.0 * 1.5**beyond
    assert found.reached
    assert found.limited == (target >= top)
    assert found.strength == pytest.approx(min(target, top), abs=0.05)
    assert found.strength <= target


def test_one_strength_is_a_range() -> None:
    assert dose(FakeChat(lambda s: s), 5.0, lo=1.0, hi=1.0).strength == 1
    assert len(dose(FakeChat(lambda s: s), 0.5, lo=1.0, hi=1.0).curve) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lo": 1.0, "hi": 0.5}, "the lower end first"),
        ({"hi": math.inf}, "finite range"),
        ({"lo": math.nan}, "finite range"),
        ({"scan": 0}, "expected at least 1, 0 and 0"),
        ({"beyond": -1}, "expected at least 1, 0 and 0"),
        ({"steps": -1}, "expected at least 1, 0 and 0"),
        ({"target": math.nan}, "finite number of nats"),
        ({"target": math.inf}, "finite number of nats"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_is_asked(
    change: dict[str, Any], message: str
) -> None:
    chat = FakeChat(lambda s: s)
    with pytest.raises(PlanError, match=message):
        dose(chat, **{"target": 1.0, **change})
    assert chat.asked == []


@pytest.mark.parametrize(("plain", "prompted"), [([], []), ([[1]], []), ([[1]], [[1], [2]])])
def test_prompts_that_do_not_pair_are_refused(plain: list[Any], prompted: list[Any]) -> None:
    with pytest.raises(PlanError, match="expected as many, not 0"):
        strength_at(FakeChat(lambda s: s), BUNDLE, plain, prompted, 1.0)  # type: ignore[arg-type]


def test_a_dose_is_a_value() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        dose(FakeChat(lambda s: s), 1.0).strength = 3.0  # type: ignore[misc]


SOME = st.floats(-3, 3)


@settings(max_examples=50, deadline=None)
@given(SOME, SOME, SOME, st.integers(4, 9))
def test_what_is_a_parabola_is_left_as_it_is(a: float, b: float, c: float, n: int) -> None:
    curve = [Point(s / 4, c * s, a + b * s + c * s * s, 0.5) for s in range(n)]
    for point in curve:
        found = smoothed(point, curve, 1.0)
        assert (found.strength, found.distinct2) == (point.strength, point.distinct2)
        assert found.coherence == pytest.approx(point.coherence, abs=1e-6)
        assert found.trait == pytest.approx(point.trait, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_noise_is_less_on_the_smooth_curve(seed: int) -> None:
    """Over many strengths; what is said of a single point is no more than what was measured there."""
    drawn = np.random.default_rng(seed)
    truth = {s: 0.7 + 0.1 * s * s for s in np.linspace(0.2, 1.4, 24)}
    curve = [Point(s, c, c + drawn.normal(0, 0.05), 1.0) for s, c in truth.items()]
    raw = [p.coherence - truth[p.strength] for p in curve]
    left = [smoothed(p, curve, 0.8).coherence - truth[p.strength] for p in curve]
    assert np.square(left).mean() < np.square(raw).mean()


def test_three_points_are_what_was_measured_and_overflow_bends_nothing() -> None:
    curve = [Point(s, s, c, 1.0) for s, c in ((0.5, 0.9), (1.0, 0.7), (1.5, 1.2))]
    assert [smoothed(p, curve, 1.0) for p in curve] == curve
    more = [*curve, Point(2.0, 2.0, 1.9, 1.0)]
    burst = Point(2.5, math.nan, math.inf, 0.0)
    assert smoothed(burst, [*more, burst], 1.0) is burst
    assert [smoothed(p, [*more, burst], 1.0) for p in more] == [smoothed(p, more, 1.0) for p in more]


def test_one_unlucky_strength_does_not_end_the_search() -> None:
    """At 1.0 ten replies happened to be bad; the strengths around say that 1.25 will do."""
    found = dose(FakeChat(lambda s: 0.85 if s == 1.0 else 0.7 + 0.05 * s), 0.8, hi=1.5, scan=6)
    assert found.reached
    assert found.strength > 1.2
    assert found.smoothed.coherence <= 0.8


def test_where_a_strength_seemed_to_do_and_did_not_it_looks_below_that_again() -> None:
    """Measured at 2, 1, 1.5 and 1.75; then 1.5 no longer passes, and the way from 1 to there has not been
    looked at."""
    chat = FakeChat({2.0: 1.1, 1.0: 0.82, 1.5: 0.9, 1.75: 1.3}.get)  # type: ignore[arg-type]
    with pytest.raises(TypeError):  # 1.25 is asked for, of which this chat knows nothing
        dose(chat, 0.92, hi=2.0, scan=2, steps=2)
    assert chat.asked == [2.0, 1.0, 1.5, 1.75, 1.25]
