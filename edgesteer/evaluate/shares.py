"""Yes or no to each question, such as a right answer: the share of yes, compared with the unsteered model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgesteer.errors import InputError
from edgesteer.evaluate.head_to_head import check_rows
from edgesteer.evaluate.intervals import Estimate, Sample, difference, estimate
from edgesteer.evaluate.way import PROMPT, UNSTEERED, Sources, Way, prompts_of, require_trait
from edgesteer.generate import Chat

MIN_QUESTIONS = 8


@dataclass(frozen=True, slots=True)
class Share:
    """The share of questions with yes.

    minus_unsteered: paired by question. Without any change its interval has no width, though of other
        questions up to about 3 / n might change.
    lost, gained: how many questions changed from yes to no, and from no to yes.
    """

    estimate: Estimate
    minus_unsteered: Estimate
    lost: int
    gained: int

    @classmethod
    def of(cls, yes: Sequence[bool], unsteered: Sequence[bool]) -> Share:
        """The share of `yes`, compared with the unsteered model's on the same questions."""
        before, after = Sample.mean(list(map(float, unsteered))), Sample.mean(list(map(float, yes)))
        changes = [(b, a) for b, a in zip(unsteered, yes, strict=True) if b != a]
        lost = sum(b for b, _ in changes)
        return cls(estimate(after), difference(after, before), lost, len(changes) - lost)

    def for_manifest(self, unsteered: Share, questions: int) -> dict[str, Any]:
        """Plain values: shares before and after, and how many points are lost."""
        return {
            "questions": questions,
            "before": round(unsteered.estimate.value, 4),
            "after": round(self.estimate.value, 4),
            "points_lost": self.minus_unsteered.for_manifest(-100, 2),
        }


def ways_to_ask(
    chat: Chat, questions: Sequence[str], trait: str | None, rows: Sequence[tuple[str, Sources]]
) -> list[Way]:
    """Unsteered, with the trait as system prompt (unless it is None), and each of the rows.

    Raises InputError for an empty trait, fewer than MIN_QUESTIONS questions, or rows that `head_to_head`
    refuses; IncompatibleError for a bundle of another model.
    """
    if len(questions) < MIN_QUESTIONS:
        raise InputError(f"evaluation: {len(questions)} questions, expected at least {MIN_QUESTIONS}")
    if trait is not None:
        require_trait(trait)
    check_rows(chat, rows)
    plain, prompted = prompts_of(chat, questions, trait or "")
    asked = [Way(UNSTEERED, plain)] + ([] if trait is None else [Way(PROMPT, prompted)])
    return asked + [Way.of(name, plain, sources) for name, sources in rows]
