"""What is trained on: the teacher's replies, then the steered model's own as well."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgesteer import SteeredLlama
from edgesteer.generate import Chat
from edgesteer.generate.progress import Stages
from edgesteer.learn import Recipe
from edgesteer.learn.fit import BlockFit
from edgesteer.learn.pairs import Pair
from edgesteer.learn.recipe import EFFORTS
from edgesteer.learn.task import Task
from edgesteer.learn.training import train

TRAIT, CLERK = "You talk like a pirate, arr.", "You are a sober clerk."
ASKED = [f"What is a key of kind {i}?" for i in range(12)]
FIRST, SECOND = EFFORTS["normal"].steps


class Watched:
    """A trainer that steers by a constant of length `size`, and records what it was handed."""

    def __init__(self, size: float = 1.0) -> None:
        self.size = size
        self.calls: list[dict[str, Any]] = []

    def __call__(self, pairs: Any, held: Any, **how: Any) -> tuple[dict[int, BlockFit], dict[str, Any]]:
        self.calls.append({"pairs": list(pairs), "held": list(held), **how})
        direction = np.full(64, self.size, np.float32)
        return {n: BlockFit(direction, (), float("nan")) for n in how["blocks"]}, {"call": len(self.calls)}


def trained(
    llm: SteeredLlama, size: float = 1.0, signs: tuple[int, ...] = (1,), **recipe: Any
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    chat, watched = Chat(llm), Watched(size)
    sentences = {1: TRAIT, -1: CLERK}
    pairs = [
        Pair(q, chat.prompt(q), chat.prompt(q, sentences[sign]), [5, 6, 7], 1.0, 1.0, 1.0, 1.0, sign=sign)
        for sign in signs
        for q in ASKED
    ]
    task = Task(chat, TRAIT, Recipe(method="constant", max_tokens=6, **recipe))
    with llm.steered([]):
        _, facts = train(task, pairs, watched, Stages(lambda stage, fraction: None, 1.0))
    return watched.calls, facts


def test_the_second_training_goes_on_with_both_kinds_of_replies(llm: SteeredLlama) -> None:
    (first, second), facts = trained(llm, temperature=0.0, signs=(1, -1), opposite=CLERK)
    assert facts == {"call": 1, "own": {"call": 2}}
    assert (first["steps"], second["steps"]) == (range(FIRST), range(FIRST, FIRST + SECOND))
    assert first["total"] == second["total"] == FIRST + SECOND
    assert first["start"] is None
    assert list(second["start"]) == list(first["blocks"]) == list(second["blocks"])
    for side in ("pairs", "held"):
        known, own = first[side], second[side][len(first[side]) :]
        assert second[side][: len(known)] == known
        assert sorted((p.question, p.sign) for p in own) == sorted((p.question, p.sign) for p in known)
    chat = Chat(llm)
    bundle = Task(chat, TRAIT, Recipe()).bundle(second["start"])
    for sign in (1, -1):
        own = [p for p in second["pairs"][len(first["pairs"]) :] if p.sign == sign]
        with llm.steered(bundle, sign):
            want = chat.replies([p.plain for p in own], 6)
        assert [p.reply for p in own] == [r.all_tokens for r in want if r.all_tokens]


def test_a_question_with_two_written_replies_gets_one_of_the_models_own(llm: SteeredLlama) -> None:
    first, second = trained(llm, signs=(1, 1))[0]
    for side in ("pairs", "held"):
        own = [p.question for p in second[side][len(first[side]) :]]
        assert len(first[side]) == 2 * len(own)
        assert sorted(own) == sorted({p.question for p in first[side]})


def test_whole_questions_are_held_out(llm: SteeredLlama) -> None:
    for call in trained(llm, signs=(1, -1), opposite=CLERK)[0]:
        used, held = ({p.question for p in call[side]} for side in ("pairs", "held"))
        assert held
        assert not used & held
        assert used | held == set(ASKED)


def test_where_steering_overflows_it_is_trained_once(llm: SteeredLlama) -> None:
    calls, facts = trained(llm, size=3e38)
    assert (len(calls), facts) == (1, {"call": 1})


def test_the_same_seed_gives_the_same_replies_and_another_others(llm: SteeredLlama) -> None:
    one, same, other = (trained(llm, seed=seed)[0][1]["pairs"] for seed in (3, 3, 4))
    assert one == same
    assert one != other


@pytest.mark.parametrize(("blocks", "want"), [(2, [2]), ("all", [1, 2])])
def test_what_is_trained_is_what_the_recipe_steers(llm: SteeredLlama, blocks: Any, want: list[int]) -> None:
    first = trained(llm, blocks=blocks)[0][0]
    assert (list(first["blocks"]), first["gated"]) == (want, False)


def test_scope_conversation_starts_at_a_place_in_each_plain_prompt(llm: SteeredLlama) -> None:
    (call, *_), _ = trained(llm, scope="conversation")
    pairs = [*call["pairs"], *call["held"]]
    assert all(0 <= start < len(p.plain) for start, p in zip(call["starts"], pairs, strict=True))
    assert trained(llm)[0][0]["starts"] is None
