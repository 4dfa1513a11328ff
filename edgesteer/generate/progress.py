"""Split one progress bar into weighted stages, and a long list into a few evenly spaced entries."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

Done = Callable[[float], None]
"""Called with the fraction of a piece of work that is done, 0..1."""

Report = Callable[[str, float], None]
"""Called with a stage's name and the fraction done of the whole, 0..1."""


class Stages:
    """Split one progress bar into weighted stages that follow one another, and time them.

    weights: the stages in their order, and roughly what share of the time each takes; any unit.
    seconds: how long each took, from its beginning to the next one's.
    """

    def __init__(
        self, report: Report, weights: Mapping[str, float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.seconds: dict[str, float] = {}
        self._report, self._weights, self._clock = report, dict(weights), clock
        self._stage: str | None = None
        self._since = 0.0

    def begin(self, stage: str, shown: str | None = None) -> Done:
        """Begin a stage, which ends the one before; to be called with the fraction of the stage that is done.

        shown: what is reported instead of the stage's name.
        """
        self.end()
        self._stage, self._since = stage, self._clock()
        names = list(self._weights)
        before = sum(self._weights[name] for name in names[: names.index(stage)])
        whole = sum(self._weights.values())
        share = self._weights[stage]
        return lambda done: self._report(shown or stage, (before + share * min(done, 1.0)) / whole)

    def end(self) -> None:
        """End the stage that runs; what follows belongs to none."""
        if self._stage is not None:
            taken = self._clock() - self._since
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + taken
        self._stage = None


def portion(progress: Done, first: float, size: float, whole: float) -> Done:
    """Report a piece of the work that covers first .. first + size of a whole."""
    return lambda part: progress((first + size * part) / whole)


def spread(n: int, most: int) -> list[int]:
    """At most `most` of the indices 0 .. n-1, evenly spaced, the first always among them."""
    return list(range(n)) if n <= most else [i * n // most for i in range(most)]
