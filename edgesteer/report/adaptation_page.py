"""The adaptation chart as one HTML page: a radar of scores, the numbers behind them, and how each was measured.

In:  an evaluate.adaptation.Adaptation. Out: a document as text; it needs no network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from edgesteer.report import chart
from edgesteer.report.page import document, table, text

if TYPE_CHECKING:
    from edgesteer.evaluate.adaptation import Adaptation, Adapted
    from edgesteer.evaluate.adaptation.criteria import Axis
    from edgesteer.evaluate.intervals import Estimate

_STYLE = """
.numbers td { white-space: pre; vertical-align: top; }
.numbers tbody th { font-weight: 400; padding-left: 1.4rem; vertical-align: top; }
.numbers tr.score th, .numbers tr.score td { font-weight: 700; padding-left: .6rem; border-top: 2px solid var(--line); }
.how th, .how td { text-align: left; white-space: normal; vertical-align: top; }
"""
_NONE = "–"

_UNADAPTED = "unadapted"  # the kind of the row that the others are held against


class Figure(NamedTuple):
    """A number as it is told: its axis, its name, one text a row of the Adaptation."""

    axis: str
    name: str
    told: tuple[str, ...]


def page(title: str, adaptation: Adaptation) -> str:
    """The document. Raises ValueError where nothing but the unadapted model was measured."""
    return document(title, _parts(adaptation), _STYLE)


def label(row: Adapted) -> str:
    """A way's name, with its kind and strength where the name alone does not say them."""
    return f"{row.name} ({more})" if (more := _more(row)) else row.name


def _more(row: Adapted) -> str:
    told = [row.kind] if row.kind != row.name else []
    return ", ".join([*told, *([] if row.strength is None else [f"{row.strength:.3g}"])])


def _head(row: Adapted) -> str:
    return (
        f'{text(row.name)}<br><span class="dim">{text(_more(row))}</span>' if _more(row) else text(row.name)
    )


def _parts(found: Adaptation) -> Iterator[str]:
    n = len(found.questions)
    yield (
        f"<p>{text(found.model)}, adapted to: <q>{text(found.trait)}</q></p>"
        f'<p class="dim">{n} question{"s" if n != 1 else ""}, greedy replies of at most {found.max_tokens} tokens; '
        f"{found.rows[0].drift.tokens} tokens of unrelated text. Brackets are 95 % intervals.</p>"
    )
    yield from _radar(found)
    yield _trade(found.rows)
    yield "<h2>The numbers</h2>"
    yield _numbers(found)
    yield "<h2>How each axis is measured</h2>"
    yield _axes(found.axes)
    yield "<h2>Unrelated text, passage by passage</h2>"
    yield _passages(found.rows)
    yield "<h2>The first reply</h2>"
    yield f"<p>{text(found.questions[0])}</p>"
    for row in found.rows:
        yield f'<p class="dim">{text(label(row))}</p><blockquote>{text(row.effect.example) or _NONE}</blockquote>'


def _radar(adaptation: Adaptation) -> Iterator[str]:
    """Without the unadapted model, which is at the rim of every axis but the effect's."""
    found = [(label(row), row.scores) for row in adaptation.rows if row.kind != _UNADAPTED]
    names = [axis.name for axis in adaptation.axes]
    yield chart.radar("Scores: 1, at the rim, is best", names, [(who, list(s.values())) for who, s in found])
    missing = [
        f"{who}: {', '.join(k for k, v in s.items() if v is None)}" for who, s in found if None in s.values()
    ]
    if missing:
        yield f'<p class="dim">Without a mark, as no number is there: {text("; ".join(missing))}.</p>'
    yield (
        "<p>A score is a stated function of the numbers below. What counts as half is a choice, so read the scores as "
        "a picture of those numbers, and specificity at the effect beside it: an adaptation that does nothing is "
        "perfectly specific.</p>"
    )


def _trade(rows: Sequence[Adapted]) -> str:
    """What is changed besides, at the effect that it has."""
    ordered = sorted(rows, key=lambda row: row.kind == _UNADAPTED)  # so the colours are the radar's
    marks = [chart.Series(label(row), [(row.drift.kl.value, row.effect.trait.value)]) for row in ordered]
    title = "Effect against what else is changed: up and left is best"
    return chart.lines(title, "KL on unrelated text, nats a token", "trait, nats a token", [], marks=marks)


