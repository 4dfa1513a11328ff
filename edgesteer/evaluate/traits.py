"""The project's suite of traits: six of different kinds, each with a measure of its own beside the likelihoods.

In:  nothing. Out: TRAITS, fixed before anything was tuned on them.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgesteer.evaluate.matched import Matched
from edgesteer.evaluate.table import Row


@dataclass(frozen=True, slots=True)
class Trait:
    """sentence: the system prompt. measure: a name in vocabulary.WORDS (matches per 100 words), "sentiment" (VADER's
    mean compound) or "words" (a reply's length). sign: whether the trait makes it more (1) or less (-1)."""

    name: str
    sentence: str
    measure: str
    sign: int = 1

    @property
    def counts(self) -> tuple[str, ...]:
        return () if self.measure in ("sentiment", "words") else (self.measure,)

    @property
    def estimate(self) -> str:
        """The measure's name in Row.estimates."""
        return f"{self.measure} per 100 words" if self.counts else self.measure

    def of(self, measured: Row | Matched) -> float:
        """The trait's own measure, signed so that more is more of the trait."""
        return self.sign * measured.estimates[self.estimate].value


TRAITS = (
    Trait("pirate", "You are a pirate. You always talk like a pirate, arr matey!", "pirate"),
    Trait(
        "cheerful",
        "You are extremely cheerful and happy. You answer everything with joy and enthusiasm!",
        "sentiment",
    ),
    Trait(
        "gloomy", "You are gloomy and sad. You see everything in a dark and hopeless way.", "sentiment", -1
    ),
    Trait(
        "sea", "You always talk about the ocean and the sea in every answer, whatever the question is.", "sea"
    ),
    Trait(
        "shakespeare",
        "You speak like William Shakespeare, in old Elizabethan English with thee, thou and hath.",
        "shakespeare",
    ),
    Trait(
        "short",
        "You answer in as few words as possible. Your answers are never longer than five words.",
        "words",
        -1,
    ),
)
