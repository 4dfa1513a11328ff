"""Split one progress bar into weighted stages, and thin out a long list. Pure."""

from __future__ import annotations

from collections.abc import Callable

Done = Callable[[float], None]


def portion(progress: Done, first: float, size: float, whole: float) -> Done:
    """A progress function for a stage that lies at first .. first + size of the whole."""
    return lambda part: progress((first + size * part) / whole)


def spread(n: int, most: int) -> list[int]:
    """At most `most` of the indices 0 .. n-1, evenly spaced, the first always among them."""
    return list(range(n)) if n <= most else [i * n // most for i in range(most)]
