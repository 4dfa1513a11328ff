"""What is trained on: the teacher's replies, then the steered model's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgesteer import SteeredLlama
from edgesteer.errors import SteeringOverflow
from edgesteer.generate import Chat
from edgesteer.learn import Recipe, learn
from edgesteer.learn.make import Maker
from tests.learn.support import keep_every_reply

TRAIT, CLERK = "You talk like a pirate, arr.", "You are a sober clerk."
ASKED = ["Why is it so?", "Tell me a tale.", "What is a key?", "Who are you?"]


@pytest.fixture(autouse=True)
def babbling(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_every_reply(monkeypatch)


def trained(
    llm: SteeredLlama, times: float = 2.0, **recipe: Any
) -> list[tuple[dict[int, Any], list[Any], bool]]:
    """What a trainer was handed that makes directions `times` as long: (fits, pairs, again) of each call."""
    calls: list[tuple[dict[int, Any], list[Any], bool]] = []

    def trainer(fits: Any, pairs: Any, **how: Any) -> tuple[Any, dict[str, Any]]:
        calls.append((dict(fits), list(pairs), how["again"]))
        longer = {n: type(f)(np.float32(times) * f.direction, f.layers, f.explained) for n, f in fits.items()}
        return longer, {"steps": 1}

    learn(
        llm,
        TRAIT,
        Recipe(**{"max_tokens": 6, "emphasis": "never", "refine": "kl", **recipe}),
        questions=ASKED,
        trainer=trainer,
    )
    return calls


def test_kl_goes_on_with_what_the_steered_model_says(llm: SteeredLlama) -> None:
    (_, first, _), (fits, own, again) = trained(llm, temperature=0.0)
    assert again
    assert [(p.plain, p.prompted, p.sign) for p in own] == [(p.plain, p.prompted, p.sign) for p in first]
    assert any(o.reply != t.reply for o, t in zip(own, first, strict=True))
    chat, bundle = Chat(llm), Maker(llm.model_info, "response", "x", "x", "x").bundle(fits)
    with llm.steered(bundle, 1.0):
        assert [p.reply for p in own] == [r.spoken for r in chat.replies([p.plain for p in own], 6)]


def test_each_side_of_a_contrast_is_asked_at_its_own_sign(llm: SteeredLlama) -> None:
    _, (_, own, _) = trained(llm, opposite=CLERK, temperature=0.0)
    assert {pair.sign for pair in own} == {1, -1}
    by_side = {s: [(p.question, p.reply) for p in own if p.sign == s] for s in (1, -1)}
    assert by_side[1] != by_side[-1]


@pytest.mark.parametrize("objective", ["ll", "mse"])
def test_what_imitates_a_reply_or_its_activations_is_trained_once(llm: SteeredLlama, objective: str) -> None:
    ((_, _, again),) = trained(llm, refine=objective)
    assert not again


def test_where_steering_overflows_there_is_nothing_of_its_own_to_train_on(
    llm: SteeredLlama, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordinary = Chat.replies

    def replies(chat: Chat, *args: Any, **more: Any) -> Any:
        if more.keys() == {"progress"}:  # as own replies are asked for
            raise SteeringOverflow("too strong")
        return ordinary(chat, *args, **more)

    monkeypatch.setattr(Chat, "replies", replies)
    assert [again for _, _, again in trained(llm)] == [False]


def test_the_same_seed_says_the_same_and_another_something_else(llm: SteeredLlama) -> None:
    one, same, other = (trained(llm, seed=seed)[1][1] for seed in (3, 3, 4))
    assert [p.reply for p in one] == [p.reply for p in same]
    assert [p.reply for p in one] != [p.reply for p in other]


@pytest.mark.parametrize(("heeded_from", "guided"), [(-1e9, False), (1e9, True)])
def test_only_where_the_prompt_is_hardly_heeded_the_teacher_goes_further(
    llm: SteeredLlama, monkeypatch: pytest.MonkeyPatch, heeded_from: float, guided: bool
) -> None:
    monkeypatch.setattr("edgesteer.learn.stages._HEEDED", heeded_from)
    told: list[bool] = []

    def trainer(fits: Any, pairs: Any, **how: Any) -> tuple[Any, dict[str, Any]]:
        told.append(how["guided"])
        return fits, {"steps": 1}

    recipe = Recipe(max_tokens=6, emphasis="never", refine="kl")
    learn(llm, TRAIT, recipe, questions=ASKED, trainer=trainer)
    assert told == [guided] * 2
