"""Text for messages: what a refusal says, and how strings and block numbers from a file stand in one line."""

from __future__ import annotations

from collections.abc import Iterable

from edgesteer.errors import BundleError
from edgesteer.text import one_line as one_line
from edgesteer.text import visible

FETCH_AGAIN = "fetch or build the file again"
"""The remedy for damage that only the producer of the file can undo."""


def refusal(where: str, found: str, expected: str, remedy: str = FETCH_AGAIN) -> BundleError:
    """The error to raise for the file (or `file: member`) `where`."""
    return BundleError(f"{visible(where)}: found {one_line(found)}; expected {one_line(expected)}; {remedy}")


def spans(blocks: Iterable[int]) -> str:
    """Ascending block numbers, runs drawn together: [1, 2, 3, 7] -> "1-3, 7"; "" for none."""
    runs: list[list[int]] = []
    for block in blocks:
        if runs and block == runs[-1][1] + 1:
            runs[-1][1] = block
        else:
            runs.append([block, block])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
