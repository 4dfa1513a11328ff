"""Which strength is chosen."""

from __future__ import annotations

import numpy as np
import pytest

from edgesteer import SteeredLlama
from edgesteer.errors import LearnError
from edgesteer.evaluate.relevance import relevance
from edgesteer.generate import REPEAT_PENALTY, Chat, score
from edgesteer.learn import Recipe
from edgesteer.learn.fit import BlockFit
from edgesteer.learn.strength import HEEDED, Yardstick, at_coherence, lowest, strength_range
from edgesteer.learn.task import Task


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


QUESTIONS = [f"What is so good about {thing}?" for thing in "abcdefghijklmnopqrst"]
PIRATE = "You talk like a pirate, arr."


def nothing(done: float) -> None:
    """No progress."""


def drawn(llm: SteeredLlama) -> dict[int, BlockFit]:
    direction = np.random.default_rng(0).normal(size=llm.n_embd()).astype(np.float32)
    return {1: BlockFit(direction / np.float32(np.linalg.norm(direction)), (), 1.0)}


@pytest.fixture(scope="module")
def yardstick(llm: SteeredLlama) -> Yardstick:
    task = Task(Chat(llm), PIRATE, Recipe(method="constant", max_tokens=8))
    return Yardstick.of(task, [*QUESTIONS, QUESTIONS[3]], nothing)


def test_a_strength_is_found_on_a_model_and_always_the_same(yardstick: Yardstick, llm: SteeredLlama) -> None:
    tuned = at_coherence(yardstick.task, drawn(llm), yardstick, 1.0, nothing)
    dose = tuned.dose
    assert dose.low <= dose.strength <= dose.high
    assert dose.questions <= len(yardstick.questions) == len(QUESTIONS)  # one was given twice
    assert dose.curve[0].strength <= dose.strength <= dose.curve[-1].strength or dose.strength > 0
    assert strength_range(dose, both_ways=True).min == -dose.curve[-1].strength
    again = Yardstick.of(yardstick.task, QUESTIONS, nothing)
    assert at_coherence(yardstick.task, drawn(llm), again, 1.0, nothing).dose == dose


def test_what_a_search_measures_is_what_the_replies_score(yardstick: Yardstick, llm: SteeredLlama) -> None:
    """Passes are saved where the unsteered model's own log-probabilities are known: the same to rounding."""
    chat, batch = yardstick.task.chat, range(9)
    plain, prompted = ([each[i] for i in batch] for each in (yardstick.plain, yardstick.prompted))
    for key, asked in ((None, prompted), (0.0, plain)):
        given = yardstick.given(key, batch)
        whole = score(chat, chat.replies(asked, 8, repeat_penalty=REPEAT_PENALTY), plain, prompted)
        assert given.scores is not None
        assert given.scores.coherence == pytest.approx(whole.coherence, abs=1e-3)
        own = relevance(chat, PIRATE, yardstick.questions[:9], given.replies, among=3).nats
        assert yardstick.relevance(given, batch) == pytest.approx(own, abs=1e-3)


def test_a_coherence_of_the_recipe_is_the_target(llm: SteeredLlama) -> None:
    for target, reached in ((1e-3, False), (1e3, True)):
        task = Task(Chat(llm), PIRATE, Recipe(method="constant", max_tokens=8, coherence=target))
        dose = at_coherence(
            task, drawn(llm), Yardstick.of(task, QUESTIONS[:4], nothing), 0.01, nothing
        ).dose
        assert dose.target_coherence == target
        assert dose.reached <= reached


def test_without_questions_there_is_no_strength(llm: SteeredLlama) -> None:
    task = Task(Chat(llm), PIRATE, Recipe())
    with pytest.raises(LearnError, match="no questions"):
        Yardstick.of(task, [], nothing)


def test_a_prompt_is_heeded_where_its_replies_show_the_trait(yardstick: Yardstick) -> None:
    assert yardstick.heeded is (yardstick.scores.mean("trait") >= HEEDED)
