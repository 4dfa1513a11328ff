"""What is trained on: the teacher's replies, then the steered model's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgesteer import SteeredLlama
from edgesteer.generate import Chat
from edgesteer.learn import LearnSummary, Recipe, learn
from edgesteer.learn.fit import BlockFit
from edgesteer.learn.pairs import Pair
from edgesteer.learn.strength import HEEDED
from edgesteer.learn.task import Task
from edgesteer.learn.training import without_measured
from tests.learn.support import LENIENT

TRAIT, CLERK = "You talk like a pirate, arr.", "You are a sober clerk."
ASKED = ["Why is it so?", "Tell me a tale.", "What is a key?", "Who are you?"]


class Lengthening:
    """A trainer that makes directions `times` as long, and records what it was handed."""

    def __init__(self, times: float = 2.0) -> None:
        self.times = np.float32(times)
        self.fits: list[dict[int, BlockFit]] = []
        self.pairs: list[list[Pair]] = []
        self.how: list[dict[str, Any]] = []

    def __call__(self, fits: Any, pairs: Any, **how: Any) -> tuple[dict[int, BlockFit], dict[str, Any]]:
        self.fits.append(dict(fits))
        self.pairs.append(list(pairs))
        self.how.append(how)
        longer = {n: BlockFit(self.times * f.direction, f.layers, f.explained) for n, f in fits.items()}
        return longer, {"steps": 1}


def trained(
    llm: SteeredLlama, times: float = 2.0, template: str | None = None, **recipe: Any
) -> tuple[Lengthening, LearnSummary]:
    trainer = Lengthening(times)
    recipe = {"method": "constant", "max_tokens": 6, "emphasis": "never", "refine": "kl", **recipe}
    how: dict[str, Any] = {"questions": ASKED, "template": template, "limits": LENIENT}
    return trainer, learn(llm, TRAIT, Recipe(**recipe), trainer=trainer, **how)[1]


def test_kl_continues_on_what_the_steered_model_says_on_each_side(llm: SteeredLlama) -> None:
    trainer, _ = trained(llm, temperature=0.0, opposite=CLERK)
    first, own = trainer.pairs
    assert [how["again"] for how in trainer.how] == [False, True]
    assert [(p.plain, p.prompted, p.sign) for p in own] == [(p.plain, p.prompted, p.sign) for p in first]
    assert any(o.reply != t.reply for o, t in zip(own, first, strict=True))
    chat = Chat(llm)
    bundle = Task(chat, TRAIT, Recipe()).bundle(trainer.fits[1])
    for sign in (1, -1):
        side = [p for p in own if p.sign == sign]
        with llm.steered(bundle, sign):
            assert [p.reply for p in side] == [r.all_tokens for r in chat.replies([p.plain for p in side], 6)]


@pytest.mark.parametrize("objective", ["ll", "mse"])
def test_what_imitates_a_reply_or_its_activations_is_trained_once(llm: SteeredLlama, objective: str) -> None:
    trainer, _ = trained(llm, refine=objective)
    assert [how["again"] for how in trainer.how] == [False]


def test_where_steering_overflows_it_is_trained_once_and_the_closed_form_kept(llm: SteeredLlama) -> None:
    again: list[bool] = []

    def too_long(fits: Any, pairs: Any, **how: Any) -> Any:
        again.append(how["again"])
        largest = np.full(llm.n_embd(), 3e38, np.float32)
        return {n: BlockFit(largest, fit.layers, fit.explained) for n, fit in fits.items()}, {}

    recipe = Recipe(method="constant", max_tokens=6, emphasis="never", refine="kl")
    _, summary = learn(llm, TRAIT, recipe, questions=ASKED, trainer=too_long, limits=LENIENT)
    assert again == [False]
    assert summary.refined["kept"] is False


def test_the_same_seed_says_the_same_and_another_something_else(llm: SteeredLlama) -> None:
    one, same, other = (trained(llm, seed=seed)[0].pairs[1] for seed in (3, 3, 4))
    assert [p.reply for p in one] == [p.reply for p in same]
    assert [p.reply for p in one] != [p.reply for p in other]


WITHOUT_SYSTEM = "Q: {question}\nA:"  # a template in which the system prompt has no effect at all


@pytest.mark.parametrize(
    ("template", "emphasis"),
    [(None, "auto"), (None, "always"), (WITHOUT_SYSTEM, "auto"), (WITHOUT_SYSTEM, "never")],
)
def test_where_the_prompt_is_hardly_heeded_it_is_emphasised_and_the_teacher_goes_further(
    llm: SteeredLlama, template: str | None, emphasis: str
) -> None:
    """Trained on is the system prompt alone, unless emphasis was asked for."""
    trainer, summary = trained(llm, refine="ll", emphasis=emphasis, template=template)
    heeded = template is None
    assert (summary.prompted.trait >= HEEDED) is heeded
    assert summary.emphasised is (emphasis == "always" or (emphasis == "auto" and not heeded))
    assert [how["guided"] for how in trainer.how] == [not heeded]
    chat = Chat(llm, template)
    wanted = chat.emphasised if emphasis == "always" else chat.prompt
    assert all(pair.prompted == wanted(pair.question, TRAIT) for pair in trainer.pairs[0])


def test_where_scope_conversation_starts_is_a_place_in_each_plain_prompt(llm: SteeredLlama) -> None:
    trainer, _ = trained(llm, refine="ll", scope="conversation")
    starts = trainer.how[0]["starts"]
    assert all(0 <= start < len(p.plain) for start, p in zip(starts, trainer.pairs[0], strict=True))
    assert trained(llm, refine="ll")[0].how[0]["starts"] is None


def test_measured_questions_are_left_out_while_two_thirds_remain() -> None:
    pairs = [Pair(str(i), [i], [i, i], [7], 1.0, 1.0, 1.0, 1.0) for i in range(6)]
    assert without_measured(pairs, [[0], [5]]) == pairs[1:5]
    assert without_measured(pairs, [[0], [1], [5]]) == pairs
    assert without_measured(pairs, []) == pairs
