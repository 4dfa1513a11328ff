"""What a reply is measured by. Pure: log-probabilities, tokens and texts in, numbers out.

Trait and coherence are both read off the unsteered model, so nobody has to name words or ask a judge; the
word count is for traits that have a vocabulary. Each measure says what it cannot see. Read them together.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]

# Word lists by name, matched without regard to case. Fixed before anything was tuned on them.
WORDS = {
    "pirate": (
        r"\b(?:a+rr+(?:gh*|h+)?|y+arr+|matey|mateys|mates?|ahoy|avast|aye|ye|yer|yo-?ho(?:-?ho)?|heart(?:y|ies)|"
        r"scurvy|booty|treasures?|sail(?:s|ed|ing|ors?)?|ships?|(?:seven )?seas?|pirates?|captain|cap'n|crew|"
        r"plunder\w*|swab\w*|(?:land)?lubbers?|shiver|timbers?|rum|scallywags?|buccaneers?|corsairs?|doubloons?|"
        r"cutlass(?:es)?|galleons?|jolly roger|davy jones|parrots?|anchors?|lads?|lass(?:es)?)\b"
    ),
}


@dataclass(frozen=True, slots=True)
class Count:
    """Matches per 100 words of all replies together, and the share of replies with at least one."""

    per_100_words: float
    share: float


def trait(prompted: F32, plain: F32) -> float:
    """Mean over a reply's tokens of log p(token | with the trait prompt) - log p(token | without), in nats.

    Sees whatever the trait prompt makes likelier, without knowing the trait. Does not see whether a person
    would notice it, and credits what the prompt brings along besides the trait (its length, its topic).
    Both under the unsteered model. NaN for an empty reply.
    """
    return float(np.mean(prompted - plain)) if len(plain) else float("nan")


def nll(log_probs: F32) -> float:
    """Mean negative log-probability of a reply's tokens, in nats; lower is more coherent.

    Under the unsteered model on the plain prompt this is `nll0`. It punishes broken language, but also any
    style that is unlike the model's own, so compare it at equal trait; and it rewards loops, which are
    easy to predict: read it together with `distinct`. NaN for an empty reply.
    """
    return float(-np.mean(log_probs)) if len(log_probs) else float("nan")


def distinct(tokens: Sequence[int], n: int = 2) -> float:
    """Different n-grams of tokens over all n-grams, 0..1; 1 has no repetition.

    Sees loops. Does not see a reply that says one thing in ever new words. 1 where there is no n-gram.
    """
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def count(pattern: str, texts: Sequence[str]) -> Count:
    """How often a regular expression, or the list in WORDS of that name, occurs in replies.

    Counts words, not sense: "the sea" scores in any tale, and a style without its stock words scores 0.
    A loop scores high per 100 words but once in the share.
    """
    expression = re.compile(WORDS.get(pattern, pattern), re.IGNORECASE)
    hits = [sum(1 for _ in expression.finditer(text)) for text in texts]
    words = sum(len(re.findall(r"[\w'-]+", text)) for text in texts)
    share = sum(hit > 0 for hit in hits) / len(texts) if texts else 0.0
    return Count(100 * sum(hits) / words if words else 0.0, share)
