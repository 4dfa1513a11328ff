"""A comparison as an HTML page: figures, curves over strength, bars with intervals, costs, replies.

Only the numbers of single tokens need its script.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from edgesteer.evaluate import Comparison, Method, Row
from edgesteer.report import charts
from edgesteer.report.charts import drawn
from edgesteer.report.head_to_head import extra, notes
from edgesteer.report.html import Cell, render
from edgesteer.report.measures import bar, cell, explained, number, strength, title_of, unit_of
from edgesteer.report.palette import LEVELS, Scale
from edgesteer.report.svg import Drawing

_SUMMARY = (
    "", "strength", "trait", "minus prompt", "coherence", "minus prompt", "nll0",
    "distinct\N{NON-BREAKING HYPHEN}2", "words",
)  # fmt: skip


class Token(NamedTuple):
    """level: of the trait's score, -8 to 8; trait, coherence: in nats."""

    piece: str
    level: int
    trait: float
    coherence: float

    @property
    def ends_line(self) -> bool:
        return self.piece.endswith("\n")


class Reply(NamedTuple):
    """One way's reply to one question."""

    label: str
    trait: float
    coherence: float
    tokens: list[Token]


def page(comparison: Comparison) -> str:
    """The document."""
    table, extras = comparison.table, extra(comparison.table)
    scale = Scale.of_numbers(
        [score for row in table.rows for one in row.scores.by_token for score in one.trait]
    )
    return render(
        "comparison",
        title=f"Comparison: {comparison.suite}",
        levels=LEVELS,
        labels=[label(method) for method in comparison.methods],
        model=comparison.model,
        max_tokens=table.max_tokens,
        trait=table.trait,
        summary_head=(*_SUMMARY, *(head for key in extras for head in (key, "minus prompt"))),
        summary=[_figures(row, method, extras) for row, method in comparison],
        notes=" ".join(notes(table)[1:]),
        measures=explained(["trait", "coherence", "nll0", "distinct2", *extras]),
        curves=_curves(comparison),
        curve_rows=list(_curve_rows(comparison)),
        curve_tokens=comparison.curve_tokens,
        bars=list(_bars(comparison)),
        costs_head=_COSTS,
        costs=list(_costs(comparison)),
        trait_cost=_trait_cost(comparison),
        limit=scale.limit,
        questions=[
            (question, [_reply(comparison, i, way, scale) for way in range(len(comparison.methods))])
            for i, question in enumerate(table.questions)
        ],
    )


def label(method: Method) -> str:
    """A way's name, and the kind of its bundle."""
    return f"{method.name} ({method.kind})" if method.steers else method.name


def _reply(comparison: Comparison, i: int, way: int, scale: Scale) -> Reply:
    scores, method = comparison.table.rows[way].scores, comparison.methods[way]
    scored = scores.by_token[i]
    tokens = [
        Token(piece, scale.level(trait), trait, coherence)
        for piece, trait, coherence in zip(method.pieces[i], scored.trait, scored.coherence, strict=True)
    ]
    return Reply(label(method), scores.trait[i], scores.coherence[i], tokens)


# -- figures ---------------------------------------------------------------------------------------


def _figures(row: Row, method: Method, extras: list[str]) -> tuple[str | Cell, ...]:
    is_prompt = method.kind == "prompt"
    return (
        label(method),
        strength(row.strength),
        *_compared(row, "trait", is_prompt),
        *_compared(row, "coherence", is_prompt),
        number(row.nll0),
        number(row.distinct2),
        f"{row.words:.1f}",
        *(each for key in extras for each in _compared(row, key, is_prompt)),
    )


def _compared(row: Row, key: str, is_prompt: bool) -> tuple[str | Cell, str | Cell]:
    return cell(row.estimates[key]), "" if is_prompt else cell(row.minus_prompt[key], sign="+")


# -- charts ----------------------------------------------------------------------------------------


def _curves(comparison: Comparison) -> Drawing | None:
    n, n_tokens = len(comparison.curve_questions), comparison.curve_tokens
    return drawn(
        charts.lines,
        f"Trait against coherence over strength: {n} question{'s' * (n != 1)}, {n_tokens} tokens each",
        "coherence, nats per token (left is more coherent)",
        "trait, nats per token",
        [_series(method) for method in comparison.methods if method.steers],
        marks=[_series(method) for method in comparison.methods if not method.steers],
    )


def _series(method: Method) -> charts.Series:
    names = [f"strength {point.strength:g}" if method.steers else "" for point in method.curve]
    return charts.Series(label(method), [(point.coherence, point.trait) for point in method.curve], names)


def _curve_rows(comparison: Comparison) -> Iterator[tuple[str, ...]]:
    for method in comparison.methods:
        for p in method.curve if method.steers else ():
            yield (
                label(method), f"{p.strength:g}", f"{p.trait:.2f}", f"{p.coherence:.2f}", f"{p.distinct2:.2f}"
            )  # fmt: skip


def _bars(comparison: Comparison) -> Iterator[Drawing | None]:
    # In the order, so in the colours, of the curves.
    ordered = sorted(comparison, key=lambda pair: not pair[1].steers)
    for key in ("trait", "coherence", "distinct2", *extra(comparison.table)):
        rows = [bar(label(method), row.estimates[key]) for row, method in ordered]
        yield drawn(charts.bars, title_of(key), unit_of(key), rows)


# -- costs -----------------------------------------------------------------------------------------

_COSTS = (
    "", "context tokens", "to the first token", "each further token", "file",
    "KV cache saved against the prompt",
)  # fmt: skip


def _costs(comparison: Comparison) -> Iterator[tuple[str, ...]]:
    prompt = next(method for method in comparison.methods if method.kind == "prompt")
    for method in comparison.methods:
        cost, prompt_bytes = method.cost, method.prompt_bytes
        yield (
            label(method),
            f"{cost.context_tokens:+.0f}" if cost.context_tokens else "0",
            _milliseconds(cost.first_token_seconds),
            _milliseconds(cost.token_seconds),
            f"{prompt_bytes:,} bytes of text" if prompt_bytes else _bytes(cost.artifact_bytes),
            _saved(prompt.cost.kv_bytes, cost.kv_bytes),
        )


def _trait_cost(comparison: Comparison) -> str:
    """The cost of the trait's sentence by itself."""
    n, per_token = comparison.sentence_tokens, comparison.kv_bytes_per_token
    cache = "" if per_token is None else f", {_bytes(n * per_token)} of KV cache in this model"
    return f"The trait's sentence alone is {n} tokens{cache}."


def _milliseconds(seconds: float | None) -> str:
    return "not measured" if seconds is None else f"{1000 * seconds:.1f} ms"


def _bytes(n: float) -> str:
    return f"{n:,.0f} bytes" if n else "0"


def _saved(prompt: float | None, own: float | None) -> str:
    if prompt is None or own is None:
        return "not known"
    return _bytes(prompt - own)
