"""An evaluation as text for a terminal: one measurement after the other."""

from __future__ import annotations

from collections.abc import Iterator

from edgesteer.evaluate.evaluation import Evaluation
from edgesteer.report import conversations, head_to_head, transfer
from edgesteer.report.side_effects import facts_lines, obedience_lines


def lines(result: Evaluation) -> Iterator[str]:
    """The whole report."""
    parts = [
        head_to_head.lines(result.replies) if result.replies else None,
        conversations.lines(result.conversations) if result.conversations else None,
        facts_lines(result.facts) if result.facts else None,
        obedience_lines(result.instructions) if result.instructions else None,
        transfer.lines(result.transfer) if result.transfer else None,
    ]
    for i, part in enumerate(filter(None, parts)):
        if i:
            yield ""
        yield from part
