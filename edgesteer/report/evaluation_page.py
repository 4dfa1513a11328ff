"""A whole evaluation as an HTML page: for each measurement its figures, bars with intervals, and notes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from edgesteer.evaluate import Table
from edgesteer.evaluate.conversation_table import ConversationTable
from edgesteer.evaluate.evaluation import Evaluation
from edgesteer.evaluate.facts import FactsTable
from edgesteer.evaluate.intervals import Estimate
from edgesteer.evaluate.obedience import Obedience
from edgesteer.evaluate.shares import Share
from edgesteer.evaluate.transfer import Transfer
from edgesteer.report import charts, conversations, head_to_head, side_effects, transfer
from edgesteer.report.charts import drawn
from edgesteer.report.html import Cell, render
from edgesteer.report.measures import bar, cell, explained, strength, title_of, unit_of
from edgesteer.report.svg import Drawing

_NONE = Estimate(math.nan, math.nan, math.nan)


class Figures(NamedTuple):
    """A table of the page."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]


class Section(NamedTuple):
    """A measurement. details: tables that are folded. measures: (name, meaning). replies: (question,
    [(row, reply)])."""

    title: str
    tables: Sequence[Figures]
    charts: Sequence[Drawing | None]
    notes: Sequence[str]
    details: Sequence[Figures] = ()
    measures: Sequence[tuple[str, str]] = ()
    replies: Sequence[tuple[str, Sequence[tuple[str, str]]]] = ()


def page(result: Evaluation) -> str:
    """The document."""
    return render(
        "evaluation",
        title=f"Evaluation on {result.model.name}",
        model=result.model,
        trait=result.trait,
        sections=list(_sections(result)),
    )


def _sections(result: Evaluation) -> Iterator[Section]:
    if result.replies:
        yield _replies(result.replies)
    if result.conversations:
        yield _conversations(result.conversations)
    if result.facts:
        yield _facts(result.facts)
    if result.instructions:
        yield _instructions(result.instructions)
    if result.transfer:
        yield _transfer(result.transfer)


# -- replies to single questions -------------------------------------------------------------------


def _replies(table: Table) -> Section:
    keys = ["trait", "coherence", *head_to_head.extra(table)]
    return Section(
        "Replies",
        list(_reply_tables(table, keys)),
        [_bars(key, [(row.name, row.estimates[key]) for row in table.rows]) for key in keys],
        head_to_head.notes(table),
        measures=explained(keys),
        replies=[
            (question, [(row.name, row.replies[i]) for row in table.rows])
            for i, question in enumerate(table.questions)
        ],
    )


def _reply_tables(table: Table, keys: Sequence[str]) -> Iterator[Figures]:
    head = ("", "strength", *(text for key in keys for text in (title_of(key), "minus prompt")))
    prompt, nothing = table.rows[1], dict.fromkeys(keys, _NONE)
    yield Figures(
        "Means over the replies with 95 % intervals over the questions; differences are paired by question.",
        head,
        [
            (
                row.name,
                strength(row.strength),
                *_pairs(keys, row.estimates, nothing if row is prompt else row.minus_prompt),
            )
            for row in table.rows
        ],
    )
    if any(row.matched for row in table.rows):
        rows = [
            (row.name, strength(at.strength), *_pairs(keys, at.estimates, at.minus_prompt))
            for row in table.rows
            if (at := row.matched)
        ]
        yield Figures("The same at the prompt's coherence.", head, rows)
    for name in dict.fromkeys(name for row in table.rows for name in row.judged):
        judged = [
            (row.name, strength(own.strength), *_pairs(["alignment"], own.estimates, own.minus_prompt, 1))
            for row in table.rows
            if (own := row.judged.get(name))
        ]
        yield Figures(f"{name}, as the judge sees it", ("", "strength", "alignment", "minus prompt"), judged)
    if table.snapshot:
        yield Figures(
            "What the prompt costs, and what it costs if its KV is computed once and kept",
            head_to_head.SNAPSHOT_HEAD,
            head_to_head.snapshot_rows(table.snapshot),
        )


# -- conversations ---------------------------------------------------------------------------------

_TURN_UNITS = {"words": "words in a reply", "begins": "share of replies that begin like an earlier one"}


def _conversations(table: ConversationTable) -> Section:
    rows = [
        (
            row.name,
            strength(row.strength),
            cell(row.trait_kept, 0, factor=100),
            cell(row.of_prompt, 0, factor=100),
            cell(row.over_turns["coherence"]),
            cell(row.over_turns_minus_prompt["coherence"], sign="+"),
            f"{row.n_equal} of {row.n_replies}",
            f"{row.n_begin_alike} of {row.n_replies}",
        )
        for row in table.rows
    ]
    shares = ("trait kept, %", "of the prompt's, %")
    head = ("", "strength", *shares, "coherence", "minus prompt", "equal", "alike")
    return Section(
        "Conversations",
        [Figures("Over all turns; 95 % intervals over the conversations.", head, rows)],
        list(_curves(table)),
        conversations.notes(table),
        details=list(_by_turn(table)),
        replies=[
            (
                f"{script}, turn {t + 1}: {question}",
                [(row.name, row.replies[i][t]) for row in table.rows if t < len(row.replies[i])],
            )
            for i, (script, questions) in enumerate(zip(table.scripts, table.questions, strict=False))
            for t, question in enumerate(questions)
        ],
    )


