"""Measures against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgesteer.evaluate import measures


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
    assert math.isnan(measures.nll(nothing))


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
