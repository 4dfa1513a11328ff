"""Measures of the text of replies: matches of a vocabulary, and sentiment. Texts in, numbers out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgesteer.errors import InputError, MissingExtra

# Word lists by name; case does not matter. They were fixed before anything was tuned on them.
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


def words(text: str) -> int:
    """The number of words of a reply. Does not see whether the token limit cut it."""
    return len(_WORD.findall(text))


def expression(pattern: str) -> re.Pattern[str]:
    """A word list in WORDS by name, or a regular expression; case does not matter. Raises InputError."""
    if not pattern:
        raise InputError(f"count '': nothing to count, expected a regular expression or one of {_names()}")
    try:
        return re.compile(WORDS.get(pattern, pattern), re.IGNORECASE)
    except (re.error, RecursionError, OverflowError) as error:
        raise InputError(
            f"count {pattern!r}: not a regular expression ({error}), expected one, or one of {_names()}"
        ) from None


def hits(pattern: str, text: str) -> int:
    """The number of matches in a text, without empty ones (as "x*" has)."""
    return sum(1 for match in expression(pattern).finditer(text) if match.group())


def count(pattern: str, texts: Sequence[str]) -> Count:
    """How often a regular expression, or a word list in WORDS, matches in replies.

    Counts words, not meaning: "the sea" counts in any story, and a style without its usual words gets 0.
    A loop counts many times per 100 words but once in the share.
    """
    matches = [hits(pattern, text) for text in texts]
    n_words = sum(map(words, texts))
    share = sum(n > 0 for n in matches) / len(texts) if texts else 0.0
    return Count(100 * sum(matches) / n_words if n_words else 0.0, share)


def _names() -> str:
    return ", ".join(WORDS)


def sentiment_analyzer() -> Any:
    """VADER's analyzer (the `sentiment` extra). Raises MissingExtra."""
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as error:
        raise MissingExtra(
            "vaderSentiment: not installed; needed to measure sentiment; pip install 'edgesteer[sentiment]'"
        ) from error
    return SentimentIntensityAnalyzer()


def sentiment(texts: Sequence[str]) -> list[float]:
    """VADER's compound score of each text, from -1 (negative) to 1 (positive); 0 for a text without words.

    Sees English words that carry a mood, as in social media, with rules for negation and emphasis. Does not
    see irony, a mood without such words, other languages, or whether the mood fits the question.
    Raises MissingExtra.
    """
    vader = sentiment_analyzer()
    return [float(vader.polarity_scores(text)["compound"]) for text in texts]