def _shown(table: ConversationTable) -> list[str]:
    return [name for name in conversations.BY_TURN if any(name in row.turns for row in table.rows)]


def _by_turn(table: ConversationTable) -> Iterator[Figures]:
    for name in _shown(table):
        digits = conversations.BY_TURN[name]
        rows = [row for row in table.rows if name in row.turns]
        yield Figures(
            f"{title_of(name)}, turn by turn",
            ("turn", *(row.name for row in rows)),
            [(str(t + 1), *(cell(row.turns[name][t], digits) for row in rows)) for t in range(table.turns)],
        )


def _curves(table: ConversationTable) -> Iterator[Drawing | None]:
    if table.turns < 2:
        return
    for name in _shown(table):
        series = [
            charts.Series(row.name, [(t + 1.0, one.value) for t, one in enumerate(row.turns[name])])
            for row in table.rows
        ]
        title, unit = f"{title_of(name)} over the turns", _TURN_UNITS.get(name) or unit_of(name)
        ticks = [t + 1.0 for t in range(table.turns)]
        yield drawn(charts.lines, title, "turn", unit, series, x_ticks=ticks)


# -- facts and instructions ------------------------------------------------------------------------


def _facts(result: FactsTable) -> Section:
    rows = [(row.name, row.strength, row.accuracy) for row in result.rows]
    return _shares("Facts", "right", rows, side_effects.facts_notes(result))


def _instructions(result: Obedience) -> Section:
    rows = [(row.name, row.strength, row.share) for row in result.rows]
    section = _shares("Instructions", "obeyed", rows, side_effects.obedience_notes(result))
    kinds = Figures("Obeyed, by the kind of check", *side_effects.kinds(result))
    verdict = {True: "obeyed", False: "not obeyed"}
    replies = [
        (prompt, [(f"{row.name}: {verdict[row.obeyed[i]]}", row.replies[i]) for row in result.rows])
        for i, prompt in enumerate(result.prompts)
    ]
    return section._replace(tables=[*section.tables, kinds], replies=replies)


def _shares(
    title: str, verb: str, rows: Sequence[tuple[str, float | None, Share]], notes: Sequence[str]
) -> Section:
    cells = [
        (
            name,
            strength(at),
            cell(share.estimate, 1, factor=100),
            *(
                (cell(share.minus_unsteered, 1, "+", 100), str(share.lost), str(share.gained))
                if i
                else ("", "", "")
            ),
        )
        for i, (name, at, share) in enumerate(rows)
    ]
    head = ("", "strength", f"{verb}, %", "minus unsteered, points", "lost", "gained")
    caption = "Shares with 95 % intervals over the questions; differences are paired by question."
    bars = [(name, share.estimate) for name, _, share in rows]
    return Section(title, [Figures(caption, head, cells)], [_bars(verb, bars, "percent", 100)], notes)


# -- other quantizations ---------------------------------------------------------------------------


def _transfer(result: Transfer) -> Section:
    keys = ("trait", "coherence", "kl")
    nothing = dict.fromkeys(keys, _NONE)
    rows = [
        (
            trial.file_type,
            f"{trial.file_bytes / 1e6:.1f}",
            *_pairs(keys, trial.estimates, trial.minus_first if trial.copy else nothing),
        )
        for trial in result.trials
    ]
    first = f"minus {result.trials[0].file_type}"
    head = ("", "MB", "trait", first, "coherence", first, "KL from unsteered", first)
    return Section(
        "Other quantizations",
        [Figures("95 % intervals over the questions; differences are paired by question.", head, rows)],
        [
            _bars(
                "KL from unsteered" if key == "kl" else key,
                [(trial.file_type, trial.estimates[key]) for trial in result.trials],
                "nats per token" if key == "kl" else None,
            )
            for key in keys
        ],
        transfer.notes(result),
    )


# -- cells and charts ------------------------------------------------------------------------------


def _bars(
    key: str, rows: Iterable[tuple[str, Estimate]], unit: str | None = None, factor: float = 1
) -> Drawing | None:
    bars = [bar(name, one, factor) for name, one in rows]
    return drawn(charts.bars, title_of(key), unit or unit_of(key), bars)


def _pairs(
    keys: Sequence[str], own: Mapping[str, Estimate], minus: Mapping[str, Estimate], digits: int = 2
) -> Iterator[Cell | str]:
    """For each measure its value and its difference."""
    for key in keys:
        yield cell(own[key], digits)
        yield cell(minus[key], digits, "+")
