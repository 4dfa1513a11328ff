"""An adaptation as an HTML page: a radar of scores, their numbers, and how each was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from edgesteer.evaluate.adaptation import Adaptation
from edgesteer.evaluate.adaptation.criteria import AXES, UNADAPTED, Adapted
from edgesteer.evaluate.intervals import Estimate
from edgesteer.report import charts
from edgesteer.report.html import Cell, render
from edgesteer.report.svg import Drawing

_NONE = "–"


class Figure(NamedTuple):
    """One figure: its axis, its name, and a cell for each row of the Adaptation."""

    axis: str
    name: str
    cells: tuple[Cell, ...]


def page(title: str, adaptation: Adaptation) -> str:
    """The document. Raises ValueError if only the unadapted model was measured."""
    rows = adaptation.rows
    # Without the unadapted model, which scores 1 on every axis but the effect.
    scored = [(label(row), row.scores) for row in rows if row.kind != UNADAPTED]
    return render(
        "adaptation",
        title=title,
        adaptation=adaptation,
        radar=charts.radar(
            "Scores: 1, at the rim, is best",
            [axis.name for axis in AXES],
            [(name, list(each.values())) for name, each in scored],
        ),
        unscored=[
            f"{name}: {', '.join(axis for axis, score in each.items() if score is None)}"
            for name, each in scored
            if None in each.values()
        ],
        trade_off=_trade_off(rows),
        numbers_head=("", *(Cell(row.name, note=_kind_and_strength(row)) for row in rows)),
        numbers=list(_numbers(rows)),
        axes=[(axis.name, axis.measured, axis.scored) for axis in AXES],
        passages=_passages(rows),
        replies=[(label(row), row.effect.example) for row in rows],
    )


def label(row: Adapted) -> str:
    """A row's name, with its kind and strength unless the name already says them."""
    more = _kind_and_strength(row)
    return f"{row.name} ({more})" if more else row.name


def _kind_and_strength(row: Adapted) -> str:
    kind = [row.kind] if row.kind != row.name else []
    return ", ".join([*kind, *([] if row.strength is None else [f"{row.strength:.3g}"])])


def _trade_off(rows: Sequence[Adapted]) -> Drawing:
    """The effect against the change of unrelated text."""
    ordered = sorted(
        rows, key=lambda row: row.kind == UNADAPTED
    )  # in the order, so in the colours, of the radar
    marks = [charts.Series(label(row), [(row.drift.kl.value, row.effect.trait.value)]) for row in ordered]
    title = "Effect against side effect: up and left is best"
    return charts.lines(
        title, "KL on unrelated text, nats per token", "trait, nats per token", [], marks=marks
    )


def _numbers(rows: Sequence[Adapted]) -> Iterator[tuple[Cell, ...]]:
    """A column for each row of the Adaptation; the score of each axis above its numbers."""
    every = figures(rows)
    each = [row.scores for row in rows]
    for axis in AXES:
        of_axis = [one[axis.name] for one in each]
        texts = [axis.name, *(_NONE if score is None else f"{score:.2f}" for score in of_axis)]
        yield tuple(Cell(text, kind="score") for text in texts)
        yield from ((Cell(figure.name), *figure.cells) for figure in every if figure.axis == axis.name)


def figures(rows: Sequence[Adapted]) -> list[Figure]:
    """Every number, in the order of the axes."""

    def figure(axis: str, name: str, cell: Callable[[Adapted], str | Cell]) -> Figure:
        cells = (cell(row) for row in rows)
        return Figure(axis, name, tuple(one if isinstance(one, Cell) else Cell(one) for one in cells))

    return [
        figure("reversibility", "same bits after switching off", _bits),
        figure("reversibility", "seconds to go back", lambda r: f"{r.reversal.seconds:.3f}"),
        figure(
            "reversibility", "read from the model file again", lambda r: _bytes(r.reversal.reloaded_bytes)
        ),
        figure(
            "reversibility", "largest logit difference, KV kept", lambda r: _small(r.reversal.kept_difference)
        ),
        figure("specificity", "KL on unrelated text, nats per token", lambda r: _estimate(r.drift.kl, 3)),
        figure("specificity", "same most likely token", lambda r: f"{100 * r.drift.same_top:.1f} %"),
        figure("effect", "trait, nats per token", lambda r: _estimate(r.effect.trait)),
        figure("coherence", "coherence, nats per token", lambda r: _estimate(r.effect.coherence)),
        figure("coherence", "distinct-2", lambda r: f"{r.effect.distinct2:.2f}"),
        figure("compute", "time to first token, ratio", lambda r: _ratio(r, "first_token_ratio")),
        figure("compute", "time per token, ratio", lambda r: _ratio(r, "token_ratio")),
        figure("compute", "time of a reply, ratio", lambda r: _ratio(r, "reply_ratio")),
        figure("memory", "file", lambda r: _bytes(r.memory.artifact_bytes)),
        figure("memory", "held in memory", lambda r: _bytes(r.memory.held_bytes)),
        figure("memory", "KV cache of what it adds, a sequence", lambda r: _bytes(r.memory.kv_bytes)),
        figure("memory", "tokens beyond the plain prompt", lambda r: f"{r.memory.context_tokens:.0f}"),
        figure("data", "tokens a person wrote", lambda r: _count(r, "given_tokens")),
        figure("data", "replies learnt from", lambda r: _count(r, "replies")),
        figure("data", "tokens of them", lambda r: _count(r, "tokens")),
        figure("data", "source", lambda r: _NONE if r.data is None else r.data.source),
    ]


def _bits(row: Adapted) -> str:
    back = row.reversal
    if not back.bitwise:
        return f"no, a logit by {back.largest_difference:.2g}"
    return "yes, opened anew" if back.reloaded_bytes else "yes"


def _ratio(row: Adapted, name: str) -> str:
    return _NONE if row.speed is None else f"{getattr(row.speed, name):.2f}"


def _count(row: Adapted, name: str) -> str:
    if row.data is None:
        return _NONE
    value = getattr(row.data, name)
    return "not stated" if value is None and name == "tokens" else _NONE if value is None else f"{value}"


def _estimate(estimate: Estimate, digits: int = 2) -> Cell:
    interval = f"[{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"
    return Cell(f"{estimate.value:.{digits}f}", note=interval)


def _small(value: float | None) -> str:
    return _NONE if value is None else f"{value:.2g}"


def _bytes(value: float | None) -> str:
    if value is None:
        return "not known"
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B" if value else "0"


def _passages(rows: Sequence[Adapted]) -> Drawing:
    titles = list(rows[0].drift.by_passage)
    adapted = [row for row in rows if row.kind != UNADAPTED]
    values = [[row.drift.by_passage.get(title) for title in titles] for row in adapted]
    return charts.heat("KL in nats per token", [label(row) for row in adapted], titles, values)
