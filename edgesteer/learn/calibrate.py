"""The default strength: the largest at which steered replies are as coherent as prompted ones.

In:  a bundle, questions, the trait's sentence. Out: a Dose, its curve with it.

The target is the coherence of greedy prompted replies to the same questions, unless one is given, or the unsteered
model's where that is less. A strength is never accepted without a coherence that was measured at it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgesteer.bundle import Bundle, StrengthRange
from edgesteer.generate.chat import REPEAT_PENALTY, Chat
from edgesteer.evaluate.dose import Dose, strength_at
from edgesteer.evaluate.matched import DISTINCT
from edgesteer.generate.progress import Done, portion
from edgesteer.generate.scoring import Scores, score

# Where the strength is searched, as multiples of the one that is likeliest for prompted replies. A single block can
# take more than the highest: its bundle's coherence suffers late.
_LOWEST, _HIGHEST = 0.2, 1.4


@dataclass(frozen=True, slots=True)
class Yardstick:
    """What the prompt does on the questions that strengths are measured on; all greedy, scored unsteered."""

    plain: list[list[int]]
    prompted: list[list[int]]
    scores: Scores
    target: float
    max_tokens: int
    given: bool = False  # the target is a person's, and not the prompt's

    @classmethod
    def of(
        cls,
        chat: Chat,
        trait: str,
        questions: Sequence[str],
        max_tokens: int,
        coherence: float | None,
        progress: Done,
    ) -> Yardstick:
        """coherence: the target instead of the prompted replies' own, nats a token."""
        plain = [chat.prompt(q) for q in questions]
        prompted = [chat.prompt(q, trait) for q in questions]
        replies = chat.replies(
            prompted,
            max_tokens,
            repeat_penalty=REPEAT_PENALTY,
            progress=portion(progress, 0, 0.6, 1),
        )
        scores = score(chat, replies, plain, prompted)
        target = scores.mean("coherence") if coherence is None else coherence
        return cls(plain, prompted, scores, target, max_tokens, coherence is not None)

    def dose(self, chat: Chat, bundle: Bundle, likeliest: float, progress: Done) -> Dose:
        """The largest strength that keeps the target, searched around the likeliest one, from above.

        No more is asked of steering than the unsteered model gives: where no strength keeps the prompt's coherence and
        the model itself does not either (a base model, which a prompt with examples keeps to the point), the
        model's own is the target.
        """
        found = self._search(chat, bundle, likeliest, self.target, progress)
        if found.reached or self.given:
            return found
        own = self._unsteered(chat)
        return found if own <= self.target else self._search(chat, bundle, likeliest, own, progress)

    def _unsteered(self, chat: Chat) -> float:
        with chat.llm.steered([]):
            replies = chat.replies(self.plain, self.max_tokens, repeat_penalty=REPEAT_PENALTY)
        return score(chat, replies, self.plain, self.prompted).mean("coherence")

    def _search(self, chat: Chat, bundle: Bundle, likeliest: float, target: float, progress: Done) -> Dose:
        return strength_at(
            chat,
            bundle,
            self.plain,
            self.prompted,
            target,
            min_distinct2=DISTINCT * self.scores.mean("distinct2"),
            lo=round(likeliest * _LOWEST, 2),
            hi=round(likeliest * _HIGHEST, 2),
            scan=3,
            steps=2,
            beyond=2,
            max_tokens=self.max_tokens,
            progress=progress,
        )


def strength_range(dose: Dose, both_ways: bool) -> StrengthRange:
    """The dose's strength, and the range that was measured: from 0, or from its negative where the bundle was
    learnt from two sentences."""
    highest = max(point.strength for point in dose.curve)
    return StrengthRange(dose.strength, -highest if both_ways else 0.0, highest)
