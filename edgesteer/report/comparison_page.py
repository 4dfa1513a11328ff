"""A comparison as one HTML page: figures, curves over strength, bars with intervals, costs, replies token by token.

In:  an evaluate.Comparison. Out: a document as text; it needs no network. All but what is told of single tokens is
there without a script.

Model text is untrusted: it is escaped here, and the script sets it as text, never as HTML.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import resources
from typing import TYPE_CHECKING

from edgesteer.report import chart
from edgesteer.report.comparison_replies import level_styles, replies
from edgesteer.report.page import document, table, text
from edgesteer.report.table import extra, notes

if TYPE_CHECKING:
    from edgesteer.evaluate import Comparison, Method, Row
    from edgesteer.evaluate.intervals import Estimate

# What a reader must know of each figure; the long form is generate.measures.
_SEES = {
    "trait": "How much likelier the trait's prompt makes each token, in nats. Sees whatever that prompt brings, "
    "also its topic and length; does not see whether a person would notice.",
    "coherence": "How surprising each token is to the unsteered model, prompted or not, whichever expects it more, "
    "in nats; lower is more coherent. Does not see whether a reply is true or to the point; rewards loops.",
    "nll0": "The same without any prompt: it also punishes the trait itself, so compare it at equal trait.",
    "distinct-2": "Different pairs of tokens over all pairs: 1 repeats nothing. Sees the loops that coherence "
    "rewards; does not see one thing said in ever new words.",
    "counts": "Matches of a word list or expression. They count words, not sense: a style without its stock words "
    "scores 0.",
    "sentiment": "VADER's word list, -1 to 1. Does not see irony, or a mood without its words; English only.",
}
_UNITS = {
    "trait": "nats a token, higher is more of the trait",
    "coherence": "nats a token, lower is more coherent",
    "distinct2": "share of pairs, 1 repeats nothing",
    "sentiment": "-1 to 1",
}


def page(comparison: Comparison) -> str:
    """The document."""
    style = _file("comparison.css") + level_styles(len(comparison.methods))
    title = f"Comparison: {comparison.suite}"
    return document(title, _parts(comparison), style, _file("comparison.js"))


def label(method: Method) -> str:
    """How a way is called: its bundle and what kind of bundle that is."""
    return f"{method.name} ({method.kind})" if method.steers else method.name


def _parts(comparison: Comparison) -> Iterator[str]:
    told, model = comparison.table, comparison.model
    yield (
        f'<p class="dim">{text(model.name)}, {text(model.file_type)}. {len(told.questions)} questions, greedy replies '
        f"of at most {told.max_tokens} tokens. The trait, and the prompt that the bundles are compared with:</p>"
        f"<blockquote>{text(told.trait)}</blockquote>"
    )
    yield from _summary(comparison)
    yield "<h2>Trait against coherence</h2>"
    yield from _curves(comparison)
    yield "<h2>How sure the figures are</h2>"
    yield f'<div class="charts">{"".join(_bars(comparison))}</div>'
    yield "<h2>What each way costs</h2>"
    yield from _costs(comparison)
    yield "<h2>Replies</h2>"
    yield from replies(comparison, [label(method) for method in comparison.methods])


# -- figures ---------------------------------------------------------------------------------------


def _summary(comparison: Comparison) -> Iterator[str]:
    extras = extra(comparison.table)
    head = (
        "",
        "strength",
        "trait",
        "minus prompt",
        "coherence",
        "minus prompt",
        "nll0",
        "distinct\N{NON-BREAKING HYPHEN}2",
        "words",
    )
    rows = [_figures(row, method, extras) for row, method in comparison]
    yield table(
        "Means over the replies with 95 % intervals over the questions; differences are paired by question.",
        (*head, *map(text, extras)),
        rows,
    )
    told = " ".join(notes(comparison.table)[1:])
    if told:
        yield f"<p>{text(told)}</p>"
    seen = [key for key in _SEES if key not in ("counts", "sentiment")]
    seen += ["counts"] * (len(extras) > ("sentiment" in extras)) + ["sentiment"] * ("sentiment" in extras)
    yield f'<dl class="sees">{"".join(f"<dt>{key}</dt><dd>{_SEES[key]}</dd>" for key in seen)}</dl>'


def _figures(row: Row, method: Method, extras: list[str]) -> tuple[str, ...]:
    is_prompt = method.kind == "prompt"
    return (
        text(label(method)),
        "" if row.strength is None else f"{row.strength:.3g}",
        _cell(row.estimates["trait"]),
        "" if is_prompt else _cell(row.minus_prompt["trait"], "+"),
        _cell(row.estimates["coherence"]),
        "" if is_prompt else _cell(row.minus_prompt["coherence"], "+"),
        f"{row.nll0:.2f}",
        f"{row.distinct2:.2f}",
        f"{row.words:.1f}",
        *(_cell(row.estimates[key]) for key in extras),
    )


def _cell(one: Estimate, sign: str = "") -> str:
    return f"{one.value:{sign}.2f}<small>{one.low:{sign}.2f} to {one.high:{sign}.2f}</small>"


def _interval(one: Estimate) -> str:
    return f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"


# -- charts ----------------------------------------------------------------------------------------


def _curves(comparison: Comparison) -> Iterator[str]:
    n, n_tokens = len(comparison.curve_questions), comparison.curve_tokens
    steered = [method for method in comparison.methods if method.steers]
    others = [method for method in comparison.methods if not method.steers]
    yield _drawn(
        lambda: chart.lines(
            f"Trait against coherence over strength: {n} question{'s' * (n != 1)}, {n_tokens} tokens each",
            "coherence, nats a token (left is more coherent)",
            "trait, nats a token",
            [_series(method) for method in steered],
            marks=[_series(method) for method in others],
        )
    )
    rows = [
        (text(label(method)), f"{p.strength:g}", f"{p.trait:.2f}", f"{p.coherence:.2f}", f"{p.distinct2:.2f}")
        for method in steered
        for p in method.curve
    ]
    if rows:
        head = ("", "strength", "trait", "coherence", "distinct-2")
        told = table(
            f"Of the first {n_tokens} tokens of each reply. Strength 0 is unsteered; an infinite coherence is an "
            "overflow.",
            head,
            rows,
        )
        yield f"<details><summary>The curves' numbers</summary>{told}</details>"


def _series(method: Method) -> chart.Series:
    names = [f"strength {point.strength:g}" if method.steers else "" for point in method.curve]
    return chart.Series(label(method), [(point.coherence, point.trait) for point in method.curve], names)


def _bars(comparison: Comparison) -> Iterator[str]:
    ordered = sorted(
        comparison, key=lambda pair: not pair[1].steers
    )  # as in the curves, so in the same colours
    for key in ("trait", "coherence", "distinct2", *extra(comparison.table)):
        rows = [_bar(label(method), row.estimates[key]) for row, method in ordered]
        title = "distinct-2" if key == "distinct2" else key
        unit = _UNITS.get(key, "matches" if key.endswith("100 words") else "share of replies")
        yield f"<div>{_drawn(lambda: chart.bars(title, unit, rows))}</div>"  # noqa: B023 - called at once


def _bar(name: str, one: Estimate) -> chart.Bar:
    return chart.Bar(name, one.value, one.low, one.high, _interval(one))


def _drawn(draw: Callable[[], str]) -> str:
    """The chart, or a line where no reply has a number."""
    try:
        return draw()
    except ValueError:
        return '<p class="dim">No reply has a number to draw.</p>'


# -- costs -----------------------------------------------------------------------------------------


def _costs(comparison: Comparison) -> Iterator[str]:
    prompt = next(method for method in comparison.methods if method.kind == "prompt")
    head = (
        "",
        "context tokens",
        "to the first token",
        "each further token",
        "file",
        "KV cache saved against the prompt",
    )
    rows = [
        (
            text(label(method)),
            f"{method.cost.context_tokens:+.0f}" if method.cost.context_tokens else "0",
            _milliseconds(method.cost.first_token_seconds),
            _milliseconds(method.cost.token_seconds),
            f"{method.prompt_bytes:,} bytes of text"
            if method.prompt_bytes
            else _bytes(method.cost.artifact_bytes),
            _saved(prompt.cost.kv_bytes, method.cost.kv_bytes),
        )
        for method in comparison.methods
    ]
    yield table("Beyond the model itself. Context and cache: of one conversation.", head, rows)
    yield (
        '<p class="dim">Times: medians on this machine while it did this, the ways in turns; compare them with each '
        "other alone. Each further token: behind the way's own prompt. Context tokens: more than the plain prompt has, "
        f"whose own system prompt, if the template brings one, the trait's replaces. {_sentence(comparison)}</p>"
    )


def _sentence(comparison: Comparison) -> str:
    """What the prompt's sentence takes by itself."""
    n, per_token = comparison.sentence_tokens, comparison.kv_bytes_per_token
    cache = "" if per_token is None else f", {_bytes(n * per_token)} of KV cache in this model"
    return f"The trait's sentence alone is {n} tokens{cache}."


def _milliseconds(seconds: float | None) -> str:
    return "not measured" if seconds is None else f"{1000 * seconds:.1f} ms"


def _bytes(n: float) -> str:
    return f"{n:,.0f} bytes" if n else "0"


def _saved(prompt: float | None, own: float | None) -> str:
    if prompt is None or own is None:
        return "the model does not say"
    return _bytes(prompt - own)


def _file(name: str) -> str:
    return resources.files("edgesteer.report").joinpath(name).read_text("utf-8")
