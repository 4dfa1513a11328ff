"""How this room says no: one line with the file, what was found, what was expected, and the remedy.

In: four pieces of text, some of them from a hostile file. Out: a BundleError that prints on one line.
"""

from __future__ import annotations

from edgesteer.errors import BundleError
from edgesteer.text import one_line as one_line
from edgesteer.text import visible

FETCH_AGAIN = "fetch or build the file again"
"""The remedy for damage that only the producer of the file can undo."""


def refusal(where: str, found: str, expected: str, remedy: str = FETCH_AGAIN) -> BundleError:
    """The error to raise for the file (or `file: member`) `where`."""
    return BundleError(f"{visible(where)}: found {one_line(found)}; expected {one_line(expected)}; {remedy}")
