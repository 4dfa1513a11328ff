"""Sentiment of replies by VADER, a lexicon with rules for negation and emphasis (the `sentiment` extra).

In: texts. Out: a compound score each, -1 (negative) .. 1 (positive).

Sees English words that carry a mood, in the manner of social media. Does not see irony, a mood without its
words, other languages, or whether the mood fits the question.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgesteer.errors import MissingExtra


def analyzer() -> Any:
    """VADER's analyzer. Raises MissingExtra."""
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as error:
        raise MissingExtra(
            "vaderSentiment: not installed; needed to measure sentiment; pip install 'edgesteer[sentiment]'"
        ) from error
    return SentimentIntensityAnalyzer()


def compound(texts: Sequence[str]) -> list[float]:
    """VADER's compound score of each text, -1 .. 1; 0 for one without words. Raises MissingExtra."""
    vader = analyzer()
    return [float(vader.polarity_scores(text)["compound"]) for text in texts]
