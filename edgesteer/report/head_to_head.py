"""A head-to-head as tables of at most 100 columns for a terminal, and the notes that its page shares."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from edgesteer.evaluate import Row, Table
from edgesteer.evaluate.controls import GUIDED, RANDOM
from edgesteer.evaluate.snapshot import SnapshotCost
from edgesteer.report import cells
from edgesteer.report.cells import table as columns
from edgesteer.report.measures import interval, number, strength

_WIDTH = 100
_NAME, _CELL = 18, 31  # columns of a row's name and of an estimate
_HEAD = ("", "strength", " trait", "coherence", "nll0", "distinct-2", "words", "+tokens", "first")
_WIDTHS = (_NAME, 8, 24, 9, 5, 10, 5, 7, 6)

ALIGNMENT = "judge: alignment"
# Not shown, since "judge: harmonic" is made of them.
_PARTS = ("judge: concept", "judge: instruction", "judge: fluency")

_CAPPED = 0.025  # the share of the resamples beyond either end of a 95 % interval


def lines(table: Table) -> Iterator[str]:
    """The whole report."""
    yield from columns(_HEAD, [_figures(row) for row in table.rows], widths=_WIDTHS, left=(0, 2), gap=1)
    prompt = table.rows[1]
    for key in ("trait", "coherence", *extra(table)):
        rows = [
            (row.name, interval(row.estimates[key]), "" if row is prompt else interval(row.minus_prompt[key]))
            for row in table.rows
        ]
        yield ""
        yield from columns(
            ("", _heading(key), "minus prompt"), rows, widths=(_NAME, _CELL, _CELL), left=(0, 1, 2), gap=1
        )
    if any(row.matched for row in table.rows):
        yield from _at_prompts_coherence(table)
    yield from _judged(table)
    if table.snapshot:
        yield ""
        yield from columns(SNAPSHOT_HEAD, snapshot_rows(table.snapshot), width=_WIDTH)
    yield ""
    yield from cells.paragraphs(notes(table), _WIDTH)


def _figures(row: Row) -> tuple[str, ...]:
    return (
        row.name,
        strength(row.strength),
        f" {interval(row.estimates['trait'])}",
        number(row.coherence),
        number(row.nll0),
        number(row.distinct2),
        f"{row.words:.1f}",
        f"{row.context_tokens:.0f}",
        "" if row.first_token_seconds is None else f"{row.first_token_seconds:.2f}s",
    )


def _at_prompts_coherence(table: Table) -> Iterator[str]:
    """Each row's estimates at the prompt's coherence, and the strength that gives it."""
    prompt = table.rows[1]
    for key in ("trait", *extra(table)):
        rows = [("", "at equal coherence", "", ""), (prompt.name, interval(prompt.estimates[key]), "", "")]
        for row in table.rows:
            if (at := row.matched) is not None:
                difference = interval(at.minus_prompt[key])
                rows.append((row.name, interval(at.estimates[key]), difference, strength(at.strength)))
        head = ("", _heading(key), "minus prompt", "strength")
        yield ""
        yield from columns(head, rows, widths=(_NAME, _CELL, _CELL, 8), left=(0, 1, 2), gap=1)


def _judged(table: Table) -> Iterator[str]:
    """The alignment that a language model sees, at the coherence that it sees."""
    prompt = table.rows[1]
    for name in dict.fromkeys(name for row in table.rows for name in row.judged):
        rows = [(prompt.name, interval(prompt.estimates[ALIGNMENT]), "", "")]
        for row in table.rows:
            if (at := row.judged.get(name)) is None:
                continue
            if math.isnan(at.strength):
                rows.append((row.name, "unsteered is less coherent", "", ""))
            else:
                own, difference = (interval(each["alignment"]) for each in (at.estimates, at.minus_prompt))
                rows.append((row.name, own, difference, strength(at.strength)))
        head = ("", name, "minus prompt", "strength")
        yield ""
        yield from columns(head, rows, widths=(_NAME, _CELL, _CELL, 8), left=(0, 1, 2), gap=1)


SNAPSHOT_HEAD = ("", "kept, tokens", "read before a reply", "first token", "each further token")


def snapshot_rows(cost: SnapshotCost) -> list[tuple[str, ...]]:
    """What it costs and saves to keep the prompt's KV, as cells below SNAPSHOT_HEAD."""
    size = "" if cost.kv_bytes is None else f" ({cost.kv_bytes / 1e6:.1f} MB)"
    kept = {"snapshot": f"{cost.cells}{size}"}
    names = {"unsteered": "unsteered", "prompt": "prompt", "snapshot": "prompt, its KV kept"}
    return [
        (
            shown,
            kept.get(name, ""),
            f"{cost.prefill[name]:.0f} tokens",
            _milliseconds(cost.first_token_seconds, name),
            _milliseconds(cost.token_seconds, name),
        )
        for name, shown in names.items()
    ]


def _milliseconds(seconds: Mapping[str, float] | None, name: str) -> str:
    return "" if seconds is None else f"{1000 * seconds[name]:.1f} ms"


def _heading(key: str) -> str:
    """`key` in one column. Of a count, the name is shortened and not the measure behind it."""
    for measure in (" per 100 words", " in replies"):
        if key.endswith(measure):
            return cells.cut(key.removesuffix(measure), _CELL - len(measure)) + measure
    return key


def extra(table: Table) -> list[str]:
    """The keys of estimates that only some tables have, without those that another one is made of."""
    others = ("trait", "coherence", "nll0", "distinct2", "words", *_PARTS)
    return [key for key in table.rows[0].estimates if key not in others]


def notes(table: Table) -> list[str]:
    """The number of questions, and remarks on rows with unusual figures."""
    out = [f"{len(table.questions)} questions, greedy, at most {table.max_tokens} tokens."]
    if table.chance is None:
        out.append("Relevance is not measured: it needs at least three questions, all different.")
    else:
        out.append(f"If every reply were the same, {table.chance:.0%} would be matched to their questions.")
    if table.judge:
        out.append(f"{table.judge.summary[:1].upper()}{table.judge.summary[1:]}.")
    if table.snapshot:
        out.append(
            f"{RANDOM}: {table.rows[2].name} with other directions of the same norms, which should show no "
            f"trait. {GUIDED}: log p + strength (log p prompted - log p), two sequences at a time; how far "
            "the prompt's effect can be amplified. The prompt with its KV kept gives the prompt's replies."
        )
    for row in table.rows:
        if row.empty:
            out.append(f"{row.name}: {row.empty} empty replies.")
        if (at := row.matched) and at.limited:
            out.append(
                f"{row.name}: as coherent as the prompt at the highest strength tried; a higher one might be "
                "too."
            )
        elif at and at.capped > _CAPPED:
            out.append(
                f"{row.name}: in {at.capped:.0%} of the resamples as coherent as the prompt at the highest "
                "strength tried; its intervals at equal coherence may be too short."
            )
        for name, judged in row.judged.items():
            if judged.limited:
                out.append(
                    f"{row.name}: {name} is at the highest strength tried; a higher one might keep it too."
                )
        if unjudged := sum(value != value for value in row.by_reply.get(ALIGNMENT, ())):
            out.append(f"{row.name}: {unjudged} replies without a score for alignment.")
    return out