def _numbers(adaptation: Adaptation) -> str:
    """A column a way; each axis' score above its numbers."""
    lines, rows = [], adaptation.rows
    every = [row.scores for row in rows]
    told = figures(rows)
    for axis in adaptation.axes:
        marks = [s[axis.name] for s in every]
        lines.append(("score", axis.name, [_NONE if mark is None else f"{mark:.2f}" for mark in marks]))
        lines += [("", figure.name, list(figure.told)) for figure in told if figure.axis == axis.name]
    head = "".join(f'<th scope="col">{_head(row)}</th>' for row in rows)
    body = "\n".join(
        f'<tr class="{kind}"><th scope="row">{name}</th>'
        + "".join(f"<td>{text(v)}</td>" for v in values)
        + "</tr>"
        for kind, name, values in lines
    )
    return (
        '<div class="wide"><table class="numbers">\n'
        "<caption>Scores in bold, the numbers they are made of below.</caption>\n"
        f'<thead><tr><th scope="col"></th>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    )


def figures(rows: Sequence[Adapted]) -> list[Figure]:
    """Every number, in the order of the axes."""

    def each(axis: str, name: str, tell: object) -> Figure:
        return Figure(axis, name, tuple(tell(row) for row in rows))  # type: ignore[operator]

    return [
        each("reversibility", "same bits after switching off", _bits),
        each("reversibility", "seconds to go back", lambda r: f"{r.reversal.seconds:.3f}"),
        each("reversibility", "read from the model file again", lambda r: _bytes(r.reversal.reloaded_bytes)),
        each(
            "reversibility", "largest logit difference, KV kept", lambda r: _small(r.reversal.kept_difference)
        ),
        each("specificity", "KL on unrelated text, nats a token", lambda r: _estimate(r.drift.kl, 3)),
        each("specificity", "same most likely token", lambda r: f"{100 * r.drift.same_top:.1f} %"),
        each("effect", "trait, nats a token", lambda r: _estimate(r.effect.trait)),
        each("coherence", "coherence, nats a token", lambda r: _estimate(r.effect.coherence)),
        each("coherence", "distinct-2", lambda r: f"{r.effect.distinct2:.2f}"),
        each("compute", "time to first token, ratio", lambda r: _ratio(r, "first_token_ratio")),
        each("compute", "time per token, ratio", lambda r: _ratio(r, "token_ratio")),
        each("compute", "time of a reply, ratio", lambda r: _ratio(r, "reply_ratio")),
        each("memory", "file", lambda r: _bytes(r.memory.artifact_bytes)),
        each("memory", "held in memory", lambda r: _bytes(r.memory.held_bytes)),
        each("memory", "KV cache of what it adds, a sequence", lambda r: _bytes(r.memory.kv_bytes)),
        each("memory", "tokens beyond the plain prompt", lambda r: f"{r.memory.context_tokens:.0f}"),
        each("data", "tokens a person wrote", lambda r: _count(r, "given_tokens")),
        each("data", "replies learnt from", lambda r: _count(r, "replies")),
        each("data", "tokens of them", lambda r: _count(r, "tokens")),
        each("data", "source", lambda r: _NONE if r.data is None else r.data.source),
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


def _estimate(estimate: Estimate, digits: int = 2) -> str:
    return f"{estimate.value:.{digits}f}\n[{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def _small(value: float | None) -> str:
    return _NONE if value is None else f"{value:.2g}"


def _bytes(value: float | None) -> str:
    if value is None:
        return "not known"
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B" if value else "0"


def _axes(axes: Sequence[Axis]) -> str:
    rows = [(axis.name, axis.measured, axis.scored) for axis in axes]
    caption = "Other questions, traits and models would give other numbers."
    return table(caption, ("axis", "measured", "score"), rows, "how")


def _passages(rows: Sequence[Adapted]) -> str:
    titles = list(rows[0].drift.by_passage)
    adapted = [row for row in rows if row.kind != _UNADAPTED]
    values = [[row.drift.by_passage.get(title) for title in titles] for row in adapted]
    return chart.heat("KL in nats a token", [label(row) for row in adapted], titles, values)
