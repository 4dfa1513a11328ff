"""What a reply is measured by. Pure: log-probabilities and tokens in, numbers out.

Trait and coherence are both read off the unsteered model, so nobody has to name words or ask a judge. Each
measure says what it can and cannot see. Read them together.
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

    sum_in: what the probabilities are summed in; None for that precision too. Where a hundred thousandth of a
    nat counts it is float64, so that two rows that differ by rounding alone stay that near.
    """
    shifted = logits - logits.max(axis=-1, keepdims=True)
    total = np.exp(shifted).sum(axis=-1, keepdims=True, dtype=sum_in)
    return np.asarray(shifted - np.log(total).astype(logits.dtype))


def log_prob(logits: F32, token: int) -> float:
    """`log_softmax` of one token, to the same bits, without the row that it stands in."""
    top = logits.max()
    return float(logits[token] - top - np.log(np.exp(logits - top).sum()))


def trait(prompted: F32, plain: F32) -> float:
    """Mean over a reply's tokens of log p(token | with the trait prompt) - log p(token | without), in nats.

    Sees whatever the trait prompt makes likelier, without knowing the trait. Does not see whether a person
    would notice it, and credits what the prompt brings along besides the trait (its length, its topic).
    Both under the unsteered model. NaN for an empty reply.
    """
    return float(np.mean(prompted - plain)) if len(plain) else float("nan")


def coherence(prompted: F32, plain: F32) -> float:
    """Mean over a reply's tokens of -log max(p(token | with the trait prompt), p(token | without)), in nats;
    LOWER is more coherent.

    Sees what no mood of the model would say: a token is forgiven that fits the plain or the prompted voice,
    so that the trait itself costs nothing, as it does in `nll`. Does not see a reply that changes between the
    two voices from token to token, nor whether it is true or on the question; and it rewards loops, which are
    easy to predict: read it together with `distinct`. Both under the unsteered model. NaN for an empty reply.
    """
    return nll(np.maximum(prompted, plain))


def nll(log_probs: F32) -> float:
    """Mean negative log-probability of a reply's tokens, in nats; lower is more coherent.

    Under the unsteered model on the plain prompt this is `nll0`. It punishes broken language, but also any
    style that is unlike the model's own, so compare it at equal trait; and it rewards loops, which are
    easy to predict: read it together with `distinct`. NaN for an empty reply.
    """
    return float(-np.mean(log_probs)) if len(log_probs) else float("nan")


def distinct(tokens: Sequence[int], n: int = 2) -> float:
    """Different n-grams of tokens over all n-grams, 0..1; 1 has no repetition.

    Sees loops. Does not see a reply that says one thing in ever new words, and falls with a reply's length
    even where nothing loops. 1 where there is no n-gram.
    """
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0
