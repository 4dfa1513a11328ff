"""What a reply is measured by. Pure: log-probabilities, tokens and texts in, numbers out.

Trait and coherence are both read off the unsteered model, so nobody has to name words or ask a judge; counts
are for traits that have a vocabulary. Each measure says what it can and cannot see. Read them together.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgesteer.errors import LearnError

F32 = npt.NDArray[np.float32]

# Word lists by name, matched without regard to case. Fixed before anything was tuned on them.
WORDS = {
    "pirate": (
        r"\b(?:a+rr+(?:gh*|h+)?|y+arr+|matey|mateys|mates?|ahoy|avast|aye|ye|yer|yo-?ho(?:-?ho)?|heart(?:y|ies)|"
        r"scurvy|booty|treasures?|sail(?:s|ed|ing|ors?)?|ships?|(?:seven )?seas?|pirates?|captain|cap'n|crew|"
        r"plunder\w*|swab\w*|(?:land)?lubbers?|shiver|timbers?|rum|scallywags?|buccaneers?|corsairs?|doubloons?|"
        r"cutlass(?:es)?|galleons?|jolly roger|davy jones|parrots?|anchors?|lads?|lass(?:es)?)\b"
    ),
    "sea": (
        r"\b(?:seas?|oceans?|tides?|tidal|waves?|shores?|seashores?|seaside|seashells?|seaweeds?|coasts?|coastal|"
        r"beach(?:es)?|harbou?rs?|ships?|boats?|sail(?:s|ed|ing|ors?)?|voyages?|anchors?|mariners?|maritime|"
        r"marine|nautical|lighthouses?|islands?|reefs?|coral|gulls?|seagulls?|whales?|dolphins?|sharks?|surf)\b"
    ),
    "shakespeare": (
        r"\b(?:thou|thee|thy|thine|thyself|ye|hath|doth|dost|hast|canst|shalt|didst|wouldst|couldst|shouldst|"
        r"wherefore|forsooth|prithee|verily|methinks|hark|alas|oft|ere|nay|whence|thither|hither|whither|anon|"
        r"betwixt|morrow|perchance|mayhap|withal|fie|zounds|knaves?|(?:my )?liege|m'?lord|my lord|good sir|"
        r"[oe]'er|ne'er)\b|(?<!\w)['\u2019]t(?:is|was|were|will)\b"
    ),
}
_WORD = re.compile(r"\w[\w'\u2019-]*")


@dataclass(frozen=True, slots=True)
class Count:
    """Matches per 100 words of all replies together, and the share of replies with at least one."""

    per_100_words: float
    share: float


def log_softmax(logits: F32) -> F32:
    """Log-probabilities of a row of logits. Summed in float64: two rows that differ by rounding alone stay that near,
    where divergences of a hundred thousandth of a nat are told apart."""
    shifted = logits - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum(dtype=np.float64)).astype(np.float32))


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

    Sees what no mood of the model would say: a token is forgiven that fits the plain or the prompted voice, so
    that the trait itself costs nothing, as it does in `nll`. Does not see a reply that changes between the two
    voices from token to token, nor whether it is true or on the question; and it rewards loops, which are easy
    to predict: read it together with `distinct`. Both under the unsteered model. NaN for an empty reply.
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

    Sees loops. Does not see a reply that says one thing in ever new words, and falls with a reply's length even
    where nothing loops. 1 where there is no n-gram.
    """
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def words(text: str) -> int:
    """Words of a reply: for traits of length. Does not see whether the token limit cut it."""
    return len(_WORD.findall(text))


def expression(pattern: str) -> re.Pattern[str]:
    """The list in WORDS of that name, or a regular expression; case does not matter. Raises LearnError."""
    if not pattern:
        raise LearnError(f"count '': nothing to count, expected a regular expression or one of {_names()}")
    try:
        return re.compile(WORDS.get(pattern, pattern), re.IGNORECASE)
    except (re.error, RecursionError, OverflowError) as error:
        raise LearnError(
            f"count {pattern!r}: not a regular expression ({error}), expected one, or one of {_names()}"
        ) from None


def hits(pattern: str, text: str) -> int:
    """Matches in a text, without empty ones (of "x*" and its like)."""
    return sum(1 for match in expression(pattern).finditer(text) if match.group())


def count(pattern: str, texts: Sequence[str]) -> Count:
    """How often a regular expression, or the list in WORDS of that name, occurs in replies.

    Counts words, not sense: "the sea" scores in any tale, and a style without its stock words scores 0.
    A loop scores high per 100 words but once in the share.
    """
    found = [hits(pattern, text) for text in texts]
    n_words = sum(map(words, texts))
    share = sum(n > 0 for n in found) / len(texts) if texts else 0.0
    return Count(100 * sum(found) / n_words if n_words else 0.0, share)


def _names() -> str:
    return ", ".join(WORDS)
