"""What steering costs in facts and in obedience, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgesteer.evaluate.facts import FactsTable
from edgesteer.evaluate.obedience import Obedience
from edgesteer.evaluate.shares import Share
from edgesteer.report.cells import paragraphs, table
from edgesteer.report.measures import interval, strength

WIDTH = 100


def facts_lines(result: FactsTable, width: int = WIDTH) -> Iterator[str]:
    """The accuracy of each way to ask, and what changed since the unsteered model."""
    rows = [(row.name, row.strength, row.accuracy) for row in result.rows]
    yield from _shares("facts, right", rows, width)
    yield ""
    yield from paragraphs(facts_notes(result), width)


def obedience_lines(result: Obedience, width: int = WIDTH) -> Iterator[str]:
    """The share that each way to ask obeys, the change since the unsteered model, and the kinds of check."""
    rows = [(row.name, row.strength, row.share) for row in result.rows]
    yield from _shares("instructions, obeyed", rows, width)
    yield ""
    head, counts = kinds(result)
    yield from table(("obeyed, by kind", *head[1:]), counts, width=width)
    yield ""
    yield from paragraphs(obedience_notes(result), width)


def kinds(result: Obedience) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """A head, and for each kind of check how many instructions have it, and how many of them are obeyed."""
    counted = result.kinds.items()
    rows = [(kind, str(n), *(str(row.kinds[kind]) for row in result.rows)) for kind, n in counted]
    return ("", "of", *(row.name for row in result.rows)), rows


def facts_notes(result: FactsTable) -> list[str]:
    """What was measured, and rows that changed nothing."""
    n = len(result.questions)
    first = f"{n} questions, by likelihood; guesses would be right in {result.chance:.0%}."
    return [first, *_unchanged([(row.name, row.strength, row.accuracy) for row in result.rows], n)]


def obedience_notes(result: Obedience) -> list[str]:
    """What was measured, replies that were cut, and rows that changed nothing."""
    n = len(result.prompts)
    notes = [f"{n} instructions, greedy, at most {result.max_tokens} tokens."]
    cut = ", ".join(f"{row.name} {row.cut}" for row in result.rows if row.cut)
    if cut:
        notes.append(f"Replies that the limit cut, and that count as they stand: {cut}.")
    return [*notes, *_unchanged([(row.name, row.strength, row.share) for row in result.rows], n)]


_Rows = Sequence[tuple[str, float | None, Share]]


def _shares(title: str, rows: _Rows, width: int) -> Iterator[str]:
    head = ("", "strength", title, "minus unsteered, points", "lost", "gained")
    cells = [_cells(*row) for row in rows]
    cells[0] = (*cells[0][:3], "", "", "")
    yield from table(head, cells, left=(0, 2, 3), width=width)


def _cells(name: str, at: float | None, share: Share) -> tuple[str, ...]:
    percent = interval(share.estimate, 1, factor=100, unit=" %")
    points = interval(share.minus_unsteered, 1, "+", 100)
    return name, strength(at), percent, points, str(share.lost), str(share.gained)


def _unchanged(rows: _Rows, n: int) -> list[str]:
    names = [name for name, _, share in rows[1:] if share.lost == share.gained == 0]
    if not names:
        return []
    return [f"{', '.join(names)}: no question changed; of others, up to about {3 / n:.1%} might."]
