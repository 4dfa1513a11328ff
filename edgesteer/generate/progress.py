"""Pieces of a whole: of a progress that several works share, of a list that is too long.

In:  numbers. Out: a narrower progress function; indices. Pure.
"""

from __future__ import annotations

from collections.abc import Callable

Done = Callable[[float], None]


def portion(progress: Done, first: float, size: float, whole: float) -> Done:
    """A progress function for a piece of the whole, which lies at first .. first + size of it."""
    return lambda part: progress((first + size * part) / whole)


def spread(n: int, most: int) -> list[int]:
    """At most `most` of the indices 0 .. n-1, evenly spaced, the first always among them."""
    return list(range(n)) if n <= most else [i * n // most for i in range(most)]
