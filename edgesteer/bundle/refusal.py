"""Text for messages: what a refusal says, and how strings and block numbers from a file stand in one line."""

from __future__ import annotations

from collections.abc import Iterable

from edgesteer.errors import BundleError

FETCH_AGAIN = "fetch or build the file again"
"""The remedy for damage that only the producer of the file can undo."""

_LONGEST = 160


def one_line(text: object) -> str:
    """Text from a file as it may stand in a message: printable, on one line, of bounded length."""
    whole = str(text)
    return _printable(whole[:_LONGEST]) + ("..." if len(whole) > _LONGEST else "")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def refusal(where: str, found: str, expected: str, remedy: str = FETCH_AGAIN) -> BundleError:
    """The error to raise for the file (or `file: member`) `where`; its text is one line."""
    return BundleError(
        f"{_printable(where)}: found {one_line(found)}; expected {one_line(expected)}; {remedy}"
    )


def spans(blocks: Iterable[int]) -> str:
    """Ascending block numbers, runs drawn together: [1, 2, 3, 7] -> "1-3, 7"; "" for none."""
    runs: list[list[int]] = []
    for block in blocks:
        if runs and block == runs[-1][1] + 1:
            runs[-1][1] = block
        else:
            runs.append([block, block])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
