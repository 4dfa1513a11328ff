"""Measures against values worked out by hand, and their laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesteer.errors import LearnError
from edgesteer.evaluate import measures

two_replies = st.lists(st.tuples(st.floats(-30, 0, width=32), st.floats(-30, 0, width=32)), min_size=1)


def log(*probabilities: float) -> np.ndarray:
    return np.log(np.array(probabilities, dtype=np.float32))


def test_trait_is_the_mean_log_ratio() -> None:
    assert measures.trait(log(0.5, 0.2), log(0.25, 0.1)) == pytest.approx(math.log(2))
    assert measures.trait(log(0.1, 0.4), log(0.2, 0.2)) == pytest.approx(0, abs=1e-6)


def test_nll_is_the_mean_surprise() -> None:
    assert measures.nll(log(0.5, 0.125)) == pytest.approx(2 * math.log(2))


def test_an_empty_reply_has_no_trait_and_no_nll() -> None:
    nothing = np.zeros(0, dtype=np.float32)
    assert math.isnan(measures.trait(nothing, nothing))
    assert math.isnan(measures.coherence(nothing, nothing))
    assert math.isnan(measures.nll(nothing))


@given(two_replies)
def test_trait_is_antisymmetric_and_coherence_symmetric(pairs: list[tuple[float, float]]) -> None:
    a, b = np.array(pairs, dtype=np.float32).T
    assert measures.trait(a, b) == -measures.trait(b, a)
    assert measures.coherence(a, b) == measures.coherence(b, a)


@given(two_replies)
def test_coherence_forgives_what_either_prompt_expects(pairs: list[tuple[float, float]]) -> None:
    a, b = np.array(pairs, dtype=np.float32).T
    assert measures.coherence(a, b) <= min(measures.nll(a), measures.nll(b)) + 1e-4
    assert measures.coherence(a, a) == measures.nll(a)


def test_coherence_takes_the_likelier_voice_token_by_token() -> None:
    assert measures.coherence(log(0.5, 0.001), log(0.001, 0.125)) == pytest.approx(2 * math.log(2))


@pytest.mark.parametrize(
    ("tokens", "n", "share"),
    [([1, 2, 3, 4], 2, 1.0), ([1, 1, 1, 1], 2, 1 / 3), ([1, 2, 1, 2, 1], 2, 0.5), ([1], 2, 1.0)],
)
def test_distinct(tokens: list[int], n: int, share: float) -> None:
    assert measures.distinct(tokens, n) == pytest.approx(share)


def test_count_is_per_hundred_words_and_per_reply() -> None:
    counted = measures.count(r"\bsea\b", ["the Sea and the sea", "no water, here at all"])
    assert counted == measures.Count(per_100_words=20.0, share=0.5)


def test_count_of_nothing_is_zero() -> None:
    assert measures.count("x", []) == measures.count("x", ["", "  "]) == measures.Count(0.0, 0.0)


@pytest.mark.parametrize(
    "text", ["Arrr, matey!", "Ahoy there", "We sailed the seven seas", "argh, ARRGH", "ye olde crew"]
)
def test_the_pirate_list_knows_pirates(text: str) -> None:
    assert measures.count("pirate", [text]).share == 1


@pytest.mark.parametrize(
    "text", ["You are right, I see an array.", "Her heart is in the season.", "Relationships matter."]
)
def test_the_pirate_list_leaves_plain_speech_alone(text: str) -> None:
    assert measures.count("pirate", [text]).share == 0


@pytest.mark.parametrize("text", ["The ocean is vast", "we sailed", "Seashells on the BEACH", "a harbour"])
def test_the_sea_list_knows_the_sea(text: str) -> None:
    assert measures.count("sea", [text]).share == 1


@pytest.mark.parametrize("text", ["The season is over.", "I see leadership here.", "Boast of research."])
def test_the_sea_list_leaves_the_land_alone(text: str) -> None:
    assert measures.count("sea", [text]).share == 0


@pytest.mark.parametrize(
    "text",
    ["Thou art kind", "'Tis so", "\u2019Twas night", "Good morrow, my lord", "o'er hill", "ne'er again"],
)
def test_the_shakespeare_list_knows_shakespeare(text: str) -> None:
    assert measures.count("shakespeare", [text]).share == 1


@pytest.mark.parametrize("text", ["The others often heard it.", "It's art.", "don't", "There is a hole."])
def test_the_shakespeare_list_leaves_plain_speech_alone(text: str) -> None:
    assert measures.count("shakespeare", [text]).share == 0


@pytest.mark.parametrize(("text", "n"), [("", 0), ("One, two -- three.", 3), ("don't", 1)])
def test_words(text: str, n: int) -> None:
    assert measures.words(text) == n


def test_an_empty_match_is_no_hit() -> None:
    assert measures.hits("x*", "axxb") == 1


@pytest.mark.parametrize("pattern", ["", "(", "[a", "*", "(?P<n>a)(?P<n>b)", "a{2,1}", "\\"])
def test_what_is_no_expression_is_refused_in_one_line(pattern: str) -> None:
    with pytest.raises(LearnError, match="pirate, sea, shakespeare") as caught:
        measures.count(pattern, ["text"])
    assert "\n" not in str(caught.value)
