"""Bootstrap intervals: laws of the estimate and of the paired difference."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesteer.evaluate.intervals import Sample, difference, estimate

numbers = st.floats(-1e6, 1e6, allow_subnormal=False)
values = st.lists(numbers, min_size=1, max_size=12)
quick = settings(max_examples=40, deadline=None)


@quick
@given(values)
def test_an_interval_holds_its_mean(drawn: list[float]) -> None:
    found = estimate(Sample.mean(drawn))
    assert found.low <= found.value <= found.high
    assert found.value == pytest.approx(np.mean(drawn), rel=1e-9, abs=1e-6)
    assert min(drawn) - 1e-6 <= found.low
    assert found.high <= max(drawn) + 1e-6


@quick
@given(numbers, st.integers(1, 12))
def test_equal_values_leave_no_width(value: float, n: int) -> None:
    found = estimate(Sample.mean([value] * n))
    assert found.high - found.low == pytest.approx(0, abs=1e-9 * max(1, abs(value)))


@quick
@given(values)
def test_a_sample_does_not_differ_from_itself(drawn: list[float]) -> None:
    found = difference(Sample.mean(drawn), Sample.mean(drawn))
    assert (found.value, found.low, found.high) == (0, 0, 0)


@quick
@given(st.lists(st.tuples(st.integers(-1000, 1000), st.integers(-1000, 1000)), min_size=1, max_size=12))
def test_a_difference_is_antisymmetric(pairs: list[tuple[int, int]]) -> None:
    a, b = (Sample.mean(column) for column in zip(*pairs, strict=True))
    ab, ba = difference(a, b), difference(b, a)
    assert (ab.value, ab.low, ab.high) == pytest.approx((-ba.value, -ba.high, -ba.low), abs=1e-9)


def test_pairing_removes_what_both_share() -> None:
    hard = np.linspace(0, 100, 20)
    paired = difference(Sample.mean(hard + 1), Sample.mean(hard))
    assert paired.low == pytest.approx(1)
    assert paired.high == pytest.approx(1)


def test_more_questions_narrow_it() -> None:
    few, many = (estimate(Sample.mean([0.0, 1.0] * n)) for n in (5, 500))
    assert many.high - many.low < 0.2 * (few.high - few.low)


def test_the_same_values_give_the_same_interval() -> None:
    sample = Sample.mean([0.3, 0.1, 0.9])
    assert estimate(sample) == estimate(sample)
    assert estimate(sample, seed=1).value == estimate(sample).value


def test_a_question_without_a_value_is_left_out() -> None:
    assert estimate(Sample.mean([1.0, math.nan, 3.0])).value == 2.0


@pytest.mark.parametrize("nothing", [Sample.mean([]), Sample.mean([math.nan]), Sample.ratio([0, 0], [0, 0])])
def test_nothing_is_nan_and_warns_of_nothing(nothing: Sample) -> None:
    found = [estimate(nothing), difference(nothing, nothing)]
    assert all(math.isnan(x) for each in found for x in (each.value, each.low, each.high))


def test_a_rate_weighs_questions_by_what_it_is_taken_of() -> None:
    assert estimate(Sample.ratio([0, 10], [90, 10])).value == pytest.approx(0.1)


def test_samples_of_other_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="2 and 1 questions"):
        difference(Sample.mean([1, 2]), Sample.mean([1]))
