"""The forecast: how alike the differences are that a prompt makes, from the first replies."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgesteer import SteeredLlama
from edgesteer.generate import Chat, Question
from edgesteer.learn import Recipe
from edgesteer.learn.contrast import contrast_rows
from edgesteer.learn.forecast import differences, forecast, late_blocks, similarity
from edgesteer.learn.pairs import sample_pairs
from edgesteer.learn.task import Task

TRAIT = "You talk like a pirate, arr."
ASKED = [Question(f"What is {thing}?") for thing in ("a key", "a tale", "love", "rain", "a pen")]

drawn = arrays.arrays(np.float64, (2, 5, 3), elements=st.integers(-5, 5).map(float))


@given(drawn)
def test_it_is_the_mean_cosine_between_two_questions(values: np.ndarray) -> None:
    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        size = float(np.linalg.norm(a) * np.linalg.norm(b))
        return float(a @ b) / size if size else 0.0

    n = values.shape[1]
    pairs = [cosine(block[i], block[j]) for block in values for i in range(n) for j in range(i)]
    assert similarity(values) == pytest.approx(np.mean(pairs), abs=1e-9)


@given(drawn, st.sampled_from([0.01, 3.0]))
def test_neither_size_nor_order_matters(values: np.ndarray, times: float) -> None:
    sizes = times * np.arange(1, 6)[:, None]
    assert similarity((values * sizes)[:, ::-1]) == pytest.approx(similarity(values), abs=1e-9)


def test_the_same_difference_everywhere_is_1_and_opposite_ones_are_below_0() -> None:
    one = np.ones((1, 1, 4))
    assert similarity(np.repeat(one, 6, axis=1)) == pytest.approx(1)
    assert similarity(np.concatenate([one, -one], axis=1)) == pytest.approx(-1)
    with pytest.raises(ValueError, match="expected at least two"):
        similarity(one)


def test_differences_are_the_prompts_own(llm: SteeredLlama) -> None:
    """Mean over a reply of what the prompt adds: of the opposite's replies nothing is read."""
    task = Task(Chat(llm), TRAIT, Recipe(max_tokens=6, opposite="You are a clerk."))
    pairs = sample_pairs(task.chat, TRAIT, ASKED, task.recipe)
    ours = [pair for pair in pairs if pair.sign > 0]
    found = differences(task, ours)
    assert found.shape[1:] == (len(ASKED), llm.n_embd())
    said = forecast(task, pairs)
    assert said is not None
    assert said.similarity == pytest.approx(similarity(found), abs=1e-3)
    assert said == forecast(task, ours)
    seen: dict[int, np.ndarray] = {}
    sample_pairs(task.chat, TRAIT, ASKED, task.recipe, layers=range(1, 4), keep=seen.__setitem__)
    again = forecast(task, pairs, seen, range(1, 4))
    assert again is not None
    assert again.similarity == pytest.approx(said.similarity, abs=1e-3)
    blocks = late_blocks(task)
    with contrast_rows(task.chat, ours[:1], kind="accumulated", blocks=blocks) as rows:
        alone = [rows.delta(n).mean(axis=0) for n in blocks]
    np.testing.assert_allclose(found[:, 0], alone, atol=1e-3)


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 3))
def test_of_too_few_replies_none_is_made(llm: SteeredLlama, n: int) -> None:
    task = Task(Chat(llm), TRAIT, Recipe(max_tokens=2))
    pairs = sample_pairs(task.chat, TRAIT, ASKED, task.recipe)
    empty = [dataclasses.replace(pair, reply=[]) for pair in pairs[n:]]
    assert forecast(task, [*pairs[:n], *empty]) is None
