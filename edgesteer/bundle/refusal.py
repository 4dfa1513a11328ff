"""How this room says no: one line with the file, what was found, what was expected, and the remedy.

In: four pieces of text, some of them from a hostile file. Out: a BundleError that prints on one line.
"""

from __future__ import annotations

from edgesteer.errors import BundleError

FETCH_AGAIN = "fetch or build the file again"
"""The remedy for damage that only the producer of the file can undo."""

_LONGEST = 160


def one_line(text: object) -> str:
    """Text from a file as it may stand in a message: printable, on one line, of bounded length."""
    shown = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text)[:_LONGEST]
    )
    return shown if len(str(text)) <= _LONGEST else shown + "..."


def refusal(where: str, found: str, expected: str, remedy: str = FETCH_AGAIN) -> BundleError:
    """The error to raise for the file (or `file: member`) `where`."""
    path = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in where)
    return BundleError(f"{path}: found {one_line(found)}; expected {one_line(expected)}; {remedy}")
