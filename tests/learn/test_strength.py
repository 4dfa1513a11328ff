"""Which strength and which of two fits is chosen."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from edgesteer import SteeredLlama
from edgesteer.evaluate.dose import Dose, Point
from edgesteer.generate import Chat
from edgesteer.learn import Recipe
from edgesteer.learn.fit import BlockFit
from edgesteer.learn.strength import HEEDED, Tuned, Yardstick, better, kept_facts, lowest
from edgesteer.learn.task import Task


def one(trait: float, reached: bool = True) -> Tuned:
    curve = (Point(1.0, trait, 0.8, 1.0), Point(2.0, 9.0, 1.8, 1.0))
    return Tuned({}, Dose(1.0, reached, False, 0.9, 0.5, curve))


@pytest.mark.parametrize(
    ("closed", "trained", "kept"),
    [
        (one(0.1), one(0.2), True),
        (one(0.2), one(0.1), False),
        (one(0.1), one(0.1), True),
        (one(0.1), one(0.2, reached=False), False),
        (one(0.2, reached=False), one(0.1), True),
        (one(0.1, reached=False), one(0.2, reached=False), True),
        (one(0.1), one(math.nan, reached=False), False),
        (one(0.1, reached=False), one(math.nan, reached=False), False),
        (one(math.nan, reached=False), one(0.1, reached=False), True),
    ],
)
def test_more_trait_wins_and_coherence_comes_first(closed: Tuned, trained: Tuned, kept: bool) -> None:
    assert better(closed, trained) is (trained if kept else closed)
    facts = kept_facts(closed, trained)
    assert facts["kept"] is kept
    for name, tuned in (("closed", closed), ("trained", trained)):
        assert facts["trait"][name] == (tuned.trait if math.isfinite(tuned.trait) else None)


@pytest.mark.parametrize("best", [0.8, 1.0, 1.37, 1.75])
def test_lowest_is_exact_on_a_parabola(best: float) -> None:
    xs = [0.75, 1.25, 1.75, 2.5]
    assert lowest(xs, [3 + 2 * (x - best) ** 2 for x in xs]) == pytest.approx(best)


@pytest.mark.parametrize(("slope", "edge"), [(1.0, 0.75), (-1.0, 2.5)])
def test_lowest_stays_within_the_samples(slope: float, edge: float) -> None:
    xs = [0.75, 1.25, 1.75, 2.5]
    assert lowest(xs, [slope * x + 0.001 * x * x for x in xs]) == edge


def test_lowest_of_a_straight_line_is_its_lower_end() -> None:
    assert lowest([1, 2, 3], [5, 4, 3]) == 3


def test_steering_need_not_be_more_coherent_than_the_model_itself(llm: SteeredLlama) -> None:
    chat = Chat(llm)
    task = Task(chat, "You talk like a pirate, arr.", Recipe(method="constant", max_tokens=8))
    direction = np.full(llm.n_embd(), 0.01, np.float32)
    bundle = task.bundle({1: BlockFit(direction, (), 1.0)})
    yardstick = Yardstick.of(task, ["Why is it so?", "Who are you?"], lambda done: None)
    own = yardstick.unsteered_coherence(chat)
    for given, target, wanted in (
        (False, own / 2, own),
        (True, own / 2, own / 2),
        (False, own + 1e3, own + 1e3),
    ):
        strict = dataclasses.replace(yardstick, target=target, given=given)
        assert strict.dose(chat, bundle, 1.0, lambda done: None).target_coherence == wanted


@pytest.mark.parametrize(("trait", "heeded"), [(HEEDED, True), (HEEDED - 0.01, False), (math.nan, False)])
def test_a_prompt_is_heeded_where_its_replies_show_the_trait(
    llm: SteeredLlama, trait: float, heeded: bool
) -> None:
    task = Task(Chat(llm), "You are a pirate.", Recipe(max_tokens=1))
    yardstick = Yardstick.of(task, ["Why?"], lambda done: None)
    scores = dataclasses.replace(yardstick.scores, trait=(trait,))
    assert dataclasses.replace(yardstick, scores=scores).heeded is heeded
