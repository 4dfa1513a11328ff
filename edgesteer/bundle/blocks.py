"""Knows how block numbers read to people. In: ascending numbers; out: text for messages, cards and tables."""

from __future__ import annotations

from collections.abc import Iterable


def spans(blocks: Iterable[int]) -> str:
    """Ascending block numbers, runs drawn together: [1, 2, 3, 7] -> "1-3, 7"; "" for none."""
    runs: list[list[int]] = []
    for block in blocks:
        if runs and block == runs[-1][1] + 1:
            runs[-1][1] = block
        else:
            runs.append([block, block])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
