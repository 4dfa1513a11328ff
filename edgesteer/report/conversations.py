"""Scripted conversations as tables of at most 100 columns for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator

from edgesteer.evaluate.conversation_table import BEGINNING, ConversationRow, ConversationTable
from edgesteer.report.cells import paragraphs
from edgesteer.report.cells import table as columns
from edgesteer.report.measures import interval, number, strength

_WIDTH = 100
_NAME = 18  # columns of a row's name
_HEAD = ("", "strength ", "trait kept", "of the prompt's", "coherence - prompt", "equal", "alike")
_WIDTHS = (_NAME, 9, 17, 20, 21, 7, 7)
# Measures and their decimals.
BY_TURN = {
    "trait": 2,
    "coherence": 2,
    "judge": 2,
    "judge: alignment": 0,
    "judge: coherence": 0,
    "words": 0,
    "begins": 2,
}


def lines(table: ConversationTable) -> Iterator[str]:
    """The whole report."""
    figures = [_figures(row) for row in table.rows]
    yield from columns(_HEAD, figures, widths=_WIDTHS, left=(0, 2, 3, 4), gap=0)
    sizes = (_NAME, *[7] * table.turns)
    for name, decimals in BY_TURN.items():
        shown = [row for row in table.rows if name in row.turns]
        rows = [(row.name, *(number(one.value, decimals) for one in row.turns[name])) for row in shown]
        if not rows:
            continue
        yield ""
        head = (f"{name}, turn", *map(str, range(1, table.turns + 1)))
        if sum(sizes) <= _WIDTH:
            yield from columns(head, rows, widths=sizes, gap=0)
        else:
            yield from columns(head, rows, most=_NAME, width=_WIDTH)
    yield ""
    yield from paragraphs(notes(table), _WIDTH)


def notes(table: ConversationTable) -> list[str]:
    """What was measured, and remarks on empty replies and on conversations that ended early."""
    n, last = len(table.scripts), f"turn {table.turns}"
    kind = f"conversation{'s' * (n != 1)} of {table.turns} turn{'s' * (table.turns != 1)}"
    how = f"temperature {table.temperature:g}" if table.temperature else "greedy"
    out = [
        f"{n} {kind}, {how}, replies of at most {table.max_tokens} tokens. Brackets are 95 % intervals over "
        "the conversations.",
        f"trait kept: the trait in {last} as a share of turn 1; of the prompt's: as a share of the prompt's "
        f"in {last}. equal: replies that equal an earlier one of their conversation; alike: those with the "
        f"same first {BEGINNING} words; begins: their share in each turn.",
    ]
    shares = [share for row in table.rows for share in (row.trait_kept, row.of_prompt)]
    if any(math.isfinite(share.value) and math.isnan(share.low) for share in shares):
        out.append("A share has no interval where the trait that it is a share of may well be none.")
    if table.judge:
        out.append(f"{table.judge.summary[:1].upper()}{table.judge.summary[1:]}.")
    for row in table.rows:
        out += [f"{row.name}: {row.n_empty} empty replies."] if row.n_empty else []
        out += [f"{row.name}: {note}." for note in row.notes]
    return out


def _figures(row: ConversationRow) -> tuple[str, ...]:
    return (
        row.name,
        f"{strength(row.strength)} ",
        interval(row.trait_kept, 0, factor=100, unit="%"),
        interval(row.of_prompt, 0, factor=100, unit="%"),
        interval(row.over_turns_minus_prompt["coherence"]),
        f"{row.n_equal}/{row.n_replies}",
        f"{row.n_begin_alike}/{row.n_replies}",
    )
