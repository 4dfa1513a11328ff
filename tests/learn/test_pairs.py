"""Contrast pairs: how they are drawn and scored, and which replies are worth learning from."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesteer import SteeredLlama
from edgesteer.errors import InputError, LearnError, OutputError
from edgesteer.generate import Chat, Question, measures, read_questions
from edgesteer.generate.progress import Done, no_progress
from edgesteer.learn import Recipe, write_replies
from edgesteer.learn.pairs import MIN_QUESTIONS, Pair, check_questions, keep_good, sample_pairs, trait_floor
from edgesteer.learn.part_file import PartFile

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


def test_what_imitates_the_whole_model_keeps_replies_that_are_short_or_without_the_trait() -> None:
    sound = [GOOD, changed(trait=-0.5), changed(reply=[5, 2]), changed(trait=float("nan"))]
    bad = {
        "short": changed(reply=[], text=""),
        "repetitive": changed(reply=[5, 6] * 10),
        "incoherent": changed(nll_prompted=9.0),
    }
    assert keep_good([*sound, *bad.values()], any_trait=True) == (sound, dict.fromkeys(sorted(bad), 1))
    with pytest.raises(LearnError, match="all 3 replies were dropped"):
        keep_good(list(bad.values()), any_trait=True)


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


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(max_size=200), min_size=1, max_size=3))
def test_the_error_is_one_printable_line_of_bounded_length(texts: list[str]) -> None:
    with pytest.raises(LearnError) as refused:
        keep_good([changed(trait=-0.1, text=text) for text in texts])
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 450


# -- sampled on a model -------------------------------------------------------------------------------

TRAIT, OPPOSITE = "You talk like a pirate, arr.", "You talk like a clerk."
ASKED = [
    Question(text)
    for text in ("Why is it so?", "Tell me a tale.", "What is a key?", "Who are you?", "How so?")
]
HOW = Recipe(max_tokens=6, temperature=1.0, seed=5)
BOTH = dataclasses.replace(HOW, opposite=OPPOSITE)


@pytest.fixture(scope="module")
def chat(llm: SteeredLlama) -> Chat:
    return Chat(llm)


@pytest.fixture(scope="module")
def both(chat: Chat) -> list[Pair]:
    """Of both sides, sampled once."""
    return sample_pairs(chat, TRAIT, ASKED, BOTH)


def test_a_pair_is_what_the_model_makes_of_it(chat: Chat, both: list[Pair]) -> None:
    """Scored again, one by one: equal to rounding, as batches of other shapes are."""
    assert [(p.question, p.sign) for p in both] == [(q.text, sign) for sign in (1, -1) for q in ASKED]
    for pair in both:
        assert pair.plain == chat.prompt(pair.question)
        assert pair.prompted == chat.prompt(pair.question, TRAIT if pair.sign > 0 else OPPOSITE)
        assert 0 < len(pair.reply) <= 6
        assert pair.ended == (len(pair.reply) < 6)
        plain, prompted = (chat.log_probs([(x, pair.reply)])[0] for x in (pair.plain, pair.prompted))
        again = [measures.trait(prompted, plain), measures.coherence(prompted, plain)]
        np.testing.assert_allclose([pair.trait, pair.coherence], again, atol=2e-3)
        np.testing.assert_allclose(
            [pair.nll0, pair.nll_prompted], [-plain.mean(), -prompted.mean()], atol=2e-3
        )


def test_the_same_call_gives_the_same_bits_and_another_seed_others(chat: Chat, both: list[Pair]) -> None:
    assert sample_pairs(chat, TRAIT, ASKED, BOTH) == both
    assert sample_pairs(chat, TRAIT, ASKED, dataclasses.replace(BOTH, seed=6)) != both


def test_given_replies_are_taken_as_they_are_on_their_side(chat: Chat) -> None:
    asked = [
        Question("Why?", "Arr, mate!"),
        Question("Why?", "Aye."),
        Question("Why?", "Indeed.", -1),
        Question("How?", "Arr!"),
        *ASKED[:2],
    ]
    how = dataclasses.replace(BOTH, max_tokens=24)
    pairs = sample_pairs(chat, TRAIT, asked, how)
    given = [(p.text.strip(), p.sign) for p in pairs if p.given]
    assert given == [("Arr, mate!", 1), ("Aye.", 1), ("Arr!", 1), ("Indeed.", -1)]
    sampled = [(p.question, p.sign) for p in pairs if not p.given]
    assert sampled == [(q.text, 1) for q in ASKED[:2]] + [("How?", -1)] + [(q.text, -1) for q in ASKED[:2]]


def test_a_question_keeps_its_reply_whatever_stands_beside_it(chat: Chat, both: list[Pair]) -> None:
    fewer = sample_pairs(chat, TRAIT, ASKED[1:], HOW)
    assert [p.reply for p in both[1:5]] == [p.reply for p in fewer]


def test_activations_belong_to_the_pairs(chat: Chat) -> None:
    handed: dict[int, Any] = {}
    asked = [Question("Why?", "Arr!"), *ASKED[:4]]
    pairs = sample_pairs(
        chat,
        TRAIT,
        asked,
        HOW,
        layers=(1, 2),
        keep=lambda i, seen: handed.update({i: seen}),
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


@pytest.mark.parametrize("how", [HOW, BOTH], ids=["one side", "both sides"])
def test_a_stopped_run_is_resumed_to_the_same_bits(chat: Chat, tmp_path: Path, how: Recipe) -> None:
    def part() -> PartFile:
        return PartFile(tmp_path / "replies.part", {"seed": 5})

    def sampled(known: PartFile | None, progress: Done = no_progress) -> tuple[list[Pair], dict[int, bytes]]:
        seen: dict[int, bytes] = {}
        pairs = sample_pairs(
            chat,
            TRAIT,
            ASKED,
            how,
            part=known,
            layers=(1, 2),
            keep=lambda i, stream: seen.update({i: stream.tobytes()}),
            progress=progress,
        )
        return pairs, seen

    whole, _ = together = sampled(None)

    for at in (0.2, 0.55, 0.95):  # each is resumed where the one before was stopped
        with pytest.raises(KeyboardInterrupt):
            sampled(part(), _Stop(at))
    assert 0 < len(part()) < len(whole)
    assert sampled(part()) == together
    assert sampled(part(), _Stop(0)) == together  # nothing is computed again
    assert len(part()) == len(whole)


def checked_pairs(chat: Chat, trait: str, asked: list[Question], how: Recipe) -> list[Pair]:
    check_questions(trait, how.opposite, asked)
    return sample_pairs(chat, trait, asked, how)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"trait": " \t\n"}, "the trait is empty"),
        ({"opposite": " "}, "the opposite is empty"),
        ({"opposite": f" {TRAIT.upper()}\n"}, "trait and opposite are both"),
        ({"questions": []}, f"no training questions, expected at least {MIN_QUESTIONS}"),
        ({"questions": ASKED[:1]}, "1 training question, expected at least"),
        ({"questions": ASKED[:1] * 9}, "1 training question, expected at least"),
        ({"questions": ASKED[:3]}, "3 training questions, expected at least"),
        ({"questions": [*ASKED, Question("Why?", "No.", -1)]}, "no sentence for the opposite"),
        ({"questions": [*ASKED, Question("Why?", " ")]}, "its reply is empty"),
        ({"questions": [*ASKED, Question("why " * 1100)]}, "expected at most 1024"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused_in_one_line(
    chat: Chat, arguments: dict[str, Any], message: str
) -> None:
    how = dataclasses.replace(HOW, opposite=arguments.get("opposite"))
    with pytest.raises((LearnError, InputError), match=message) as refused:
        checked_pairs(chat, arguments.get("trait", TRAIT), arguments.get("questions", ASKED), how)
    assert "\n" not in str(refused.value)


# -- replies to read ---------------------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12).filter(
    str.strip
)


@settings(max_examples=25, deadline=None)
@given(
    entries=st.lists(
        st.tuples(texts, texts, st.sampled_from([1, -1])), min_size=1, unique_by=lambda t: t[0].casefold()
    )
)
def test_written_replies_are_a_questions_file(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, str, int]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "replies.jsonl"
    pairs = [
        changed(question=q.strip(), text=reply, sign=sign)
        for q, reply, sign in {t[0].strip().casefold(): t for t in entries}.values()
    ]
    assert write_replies(path, pairs, force=True) == len(pairs)
    assert read_questions(path) == [Question(p.question, p.text, p.sign) for p in pairs]


def test_replies_without_text_are_not_written(tmp_path: Path) -> None:
    path, nan = tmp_path / "r.jsonl", float("nan")
    assert write_replies(path, [changed(text=" ", trait=nan, coherence=nan), GOOD]) == 1
    line = json.loads(path.read_text())
    assert line == {"question": "q", "reply": TEXT, "sign": 1, "trait": 0.4, "coherence": 0.9}
    with pytest.raises(OutputError, match="existing file"):
        write_replies(path, [GOOD])
