"""A bundle's curve: trait and coherence over strength, on the first tokens of replies to a few of the questions.

In:  a Chat, a Suite, ways with what their rows hold. Out: Points, ascending by strength.

Replies that a row holds already are not asked for again.
"""

from __future__ import annotations

import math
import warnings

from edgesteer.bundle import Bundle
from edgesteer.errors import EdgesteerWarning, SteeringOverflow
from edgesteer.generate.chat import REPEAT_PENALTY, Chat
from edgesteer.evaluate.comparison.suite_file import Suite
from edgesteer.evaluate.dose import Point
from edgesteer.generate.progress import Done, spread
from edgesteer.generate.scoring import Scores, score
from edgesteer.evaluate.table import Row
from edgesteer.evaluate.ways import Way, prompts_of

# So that three curves take half as long as the replies that are shown.
N_CURVE, CURVE_TOKENS = 8, 32

# A curve's strengths where the suite names none: multiples of the strength that the replies are shown at.
_TIMES = (0.5, 0.75, 1.25)
_DIGITS = 4


class Curves:
    """Measures ways over strength, all on the first tokens of replies to the same few questions."""

    def __init__(self, chat: Chat, suite: Suite, trait: str, max_tokens: int) -> None:
        self._chat, self._strengths, self.n_tokens = chat, suite.strengths, min(max_tokens, CURVE_TOKENS)
        self.chosen = spread(len(suite.questions), N_CURVE)
        self._prompts = prompts_of(chat, [suite.questions[i] for i in self.chosen], trait)

    @property
    def n_replies(self) -> int:
        """At most so many replies a bundle."""
        return len(self.chosen) * len(self._strengths or _TIMES)

    def of(self, way: Way, row: Row, unsteered: Row, progress: Done) -> tuple[Point, ...]:
        """The way's curve; what its row and the unsteered one hold is not asked again."""
        if way.bundle is None:
            return (self._known(0.0, row),)
        assert row.strength is not None
        known = {0.0: self._known(0.0, unsteered)}
        known.setdefault(row.strength, self._known(row.strength, row))
        asked = self._strengths or _around(row.strength or way.bundle.strength.max)
        missing = [strength for strength in asked if strength not in known]
        for i, strength in enumerate(missing):
            progress(i / len(missing))
            known[strength] = self._measured(way.bundle, strength)
        return tuple(known[strength] for strength in sorted(known))

    def _known(self, strength: float, row: Row) -> Point:
        return self._point(strength, row.scores.of(self.chosen))

    def _measured(self, bundle: Bundle, strength: float) -> Point:
        plain, prompted = self._prompts
        try:
            with warnings.catch_warnings():  # that a curve leaves the evaluated range is what it is for
                warnings.simplefilter("ignore", EdgesteerWarning)
                with self._chat.llm.steered(bundle, strength):
                    replies = self._chat.replies(plain, self.n_tokens, repeat_penalty=REPEAT_PENALTY)
        except SteeringOverflow:
            return Point(strength, math.nan, math.inf, 0.0)
        return self._point(strength, score(self._chat, replies, plain, prompted))

    def _point(self, strength: float, scores: Scores) -> Point:
        cut = scores.first(self.n_tokens)
        return Point(strength, cut.mean("trait"), cut.mean("coherence"), cut.mean("distinct2"))


def _around(strength: float) -> list[float]:
    return [round(times * strength, _DIGITS) for times in _TIMES]
