"""Questions that a model writes: what passes, what makes up the number, the same seed the same questions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesteer import SteeredLlama
from edgesteer.errors import LearnError
from edgesteer.evaluate import held_out_questions
from edgesteer.generate import Chat, Question, Reply, built_in
from edgesteer.learn.question_writer import cleaned, filled, n_own, write_questions

TRAIT = "You talk like a pirate and you love the sea."


@pytest.fixture(scope="module")
def chat(llm: SteeredLlama) -> Chat:
    return Chat(llm)


@pytest.mark.parametrize(
    ("line", "question"),
    [
        ("How far is the moon?", "How far is the moon?"),
        ("  12. **How far is the moon?**  ", "How far is the moon?"),
        ('- "How far is the moon?"', "How far is the moon?"),
        ("Question 3: How far is the moon?", "How far is the moon?"),
        ("Q: How far is the moon?", "How far is the moon?"),
        ("(2) Tell me about the moon.", "Tell me about the moon."),
        ("3.5 miles, how long is that?", "3.5 miles, how long is that?"),
        ("¿Dónde está la luna hoy?", "¿Dónde está la luna hoy?"),
    ],
)
def test_a_question_is_taken_out_of_its_line(line: str, question: str) -> None:
    assert cleaned([line], TRAIT) == [question]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Why so?",
        "Sure, here are eight questions:",
        "The moon is far away.",
        "Tell me about the moon",  # cut, or a heading
        "How far is it? And how large?",
        "Write a note on this. Is it right? Yes.",
        "How far is [place] from here?",
        "Is https://example.org a good site?",
        "How far\x07 is the moon?",
        "Why do you talk like a pirate when you are at work?",  # quotes the trait
        "How " + "very " * 24 + "far?",
    ],
)
def test_anything_else_is_left_out(line: str) -> None:
    assert cleaned([line], TRAIT) == []


def test_one_question_in_other_words_or_letters_is_one() -> None:
    lines = [
        "How far is the moon?",
        "HOW far is the Moon?",
        "So how far is the moon?",
        "How far is the sun, then?",
    ]
    assert cleaned(lines, TRAIT) == ["How far is the moon?", "How far is the sun, then?"]


def test_a_held_out_or_built_in_question_is_not_the_models_own() -> None:
    barred = [*held_out_questions(), *(q.text for q in built_in())]
    assert cleaned(barred, TRAIT, barred) == []


WORD = st.sampled_from(["How", "far", "is", "-", "1.", "q:", '"', "the", "moon", "?", "Tell", "x.", "\t"])
LINE = st.lists(WORD, max_size=9).map(lambda words: " ".join(words) + "?")


@settings(max_examples=15, deadline=None)
@given(st.lists(st.text(max_size=20) | LINE, max_size=5))
def test_cleaning_again_changes_nothing(lines: list[str]) -> None:
    once = cleaned(lines, TRAIT)
    assert cleaned(once, TRAIT) == once
    assert len({text.casefold() for text in once}) == len(once)
    assert all(3 <= len(text.split()) <= 25 and text.isprintable() for text in once)


@pytest.mark.parametrize("n", [1, 5, len(built_in())])
@pytest.mark.parametrize("found", [[], ["How far is the moon?"], [built_in()[0].text + " So?"]])
def test_built_in_questions_make_up_the_number(n: int, found: list[str]) -> None:
    questions = filled(found, n)
    assert len(questions) == len(set(questions)) == n
    assert questions[: len(found)] == [Question(text) for text in found]
    assert set(questions[len(found) :]) <= set(built_in())
    assert n_own(questions) == len(found)


def test_what_is_filled_in_is_spread_over_the_kinds() -> None:
    places = sorted(built_in().index(q) for q in filled([], 6))
    assert max(b - a for a, b in itertools.pairwise([0, *places, len(built_in())])) <= 8


def test_a_babbling_model_still_gives_the_number_and_the_same_each_time(chat: Chat) -> None:
    first, again = (write_questions(chat, TRAIT, 6, seed=1, rounds=2, max_tokens=6) for _ in range(2))
    assert first == again
    assert len(set(first)) == 6


class Scripted(Chat):
    """Gives these replies, then empty ones."""

    script: Iterator[tuple[str, int | None]]

    def replies(self, prompts: Sequence[Sequence[int]], *_: object, **__: object) -> list[Reply]:
        lines = [next(self.script, ("", None)) for _ in prompts]
        none = np.zeros(0, np.float32)
        return [Reply(self.llm.tokenize(text.encode(), add_bos=False), none, end) for text, end in lines]


def test_what_the_model_writes_comes_first(llm: SteeredLlama) -> None:
    """Of a reply that the limit cut, the last line is not trusted."""
    chat, end = Scripted(llm), llm.token_eos()
    chat.script = iter(
        [("1. What is a key?\n2. Who sank the ship?", end), ("Who has the map?\nWhat shall we", None)]
    )
    questions = write_questions(chat, TRAIT, 5)
    texts = ["What is a key?", "Who sank the ship?", "Who has the map?"]
    assert [q.text for q in questions[:3]] == texts
    assert n_own(questions) == 3


def test_a_context_without_room_leaves_the_built_in_ones(model: Callable[[str], Path]) -> None:
    llm = SteeredLlama(str(model("llama")), n_ctx=256, n_threads=1, n_threads_batch=1)
    try:
        questions = write_questions(Chat(llm), TRAIT * 20, 4)
    finally:
        llm.close()
    assert n_own(questions) == 0
    assert len(questions) == 4


@pytest.mark.parametrize(("trait", "n", "said"), [(" \n", 4, "the trait is empty"), (TRAIT, 0, "at least 1")])
def test_nothing_to_ask_about_is_refused(chat: Chat, trait: str, n: int, said: str) -> None:
    with pytest.raises(LearnError, match=said):
        write_questions(chat, trait, n)
