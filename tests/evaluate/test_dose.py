"""The search for a strength, on answers whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesteer.errors import PlanError
from edgesteer.evaluate.dose import ABOVE, BELOW, FREE, RELEVANT, STEP, Answers, Dose, batches, search
from edgesteer.evaluate.intervals import F64

Law = Callable[[float], float]

SEEDS = 200
TOP = STEP**ABOVE
UNSTEERED, PROMPT = 0.85, 1.0
TARGET = PROMPT + FREE


def rising(strength: float) -> float:
    """Crosses the target at 1."""
    return UNSTEERED + (TARGET - UNSTEERED) * strength**2


@dataclass
class Fake:
    """Answers whose means are laws of the strength.

    noise: the standard deviation of a question's coherence less the prompt's, in nats; what a question itself
        adds is the same at all strengths. asked, read: at which strengths (None: the prompt), and how many
        questions.
    """

    coherence: Law = rising
    distinct2: Law = lambda s: 0.95
    relevance_at: Law = lambda s: 1.5
    prompt: float = PROMPT
    noise: float = 0.0
    seed: int = 0
    asked: list[tuple[float | None, int]] = field(default_factory=list)
    read: list[float | None] = field(default_factory=list)

    def prompted(self, questions: range) -> Answers:
        return self._answers(None, questions, self.prompt, 0.95)

    def steered(self, strength: float, questions: range) -> Answers:
        return self._answers(strength, questions, self.coherence(strength), self.distinct2(strength))

    def relevance(self, strength: float | None, questions: range) -> F64:
        self.read.append(strength)
        return (1.5 if strength is None else self.relevance_at(strength)) + self._drawn(3, strength, questions)

    def _answers(self, key: float | None, questions: range, coherence: float, distinct2: float) -> Answers:
        self.asked.append((key, len(questions)))
        of_question = self._drawn(0, None, questions)
        drawn = self._drawn(1, key, questions) / math.sqrt(2)
        here = np.full(len(questions), distinct2) + self._drawn(2, key, questions) / 10
        return Answers(np.full(len(questions), key or 0.0), coherence + of_question + drawn, here)

    def _drawn(self, what: int, key: float | None, questions: range) -> F64:
        """One number a question, whichever others are asked."""
        entropy = [self.seed, what, 0 if key is None else 1 + round(1000 * key)]
        return np.random.default_rng(entropy).normal(0, self.noise, 60)[questions.start : questions.stop]


class Bursting(Fake):
    """Overflows from 1.2 on."""

    def steered(self, strength: float, questions: range) -> Answers:
        if strength < 1.2:
            return super().steered(strength, questions)
        n = len(questions)
        return Answers(np.full(n, np.nan), np.full(n, np.inf), np.zeros(n))


class Silent(Fake):
    """The last replies of a batch are empty, or all of the prompt, or all steered ones."""

    silent = "some"

    def prompted(self, questions: range) -> Answers:
        return self._hushed(super().prompted(questions), self.silent == "prompt")

    def steered(self, strength: float, questions: range) -> Answers:
        return self._hushed(super().steered(strength, questions), self.silent == "steered" and strength > 0)

    def _hushed(self, answers: Answers, whole: bool) -> Answers:
        last = slice(None) if whole else slice(-2, None) if self.silent == "some" else slice(0, 0)
        for values in (answers.trait, answers.coherence, answers.distinct2):
            values[last] = np.nan
        return answers


def test_with_noise_it_is_right_within_15_percent_nine_times_of_ten() -> None:
    """Whether asked 40, 50 or 60 questions, and wherever on the grid the crossing is."""
    doses, truths = list[Dose](), np.resize([0.7, 1.0, 1.2, 1.5], SEEDS)
    for seed, truth in enumerate(truths):
        fake = Fake(lambda s, truth=truth: rising(s / truth), noise=0.2, seed=seed)  # type: ignore[misc]
        doses.append(search(fake, (40, 50, 60)[seed % 3], 1.0))
    off = np.array([dose.strength for dose in doses]) / truths - 1
    assert np.mean(np.abs(off) <= 0.15) >= 0.9
    assert abs(np.mean(off)) < 0.03
    assert np.mean([dose.low <= truth <= dose.high for dose, truth in zip(doses, truths, strict=True)]) >= 0.95
    assert all(dose.reached and dose.strength <= TOP + 1e-3 for dose in doses)


def test_clear_cases_take_fewer_questions() -> None:
    def questions(noise: float) -> float:
        return float(np.mean([search(Fake(noise=noise, seed=i), 60, 1.0).questions for i in range(20)]))

    assert questions(0.05) < 20 < 35 < questions(0.2)


@settings(max_examples=40)
@given(st.floats(0.3, 2.6), st.floats(0.5, 1.5))
def test_without_noise_the_crossing_is_found_with_the_first_questions(truth: float, around: float) -> None:
    """On the chord between neighbours of the grid, which lies above the curve."""
    found = search(Fake(lambda s: rising(s / truth)), 60, around)
    top = around * TOP
    if truth > top + 1e-3:
        assert (found.strength, found.bound, found.limited) == (pytest.approx(top, abs=2e-3), "range", True)
    elif around / STEP**BELOW < truth < top - 1e-3:
        assert 0.97 * truth - 2e-3 <= found.strength <= truth + 2e-3
        assert (found.bound, found.reached, found.questions) == ("coherence", True, batches(60)[0].stop)
        assert found.point.coherence == pytest.approx(TARGET, abs=1e-2)
        assert found.point.trait == pytest.approx(found.strength)
    assert found.low <= found.strength <= found.high
    assert len(found.curve) <= BELOW + ABOVE + 1


@settings(max_examples=12)
@given(st.lists(st.floats(0.9, 2.5), min_size=2, max_size=5))
def test_a_higher_target_never_brings_a_lower_strength(targets: list[float]) -> None:
    found = [search(Fake(), 9, 1.0, target=target) for target in sorted(targets)]
    strengths = [dose.strength for dose in found]
    assert strengths == sorted(strengths)
    assert [dose.target_coherence for dose in found] == sorted(targets)


def test_with_noise_a_clearly_higher_target_brings_a_higher_strength() -> None:
    for seed in range(10):
        low, high = (search(Fake(noise=0.2, seed=seed), 40, 1.0, target=t).strength for t in (1.0, 1.3))
        assert low < high


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_what_costs_no_coherence_ends_at_the_range(noise: float) -> None:
    fake = Fake(lambda s: UNSTEERED, noise=noise)
    found = search(fake, 20, 1.0)
    assert found.strength <= TOP + 1e-3
    assert max(strength for strength, _ in fake.asked if strength) == pytest.approx(TOP, abs=1e-3)
    assert (found.bound, found.strength) == ("range", pytest.approx(TOP, abs=1e-2))


def test_little_steering_is_allowed_whatever_the_prompt_costs() -> None:
    """A prompt that is more coherent than the unsteered model: FREE above that is the target."""
    found = search(Fake(prompt=0.2), 20, 1.0)
    assert found.target_coherence == pytest.approx(UNSTEERED + FREE)
    assert found.strength == pytest.approx(math.sqrt(FREE / 0.2), rel=0.05)


def test_a_dip_below_the_unsteered_model_does_not_move_the_crossing() -> None:
    found = search(Fake(lambda s: rising(s) - 0.3 * (0 < s < 0.6)), 20, 1.0)
    assert found.strength == pytest.approx(1.0, rel=0.03)


def test_a_target_that_nothing_keeps_is_said_to_be_out_of_reach() -> None:
    fake = Fake()
    found = search(fake, 20, 1.0, target=UNSTEERED - 0.1)
    assert (found.reached, found.low) == (False, 0.0)
    assert found.strength == found.curve[0].strength == min(s for s, _ in fake.asked if s)
    assert found.point.strength == found.strength


@pytest.mark.parametrize("truth", [0.6, 0.9, 1.6])
def test_loops_are_kept_out(truth: float) -> None:
    """Coherence alone would allow everything."""
    found = search(Fake(lambda s: UNSTEERED, lambda s: 0.95 * (1 - 0.1 * (s / truth) ** 2)), 20, 1.0)
    assert found.bound == "repetition"
    assert found.strength == pytest.approx(truth, rel=0.04)
    assert found.min_distinct2 == pytest.approx(0.9 * 0.95)


@pytest.mark.parametrize("truth", [0.4, 0.9, 1.6])
def test_replies_stay_to_the_point(truth: float) -> None:
    """Relevance falls to its bound long before coherence does."""
    fall = (1 - RELEVANT) / truth**2
    doses: list[Dose] = []
    for seed in range(10):
        fake = Fake(
            lambda s: UNSTEERED, relevance_at=lambda s: 1.5 * (1 - fall * s**2), noise=0.2, seed=seed
        )
        doses.append(search(fake, 40, 1.0))
    assert {dose.bound for dose in doses} == {"relevance"}
    assert np.mean([dose.strength for dose in doses]) == pytest.approx(truth, rel=0.1)
    assert doses[0].min_relevance == pytest.approx(RELEVANT * 1.5, abs=0.1)


def test_relevance_is_read_above_the_crossing_alone_if_it_is_clearly_kept() -> None:
    fake = Fake(noise=0.05)
    found = search(fake, 9, 1.0)
    above = min(point.strength for point in found.curve if point.strength > found.strength)
    assert found.bound == "coherence"
    assert fake.read == [None, above]


def test_the_same_questions_are_asked_at_both_strengths_around_the_crossing() -> None:
    fake = Fake(noise=0.2)
    found = search(fake, 60, 1.0)
    asked = {key: sum(n for k, n in fake.asked if k == key) for key, _ in fake.asked}
    below = max(point.strength for point in found.curve if point.strength <= found.strength)
    above = min(point.strength for point in found.curve if point.strength > found.strength)
    assert {asked[key] for key in (None, 0.0, below, above)} == {found.questions}
    assert {point.strength: point.questions for point in found.curve} == {k: n for k, n in asked.items() if k}


def test_overflow_is_a_strength_that_will_not_do() -> None:
    found = search(Bursting(lambda s: UNSTEERED), 40, 1.0)
    assert found.reached
    assert 0.99 <= found.strength < 1.2
    assert found.curve[-1].coherence == math.inf
    assert math.isfinite(found.point.trait)


@pytest.mark.parametrize("silent", ["prompt", "steered", "some"])
def test_empty_replies_have_no_say(silent: str) -> None:
    fake = Silent()
    fake.silent = silent
    found = search(fake, 20, 1.0)
    assert found.strength > 0
    assert found.reached or silent == "steered"
    if silent == "prompt":  # the unsteered model alone sets the bounds
        assert found.target_coherence == pytest.approx(UNSTEERED + FREE)
        assert found.min_distinct2 == pytest.approx(0.95)
        assert found.point.coherence == pytest.approx(UNSTEERED + FREE, rel=0.03)
    if silent == "some":
        assert found.strength == pytest.approx(1.0, rel=0.03)
    if silent == "steered":
        assert not found.reached


def test_the_same_answers_give_the_same_dose_and_progress_ends() -> None:
    seen: list[float] = []
    first = search(Fake(noise=0.2), 40, 1.0)
    assert search(Fake(noise=0.2), 40, 1.0, progress=seen.append) == first
    assert seen == sorted(seen)
    assert seen[-1] == 1


@given(st.integers(1, 80))
def test_batches_hold_each_question_once_and_none_is_too_small(n: int) -> None:
    parts = batches(n)
    assert [i for part in parts for i in part] == list(range(n))
    assert all(len(part) >= min(3, n) for part in parts)


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_few_questions_will_do(n: int) -> None:
    fake = Fake()
    found = search(fake, n, 1.0)
    assert found.questions <= n
    assert found.strength == pytest.approx(1.0, rel=0.03)
    assert bool(fake.read) == (n >= 3)
    assert math.isnan(found.min_relevance) == (n < 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 0}, "no questions"),
        ({"around": 0.0}, "expected a number from 0.01 on"),
        ({"around": -1.0}, "expected a number from 0.01 on"),
        ({"around": math.nan}, "expected a number from 0.01 on"),
        ({"around": math.inf}, "expected a number from 0.01 on"),
        ({"target": math.nan}, "finite number of nats"),
        ({"target": math.inf}, "finite number of nats"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_is_asked(
    change: dict[str, Any], message: str
) -> None:
    fake, options = Fake(), {"n": 9, "around": 1.0, **change}
    with pytest.raises(PlanError, match=message):
        search(fake, **options)
    assert fake.asked == []
