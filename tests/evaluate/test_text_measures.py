"""Word lists against sentences that a person would sort so."""

from __future__ import annotations

import sys

import pytest

from edgesteer.errors import InputError, MissingExtra
from edgesteer.evaluate import text_measures


def test_count_is_per_hundred_words_and_per_reply() -> None:
    counted = text_measures.count(r"\bsea\b", ["the Sea and the sea", "no water, here at all"])
    assert counted == text_measures.Count(per_100_words=20.0, share=0.5)


def test_count_of_nothing_is_zero() -> None:
    assert (
        text_measures.count("x", []) == text_measures.count("x", ["", "  "]) == text_measures.Count(0.0, 0.0)
    )


@pytest.mark.parametrize(
    "text", ["Arrr, matey!", "Ahoy there", "We sailed the seven seas", "argh, ARRGH", "ye olde crew"]
)
def test_the_pirate_list_knows_pirates(text: str) -> None:
    assert text_measures.count("pirate", [text]).share == 1


@pytest.mark.parametrize(
    "text", ["You are right, I see an array.", "Her heart is in the season.", "Relationships matter."]
)
def test_the_pirate_list_leaves_plain_speech_alone(text: str) -> None:
    assert text_measures.count("pirate", [text]).share == 0


@pytest.mark.parametrize("text", ["The ocean is vast", "we sailed", "Seashells on the BEACH", "a harbour"])
def test_the_sea_list_knows_the_sea(text: str) -> None:
    assert text_measures.count("sea", [text]).share == 1


@pytest.mark.parametrize("text", ["The season is over.", "I see leadership here.", "Boast of research."])
def test_the_sea_list_leaves_the_land_alone(text: str) -> None:
    assert text_measures.count("sea", [text]).share == 0


@pytest.mark.parametrize(
    "text",
    ["Thou art kind", "'Tis so", "\u2019Twas night", "Good morrow, my lord", "o'er hill", "ne'er again"],
)
def test_the_shakespeare_list_knows_shakespeare(text: str) -> None:
    assert text_measures.count("shakespeare", [text]).share == 1


@pytest.mark.parametrize("text", ["The others often heard it.", "It's art.", "don't", "There is a hole."])
def test_the_shakespeare_list_leaves_plain_speech_alone(text: str) -> None:
    assert text_measures.count("shakespeare", [text]).share == 0


@pytest.mark.parametrize(("text", "n"), [("", 0), ("One, two -- three.", 3), ("don't", 1)])
def test_words(text: str, n: int) -> None:
    assert text_measures.words(text) == n


def test_an_empty_match_is_no_hit() -> None:
    assert text_measures.hits("x*", "axxb") == 1


@pytest.mark.parametrize("pattern", ["", "(", "[a", "*", "(?P<n>a)(?P<n>b)", "a{2,1}", "\\"])
def test_what_is_no_expression_is_refused_in_one_line(pattern: str) -> None:
    with pytest.raises(InputError, match="pirate, sea, shakespeare") as caught:
        text_measures.count(pattern, ["text"])
    assert "\n" not in str(caught.value)


# -- sentiment --------------------------------------------------------------------------------


def test_the_sign_is_the_mood() -> None:
    pytest.importorskip("vaderSentiment")
    glad, sad, none = text_measures.sentiment(["I love it, wonderful!", "I hate it, terrible.", ""])
    assert -1 <= sad < 0 < glad <= 1
    assert none == 0


def test_without_vader_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    with pytest.raises(MissingExtra, match=r"pip install 'edgesteer\[sentiment\]'") as caught:
        text_measures.sentiment(["x"])
    assert "\n" not in str(caught.value)
