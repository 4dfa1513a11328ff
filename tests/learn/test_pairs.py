"""Contrast pairs: how they are drawn and scored, and which replies are worth learning from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesteer import SteeredLlama
from edgesteer.errors import LearnError
from edgesteer.generate import Chat, Reply
from edgesteer.generate.measures import coherence
from edgesteer.generate import Question
from edgesteer.learn.pairs import MIN_QUESTIONS, Pair, keep_good, sample_pairs, trait_floor
from edgesteer.learn.sampling import Best, Candidate, pick, possible
from edgesteer.learn.store import ReplyStore

TEXT = "A reply of some words, long enough."
GOOD = Pair(
    "q", [1, 2], [1, 3, 2], list(range(20)), trait=0.4, coherence=0.9, nll0=1.5, nll_prompted=1.0, text=TEXT
)


def changed(**values: object) -> Pair:
    return dataclasses.replace(GOOD, **values)  # type: ignore[arg-type]


# -- which are kept ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (changed(reply=[], text="", trait=float("nan")), "short"),
        (changed(reply=[5, 6, 7]), "short"),
        (changed(reply=[5, 6, 7], ended=True, trait=0.01), "short"),
        (changed(reply=[2], ended=True, text=" \n"), "short"),
        (changed(reply=[5, 6] * 10), "repetitive"),
        (changed(nll_prompted=3.5), "incoherent"),
        (changed(nll_prompted=float("nan")), "incoherent"),
        (changed(trait=0.01), "no trait"),
        (changed(trait=-0.2), "no trait"),
        (changed(trait=float("nan")), "no trait"),
    ],
)
def test_a_bad_reply_is_dropped_and_counted(bad: Pair, reason: str) -> None:
    kept, dropped = keep_good([GOOD, bad, GOOD])
    assert kept == [GOOD, GOOD]
    assert dropped == {reason: 1}


def test_a_short_reply_that_ended_and_shows_the_trait_is_one() -> None:
    brief = changed(reply=[5, 2], ended=True, text="No.")
    assert keep_good([GOOD, brief]) == ([GOOD, brief], {})


def test_a_given_reply_is_kept_whatever_it_is() -> None:
    bad = changed(reply=[5, 5, 5], trait=-1.0, nll_prompted=9.0, given=True)
    assert keep_good([bad]) == ([bad], {})


def test_order_and_number_are_kept() -> None:
    pairs = [changed(question=str(i), trait=0.1 + 0.01 * (i % 3)) for i in range(9)]
    assert keep_good(pairs) == (pairs, {})


def test_the_floor_of_the_trait_is_relative() -> None:
    """A quiet trait, of which every reply has a little, is not dropped for being quiet."""
    pairs = [changed(trait=t) for t in (0.001, 0.02, 0.021, 0.019)]
    kept, dropped = keep_good(pairs)
    assert [p.trait for p in kept] == [0.02, 0.021, 0.019]
    assert dropped == {"no trait": 1}


def test_each_side_has_its_own_floor() -> None:
    loud, quiet = (
        [changed(trait=t) for t in (2.0, 2.2, 1.9)],
        [changed(trait=t, sign=-1) for t in (0.02, 0.03)],
    )
    assert keep_good([*loud, *quiet]) == ([*loud, *quiet], {})
    assert trait_floor(loud + quiet) == trait_floor(loud)
    assert trait_floor(loud + quiet, sign=-1) == trait_floor(quiet, sign=-1)


@pytest.mark.parametrize("pairs", [[changed(reply=[])], [changed(trait=-0.1), changed(trait=-0.3)]])
def test_nothing_left_is_an_error_that_counts_and_shows(pairs: list[Pair]) -> None:
    with pytest.raises(LearnError, match=f"all {len(pairs)} replies were dropped") as refused:
        keep_good(pairs)
    assert str(refused.value).count(TEXT) == len(pairs)


def test_a_side_that_loses_all_is_an_error() -> None:
    with pytest.raises(LearnError, match="all 1 replies of the opposite were dropped .1 no trait"):
        keep_good([GOOD, changed(sign=-1, trait=-0.1)])


@given(st.lists(st.text(max_size=300), min_size=1, max_size=5))
def test_the_error_is_one_printable_line_of_bounded_length(texts: list[str]) -> None:
    with pytest.raises(LearnError) as refused:
        keep_good([changed(trait=-0.1, text=text) for text in texts])
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 450


def test_positions_are_the_last_prompt_token_and_the_reply() -> None:
    assert GOOD.n_positions == 21


# -- the best of several ----------------------------------------------------------------------------


def candidate(
    number: int, trait: float, incoherence: float, ask: int = 0, tokens: tuple[int, ...] = (1,)
) -> Candidate:
    none, seen = np.zeros(len(tokens), np.float32), np.full((1, len(tokens), 2), number, np.float32)
    return Candidate(ask, number, Reply(list(tokens), none), none, trait, incoherence, seen)


few = st.sampled_from([0.0, 0.5, 1.0, 1.5])
drawn = st.lists(st.tuples(few, few), min_size=1, max_size=5).map(
    lambda told: [candidate(i, trait, value) for i, (trait, value) in enumerate(told)]
)


@given(drawn, st.sampled_from([-1.0, 0.2, 0.5, 1.2, 2.0]))
def test_those_that_are_given_up_early_would_not_be_taken(candidates: list[Candidate], median: float) -> None:
    taken = pick(candidates, median)
    assert pick(possible(candidates), median) is taken
    coherent = [c for c in candidates if c.coherence <= median]
    assert taken.trait == max((c.trait for c in coherent), default=taken.trait)
    assert coherent or taken.coherence == min(c.coherence for c in candidates)


@given(
    st.lists(
        drawn.filter(lambda d: len(d) == 3) | st.just([candidate(i, 0.1 * i, 0.2 * i) for i in range(3)]),
        min_size=1,
        max_size=4,
    )
)
def test_activations_of_what_is_taken_are_handed_over_once(asks: list[list[Candidate]]) -> None:
    handed: dict[int, float] = {}

    def keep(ask: int, seen: np.ndarray[Any, Any]) -> None:
        assert ask not in handed
        handed[ask] = float(seen[0, 0, 0])

    best = Best(3, keep)
    for ask, candidates in enumerate(asks):
        for c in candidates:
            best.add(dataclasses.replace(c, ask=ask))
    taken = best.taken()
    assert handed == {ask: c.number for ask, c in taken.items()}
    assert all(c.seen is None for c in taken.values())


def test_an_empty_reply_is_taken_only_where_there_is_no_other() -> None:
    nan = float("nan")
    empty, said = candidate(0, nan, nan, tokens=()), candidate(1, -1.0, 9.0)
    assert possible([empty, said]) == [said]
    assert possible([empty, dataclasses.replace(empty, number=1)]) == [empty]


def test_coherence_is_the_likelier_of_both() -> None:
    a, b = np.array([-1, -4], np.float32), np.array([-3, -2], np.float32)
    assert coherence(a, b) == coherence(b, a) == 1.5
    assert np.isnan(coherence(a[:0], b[:0]))


# -- drawn on a model -------------------------------------------------------------------------------

TRAIT, OPPOSITE = "You talk like a pirate, arr.", "You talk like a clerk."
ASKED = [
    Question(text)
    for text in ("Why is it so?", "Tell me a tale.", "What is a key?", "Who are you?", "How so?")
]
HOW: dict[str, Any] = {"max_tokens": 6, "temperature": 1.0, "seed": 5}


@pytest.fixture(scope="module")
def chat(model: Callable[[str], Path]) -> Iterator[Chat]:
    llm = SteeredLlama(
        str(model("llama")), n_ctx=1024, n_threads=1, n_threads_batch=1, n_batch=512, n_seq_max=4
    )
    yield Chat(llm)
    llm.close()


def bits(pairs: list[Pair]) -> list[object]:
    return [(pair, pair.log_ratio.tobytes()) for pair in pairs]


def test_a_pair_is_what_the_model_makes_of_it(chat: Chat) -> None:
    """Scored again, one by one: equal to rounding, as batches of other shapes are."""
    for pair in sample_pairs(chat, TRAIT, ASKED, opposite=OPPOSITE, **HOW):
        assert pair.plain == chat.prompt(pair.question)
        assert pair.prompted == chat.prompt(pair.question, TRAIT if pair.sign > 0 else OPPOSITE)
        assert 0 < len(pair.reply) <= 6
        assert pair.ended == (len(pair.reply) < 6)
        plain, prompted = (chat.log_probs([(x, pair.reply)])[0] for x in (pair.plain, pair.prompted))
        np.testing.assert_allclose(pair.log_ratio, prompted - plain, atol=2e-3)
        np.testing.assert_allclose(pair.trait, pair.log_ratio.mean(), atol=1e-6)
        np.testing.assert_allclose(pair.coherence, coherence(prompted, plain), atol=2e-3)
        np.testing.assert_allclose(
            [pair.nll0, pair.nll_prompted], [-plain.mean(), -prompted.mean()], atol=2e-3
        )


def test_the_same_call_gives_the_same_bits_and_another_seed_others(chat: Chat) -> None:
    first, again = (sample_pairs(chat, TRAIT, ASKED, **HOW) for _ in range(2))
    assert bits(first) == bits(again)
    assert bits(first) != bits(sample_pairs(chat, TRAIT, ASKED, **HOW | {"seed": 6}))


def test_pairs_come_in_order_side_by_side(chat: Chat) -> None:
    pairs = sample_pairs(chat, TRAIT, ASKED, opposite=OPPOSITE, **HOW)
    assert [(p.question, p.sign) for p in pairs] == [(q.text, sign) for sign in (1, -1) for q in ASKED]


def test_given_replies_are_taken_as_they_are_on_their_side(chat: Chat) -> None:
    asked = [
        Question("Why?", "Arr, mate!"),
        Question("Why?", "Aye."),
        Question("Why?", "Indeed.", -1),
        *ASKED[:3],
    ]
    pairs = sample_pairs(chat, TRAIT, asked, opposite=OPPOSITE, best_of=2, **HOW | {"max_tokens": 32})
    given = [(p.text.strip(), p.sign) for p in pairs if p.given]
    assert given == [("Arr, mate!", 1), ("Aye.", 1), ("Indeed.", -1)]
    assert [p.question for p in pairs if not p.given] == [q.text for q in ASKED[:3]] * 2
    assert all(len(p.log_ratio) == len(p.reply) for p in pairs)


def test_a_given_reply_leaves_the_other_side_to_be_asked(chat: Chat) -> None:
    pairs = sample_pairs(chat, TRAIT, [Question("Why?", "Arr!"), *ASKED[:3]], opposite=OPPOSITE, **HOW)
    assert [(p.sign, p.given) for p in pairs if p.question == "Why?"] == [(1, True), (-1, False)]


def test_the_best_of_several_is_taken(chat: Chat, tmp_path: Path) -> None:
    store = ReplyStore(tmp_path / "r", {})
    pairs = sample_pairs(chat, TRAIT, ASKED, best_of=3, store=store, **HOW)
    drawn = [one for i in range(len(store)) for one in store.get(i, 4 if i < 3 else 3) or []]
    candidates = [Candidate.of(i // 3, i % 3, *one) for i, one in enumerate(drawn)]
    median = float(np.median([c.coherence for c in candidates]))
    taken = [pick(candidates[i : i + 3], median) for i in range(0, 15, 3)]
    assert [p.reply for p in pairs] == [c.reply.spoken for c in taken]
    assert len({tuple(c.reply.spoken) for c in candidates}) > len(ASKED)


def test_a_question_keeps_its_reply_whatever_stands_beside_it(chat: Chat) -> None:
    together = sample_pairs(chat, TRAIT, ASKED, **HOW)
    fewer = sample_pairs(chat, TRAIT, ASKED[1:], opposite=OPPOSITE, **HOW)
    assert [p.reply for p in together[1:]] == [p.reply for p in fewer[:4]]


@pytest.mark.parametrize("best_of", [1, 3])
def test_activations_belong_to_the_pairs(chat: Chat, best_of: int) -> None:
    handed: dict[int, Any] = {}
    asked = [Question("Why?", "Arr!"), *ASKED[:4]]
    pairs = sample_pairs(
        chat,
        TRAIT,
        asked,
        best_of=best_of,
        layers=(1, 2),
        keep=lambda i, seen: handed.update({i: seen}),
        **HOW,
    )
    assert sorted(handed) == [i for i, p in enumerate(pairs) if not p.given]
    for i, seen in handed.items():
        pair = pairs[i]
        rows = chat.llm.capture(pair.prompted + pair.reply, (1, 2))
        expected = np.stack([rows[n][len(pair.prompted) - 1 : -1] for n in (1, 2)])
        assert seen.shape == expected.shape == (2, len(pair.reply), chat.llm.n_embd())
        np.testing.assert_allclose(seen, expected, atol=1e-3)


class _Stop:
    """Ctrl-C when so much is done."""

    def __init__(self, at: float) -> None:
        self.at = at

    def __call__(self, fraction: float) -> None:
        assert 0 <= fraction <= 1
        if fraction >= self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("how", [{"best_of": 2}, {"opposite": OPPOSITE}])
def test_a_stopped_run_goes_on_to_the_same_bits(chat: Chat, tmp_path: Path, how: dict[str, Any]) -> None:
    whole = sample_pairs(chat, TRAIT, ASKED, **HOW, **how)
    handed: list[int] = []
    for at in (0.2, 0.55, 0.95):  # each goes on where the one before was stopped
        store = ReplyStore(tmp_path / "r", {"seed": 5})
        with pytest.raises(KeyboardInterrupt):
            sample_pairs(chat, TRAIT, ASKED, store=store, progress=_Stop(at), **HOW, **how)
    store = ReplyStore(tmp_path / "r", {"seed": 5})
    assert 0 < len(store) < 3
    resumed = sample_pairs(
        chat, TRAIT, ASKED, store=store, layers=(1,), keep=lambda i, seen: handed.append(i), **HOW, **how
    )
    assert bits(resumed) == bits(whole)
    assert set(handed) < set(range(len(whole)))
    stored = sample_pairs(
        chat, TRAIT, ASKED, store=ReplyStore(tmp_path / "r", {"seed": 5}), progress=_Stop(0), **HOW, **how
    )
    assert bits(stored) == bits(whole)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"trait": " \t\n"}, "the trait is empty"),
        ({"opposite": " "}, "the opposite is empty"),
        ({"opposite": f" {TRAIT.upper()}\n"}, "trait and opposite are both"),
        ({"questions": []}, f"no training questions, expected at least {MIN_QUESTIONS}"),
        ({"questions": ASKED[:1]}, "1 training question, expected at least"),
        ({"questions": ASKED[:1] * 9}, "1 training question, expected at least"),
        ({"questions": ASKED[:3]}, "3 training questions, expected at least"),
        ({"questions": [*ASKED, Question("Why?", "No.", -1)]}, "no opposite's sentence"),
        ({"questions": [*ASKED, Question("Why?", " ")]}, "the reply given is empty"),
        ({"questions": [*ASKED, Question("why " * 1100)]}, "expected at most 1024"),
        ({"best_of": 0}, "best_of 0"),
        ({"max_tokens": 0}, "max_tokens 0"),
        ({"temperature": -1.0}, "temperature -1"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"seed": -1}, "seed -1"),
        ({"best_of": 2, "temperature": 0.0}, "would be the same one"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused_in_one_line(
    chat: Chat, change: dict[str, Any], said: str
) -> None:
    arguments: dict[str, Any] = {"trait": TRAIT, "questions": ASKED, **HOW, **change}
    with pytest.raises(LearnError, match=said) as refused:
        sample_pairs(chat, **arguments)
    assert "\n" not in str(refused.value)
