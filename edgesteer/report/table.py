"""A head-to-head for people: lines of at most 100 columns.

In:  an evaluate.Table. Out: lines of text without control characters of their own.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgesteer.evaluate import Row, Table
    from edgesteer.evaluate.intervals import Estimate


_WIDTH, _NAME, _CELL = 100, 22, 32

# Of an interval of 95 % each end is a share of this.
_CAPPED = 0.025


def lines(table: Table) -> Iterator[str]:
    """The table for people, in at most 100 columns."""
    yield (
        f"{'':{_NAME}}{'strength':>9}  {'trait':<20}{'coherence':>9}{'nll0':>6}{'distinct-2':>11}"
        f"{'words':>6}{'+tokens':>8}{'first':>7}"
    )
    yield from map(_line, table.rows)
    for key in ("trait", "coherence", *extra(table)):
        yield from ("", f"{_fit(key, _NAME + _CELL)}minus prompt")
        yield from (_block_line(row, key, row is table.rows[1]) for row in table.rows)
    if any(row.matched for row in table.rows):
        yield from _at_prompts_coherence(table)
    yield ""
    for note in notes(table):
        yield from textwrap.wrap(note, _WIDTH)


def _line(row: Row) -> str:
    strength = "" if row.strength is None else f"{row.strength:.3g}"
    first = "" if row.first_token_seconds is None else f"{row.first_token_seconds:.2f}s"
    return (
        f"{_name(row)}{strength:>9}  {_cell(row.estimates['trait']):<20}{row.coherence:>9.2f}{row.nll0:>6.2f}"
        f"{row.distinct2:>11.2f}{row.words:>6.1f}{row.context_tokens:>8.0f}{first:>7}"
    )


def _block_line(row: Row, key: str, is_prompt: bool) -> str:
    here = f"{_name(row)}{_cell(row.estimates[key])}"
    return here if is_prompt else f"{here:{_NAME + _CELL}}{_cell(row.minus_prompt[key])}"


def _at_prompts_coherence(table: Table) -> Iterator[str]:
    """What each bundle brings at the prompt's coherence, and at which strength that is."""
    for key in ("trait", *extra(table)):
        yield ""
        yield f"{_fit(f'{key}, at equal coherence', _NAME + _CELL)}{'minus prompt':{_CELL}}strength"
        yield f"{_name(table.rows[1])}{_cell(table.rows[1].estimates[key])}"
        for row in table.rows:
            if (at := row.matched) is not None:
                here = f"{_name(row)}{_cell(at.estimates[key])}"
                yield f"{here:{_NAME + _CELL}}{_cell(at.minus_prompt[key]):{_CELL}}{at.strength:>8.3g}"


def extra(table: Table) -> list[str]:
    """The estimates that only some tables have."""
    always = ("trait", "coherence", "nll0", "distinct2", "words")
    return [key for key in table.rows[0].estimates if key not in always]


def _name(row: Row) -> str:
    return _fit(row.name, _NAME)


def _fit(text: str, width: int) -> str:
    """Of this width, with a blank at the end."""
    return f"{text if len(text) < width else text[: width - 2] + '…':{width}}"


def _cell(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def notes(table: Table) -> list[str]:
    """What the figures do not say: the questions first, then what is odd about a row."""
    out = [f"{len(table.questions)} questions, greedy, at most {table.max_tokens} tokens."]
    for row in table.rows:
        if row.empty:
            out.append(f"{row.name}: {row.empty} empty replies.")
        if row.dose and not row.dose.reached:
            out.append(f"{row.name}: no strength was as coherent as the prompt without loops.")
        elif row.dose and row.dose.limited:
            out.append(f"{row.name}: the highest strength of its range.")
        if (at := row.matched) and at.limited:
            out.append(
                f"{row.name}: as coherent as the prompt at the highest strength asked; more might do too."
            )
        elif at and at.capped > _CAPPED:
            out.append(
                f"{row.name}: in {at.capped:.0%} of the resamples as coherent as the prompt at the highest strength "
                "asked; its intervals at equal coherence end too early."
            )
    return out
