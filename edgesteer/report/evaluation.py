"""An evaluation as text for a terminal: one measurement after the other."""

from __future__ import annotations

from collections.abc import Iterator

from edgesteer.evaluate.evaluation import Evaluation
from edgesteer.report import conversations, head_to_head, transfer
from edgesteer.report.side_effects import facts_lines, obedience_lines


def lines(result: Evaluation) -> Iterator[str]:
    """The whole report."""
    parts = (
        (result.replies, head_to_head.lines),
        (result.conversations, conversations.lines),
        (result.facts, facts_lines),
        (result.instructions, obedience_lines),
        (result.transfer, transfer.lines),
    )
    made = [(one, show) for one, show in parts if one is not None]
    for i, (one, show) in enumerate(made):
        if i:
            yield ""
        yield from show(one)  # type: ignore[operator]
