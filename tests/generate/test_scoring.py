"""Scores on a tiny random model: whose they are, that they come from the unsteered model, and their laws."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgesteer import Bundle
from edgesteer.generate import Chat, Reply, Scores, measures, score

TRAIT = "You talk like a pirate, arr."
ASKED = ["Why is it so?", "Tell me a tale.", "What is a key?"]


@pytest.fixture(scope="module")
def plain(chat: Chat) -> list[list[int]]:
    return [chat.prompt(q) for q in ASKED]


@pytest.fixture(scope="module")
def prompted(chat: Chat) -> list[list[int]]:
    return [chat.prompt(q, TRAIT) for q in ASKED]


@pytest.fixture(scope="module")
def replies(chat: Chat, plain: list[list[int]]) -> list[Reply]:
    return chat.replies(plain, 8)


def test_scores_are_the_measures_of_each_reply(
    chat: Chat, replies: list[Reply], plain: list[list[int]], prompted: list[list[int]]
) -> None:
    scores = score(chat, replies, plain, prompted)
    for i, reply in enumerate(replies):
        a, b = chat.log_probs([(prompted[i], reply.all_tokens), (plain[i], reply.all_tokens)])
        assert scores.trait[i] == pytest.approx(measures.trait(a, b), abs=0.05)
        assert scores.coherence[i] == pytest.approx(measures.coherence(a, b), abs=0.05)
        assert scores.nll0[i] == pytest.approx(measures.nll(b), abs=0.05)
        assert scores.distinct2[i] == measures.distinct(reply.tokens)


def test_the_first_tokens_score_as_a_reply_of_theirs_would(
    chat: Chat, replies: list[Reply], plain: list[list[int]], prompted: list[list[int]]
) -> None:
    scores = score(chat, replies, plain, prompted)
    short = [Reply(reply.tokens[:5], reply.log_probs[:5]) for reply in replies]
    cut, alone = scores.first(5), score(chat, short, plain, prompted)
    for measure in ("trait", "coherence", "nll0", "distinct2"):
        assert getattr(cut, measure) == pytest.approx(getattr(alone, measure), abs=0.05)
    assert [one.tokens for one in cut.by_token] == [one.tokens for one in alone.by_token]
    assert scores.first(100) == scores
    assert scores.of([2, 0]).trait == (scores.trait[2], scores.trait[0])


def test_swapped_prompts_turn_the_trait_around(
    chat: Chat, replies: list[Reply], plain: list[list[int]], prompted: list[list[int]]
) -> None:
    there, back = score(chat, replies, plain, prompted), score(chat, replies, prompted, plain)
    assert there.trait == pytest.approx([-t for t in back.trait], abs=1e-5)
    assert there.coherence == pytest.approx(back.coherence, abs=1e-5)
    assert all(c <= n + 1e-5 for s in (there, back) for c, n in zip(s.coherence, s.nll0, strict=True))


def test_scores_do_not_depend_on_what_steers_meanwhile(
    chat: Chat, replies: list[Reply], plain: list[list[int]], prompted: list[list[int]]
) -> None:
    drawn = np.random.default_rng(0).standard_normal(chat.llm.model_info.n_embd).astype(np.float32)
    bundle = Bundle.build(name="drawn", directions={1: drawn}, model=chat.llm.model_info)
    alone = score(chat, replies, plain, prompted)
    with chat.llm.steered(bundle, 2.0):
        before = chat.llm.steering.fingerprint
        assert score(chat, replies, plain, prompted) == alone
        assert chat.llm.steering.fingerprint == before


def test_scores_follow_their_replies_in_any_order(
    chat: Chat, replies: list[Reply], plain: list[list[int]], prompted: list[list[int]]
) -> None:
    """Several replies to a prompt, far apart: each keeps its place, and the same text gets the same bits."""
    order = [0, 1, 2, 1, 0]
    mixed = [replies[i] for i in order]
    scores = score(chat, mixed, [plain[i] for i in order], [prompted[i] for i in order])
    assert scores.nll0[0] == scores.nll0[4]
    assert scores.nll0[1] == scores.nll0[3]
    once = score(chat, replies, plain, prompted)
    assert scores.nll0[:3] == pytest.approx(once.nll0, abs=0.05)


def test_an_empty_reply_is_nan_and_counted(
    chat: Chat, replies: list[Reply], plain: list[list[int]], prompted: list[list[int]]
) -> None:
    nothing = Reply([], np.zeros(0, np.float32))
    scores = score(chat, [nothing, replies[1]], plain[:2], prompted[:2])
    assert scores.empty == 1
    assert all(math.isnan(getattr(scores, name)[0]) for name in ("trait", "coherence", "nll0", "distinct2"))
    assert scores.mean("nll0") == scores.nll0[1]


def test_a_reply_that_only_ends_is_not_empty(
    chat: Chat, plain: list[list[int]], prompted: list[list[int]]
) -> None:
    ended = Reply([], np.zeros(1, np.float32), end=chat.llm.token_eos())
    scores = score(chat, [ended], plain[:1], prompted[:1])
    assert scores.empty == 0
    assert scores.nll0[0] > 0


def test_nothing_scores_nothing(chat: Chat) -> None:
    scores = score(chat, [], [], [])
    assert scores == Scores((), (), (), ())
    assert math.isnan(scores.mean("trait"))


def test_replies_without_their_prompts_are_refused(
    chat: Chat, replies: list[Reply], plain: list[list[int]]
) -> None:
    with pytest.raises(ValueError):
        score(chat, replies, plain[:2], plain)
    with pytest.raises(ValueError):
        score(chat, replies, plain, plain[:2])
