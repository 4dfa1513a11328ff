"""The head-to-head on a tiny random model: who is asked what, and that scores come from the unsteered model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgesteer import Bundle, SteeredLlama
from edgesteer.bundle import StrengthRange
from edgesteer.errors import LearnError
from edgesteer.evaluate import Chat, head_to_head
from edgesteer.evaluate.headtohead import score

TRAIT = "You talk like a pirate, arr."
ASKED = ["Why is it so?", "Tell me a tale.", "What is a key?"]


@pytest.fixture(scope="module")
def llm(model: Callable[[str], Path]) -> Iterator[SteeredLlama]:
    opened = SteeredLlama(str(model("llama")), n_ctx=512, n_threads=2, n_threads_batch=2, logits_all=True)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def bundle(llm: SteeredLlama) -> Bundle:
    drawn = np.random.default_rng(0).standard_normal(llm.model_info.n_embd).astype(np.float32)
    return Bundle.build(
        name="drawn",
        directions={1: drawn, 2: drawn},
        model=llm.model_info,
        strength=StrengthRange(1.0, 0.0, 3.0),
    )


def test_strength_zero_is_the_unsteered_row(llm: SteeredLlama, bundle: Bundle) -> None:
    table = head_to_head(
        llm, TRAIT, [("zero", bundle, 0.0), ("full", bundle, 3.0)], questions=ASKED, max_tokens=8
    )
    unsteered, _, zero, full = table.rows
    assert zero.replies == unsteered.replies
    assert zero.nll0 == unsteered.nll0
    assert full.replies != unsteered.replies
    assert [row.name for row in table.rows] == ["unsteered", "prompt", "zero", "full"]


def test_scores_do_not_depend_on_what_steers_meanwhile(llm: SteeredLlama, bundle: Bundle) -> None:
    chat = Chat(llm)
    plain, prompted = [chat.prompt(ASKED[0])], [chat.prompt(ASKED[0], TRAIT)]
    reply = [chat.reply(plain[0], 8)]
    alone = score(chat, "x", None, reply, plain, prompted)
    with llm.steered(bundle, 3.0):
        steered = score(chat, "x", None, reply, plain, prompted)
    assert steered == alone


def test_a_greedy_reply_scores_what_it_was_spoken_with(llm: SteeredLlama) -> None:
    """Log-probabilities gathered while speaking are those of reading the reply again."""
    chat = Chat(llm)
    prompt = chat.prompt(ASKED[1])
    reply = chat.reply(prompt, 8)
    np.testing.assert_allclose(chat.log_probs(prompt, reply.tokens), reply.log_probs, atol=0.05)


def test_the_plan_in_force_returns(llm: SteeredLlama, bundle: Bundle) -> None:
    with llm.steered(bundle, 0.7):
        before = llm.steering.fingerprint
        head_to_head(llm, TRAIT, [], questions=ASKED[:1], max_tokens=4)
        assert llm.steering.fingerprint == before


def test_unsteered_row_is_unsteered_under_a_plan(llm: SteeredLlama, bundle: Bundle) -> None:
    calm = head_to_head(llm, TRAIT, [], questions=ASKED[:1], max_tokens=8)
    with llm.steered(bundle, 3.0):
        assert head_to_head(llm, TRAIT, [], questions=ASKED[:1], max_tokens=8) == calm


def test_table_is_json(llm: SteeredLlama) -> None:
    table = head_to_head(llm, TRAIT, [], questions=ASKED[:1], max_tokens=4, pattern="pirate")
    read = json.loads(json.dumps(table.to_json(), allow_nan=False))
    assert read["questions"] == ASKED[:1]
    assert set(read["rows"][0]["count"]) == {"per_100_words", "share"}


def test_no_questions_is_refused(llm: SteeredLlama) -> None:
    with pytest.raises(LearnError, match="no questions"):
        head_to_head(llm, TRAIT, [], questions=[])


def test_progress_goes_up_to_one(llm: SteeredLlama) -> None:
    seen: list[float] = []
    head_to_head(
        llm, TRAIT, [], questions=ASKED[:1], max_tokens=4, progress=lambda _, done: seen.append(done)
    )
    assert seen == sorted(seen)
    assert seen[-1] == 1
