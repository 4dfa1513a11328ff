"""Measures of a reply. Pure: log-probabilities and tokens in, numbers out.

The unsteered model gives both trait and coherence, so no word list and no judge is needed. Each docstring
says what its measure sees and what it does not. Read them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F = TypeVar("F", F32, npt.NDArray[np.float64])


def log_softmax(logits: F, sum_in: type[np.floating[Any]] | None = None) -> F:
    """Log-probabilities of rows of logits (their last axis), in nats, in the logits' own precision.

    sum_in: the type that the probabilities are summed in; None for the logits' own. Pass float64 where 1e-5
        nats matter, so that two rows that differ only by rounding stay as close as they are.
    """
    shifted = logits - logits.max(axis=-1, keepdims=True)
    total = np.exp(shifted).sum(axis=-1, keepdims=True, dtype=sum_in)
    return np.asarray(shifted - np.log(total).astype(logits.dtype))


def log_prob(logits: F32, token: int) -> float:
    """`log_softmax` of one token, to the same bits, without computing the rest of the row."""
    top = logits.max()
    return float(logits[token] - top - np.log(np.exp(logits - top).sum()))


def kl(p: F32, q: F32) -> float:
    """KL(p || q) of two rows of log-probabilities, in nats; never below 0."""
    there = p > -np.inf
    a, b = p[there].astype(np.float64), q[there].astype(np.float64)
    return max(0.0, float(np.sum(np.exp(a) * (a - b))))


def trait(prompted: F32, plain: F32) -> float:
    """Mean over a reply's tokens of log p(token | with the trait prompt) - log p(token | without), in nats.

    Sees whatever the trait prompt makes likelier, without knowing the trait. Does not see whether a person
    would notice, and credits everything else that the prompt changes (length, topic). Both are under the
    unsteered model. NaN for an empty reply.
    """
    return float(np.mean(prompted - plain)) if len(plain) else float("nan")


def coherence(prompted: F32, plain: F32) -> float:
    """Mean over a reply's tokens of -log max(p(token | with the trait prompt), p(token | without)), in nats;
    LOWER is more coherent.

    Sees tokens that the model would write neither with nor without the trait prompt, so the trait itself
    costs nothing, as it does in `nll`. Does not see a reply that switches between the two from token to
    token, or whether it is true or to the point; and it rewards loops, which are easy to predict: read it
    together with `distinct`. Both are under the unsteered model. NaN for an empty reply.
    """
    return nll(np.maximum(prompted, plain))


def nll(log_probs: F32) -> float:
    """Mean negative log-probability of a reply's tokens, in nats; lower is more coherent.

    Under the unsteered model on the plain prompt this is `nll0`. It penalises broken language, but also any
    style unlike the model's own, so compare it at equal trait; and it rewards loops, which are easy to
    predict: read it together with `distinct`. NaN for an empty reply.
    """
    return float(-np.mean(log_probs)) if len(log_probs) else float("nan")


def distinct(tokens: Sequence[int], n: int = 2) -> float:
    """Distinct n-grams of tokens over all n-grams, 0..1; 1 means no repetition, or no n-gram at all.

    Sees loops. Does not see a reply that says the same thing in ever new words, and falls with the length of
    a reply even if nothing loops.
    """
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0
