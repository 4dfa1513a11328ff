"""Split one progress bar into weighted stages, and thin out a long list. Pure."""

from __future__ import annotations

from collections.abc import Callable

Done = Callable[[float], None]
"""(fraction done)"""

Progress = Callable[[str, float], None]
"""(name of the stage, fraction of the whole)"""


def no_progress(*_: object) -> None:
    """Ignore the progress: a Done and a Progress."""


class Stages:
    """Stages of known weight, one after the other. total: the sum of their weights."""

    def __init__(self, progress: Progress, total: float) -> None:
        self._progress, self._total, self._begun = progress, total, 0.0

    def nested(self, weight: float = 1) -> Progress:
        """Begin the next stage, for work that has named stages of its own."""
        first, self._begun = self._begun, self._begun + weight
        return lambda name, part: self._progress(name, min(1.0, (first + weight * part) / self._total))

    def enter(self, name: str, weight: float = 1) -> Done:
        """Begin the next stage."""
        inner = self.nested(weight)
        inner(name, 0.0)
        return lambda part: inner(name, part)


def portion(progress: Done, first: float, size: float, whole: float) -> Done:
    """A progress function for the stage from `first` to `first + size` of `whole`."""
    return lambda part: progress((first + size * part) / whole)


def spread(n: int, most: int) -> list[int]:
    """At most `most` of the indices 0 .. n-1, evenly spaced and beginning with 0."""
    return list(range(n)) if n <= most else [i * n // most for i in range(most)]
