"""Measures against values worked out by hand, and their laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesteer.generate import measures

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


@given(st.integers(0, 2**32 - 1), st.integers(1, 5000), st.sampled_from([0.1, 3.0, 40.0]))
def test_log_probabilities_are_one_whatever_they_are_asked_by(seed: int, n: int, spread: float) -> None:
    logits = (spread * np.random.default_rng(seed).standard_normal((2, n))).astype(np.float32)
    rows = measures.log_softmax(logits)
    exact = measures.log_softmax(logits.astype(np.float64))
    assert (rows.dtype, exact.dtype) == (np.float32, np.float64)
    np.testing.assert_allclose(np.exp(exact).sum(axis=1), 1)
    np.testing.assert_allclose(rows, exact, atol=2e-5)
    np.testing.assert_allclose(measures.log_softmax(logits, np.float64), exact, atol=1e-5)
    for row, logit in zip(rows, logits, strict=True):
        assert (measures.log_softmax(logit) == row).all()
        assert [measures.log_prob(logit, i) for i in (0, n - 1)] == [row[0], row[-1]]


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


def test_kl_is_zero_for_the_same_and_above_it_for_others() -> None:
    rng = np.random.default_rng(0)

    def drawn() -> np.ndarray:
        logits = rng.standard_normal(50).astype(np.float32)
        return logits - np.log(np.exp(logits).sum())

    for _ in range(20):
        a, b = drawn(), drawn()
        assert measures.kl(a, a) == 0
        assert measures.kl(a, b) > 0
    half = np.log(np.array([0.5, 0.5], dtype=np.float32))
    sure = np.log(np.array([0.75, 0.25], dtype=np.float32))
    assert measures.kl(half, sure) == pytest.approx(0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25))
    never = np.array([0.0, -np.inf], dtype=np.float32)
    assert measures.kl(never, never) == 0
