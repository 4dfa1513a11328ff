"""The comparison's page: self-contained whatever the replies, complete, and small enough to send."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesteer.bundle import ModelInfo
from edgesteer.evaluate import Comparison, Cost, Method, Point, Table
from edgesteer.evaluate.table import Answers, rows_of
from edgesteer.generate import Scores
from edgesteer.generate.scoring import ScoredTokens
from edgesteer.report.comparison_page import label, page
from edgesteer.text import visible
from tests.report.html_pages import NASTY, Page, printable, self_contained

quick = settings(max_examples=30, deadline=None)
texts = st.one_of(st.sampled_from(NASTY), st.text(max_size=20))
KINDS = ("unsteered", "prompt", "constant", "S-PSR", "A-PSR")


def scored_tokens(rng: np.random.Generator, n: int) -> ScoredTokens:
    prompted, plain = -rng.exponential(size=(2, n))
    return ScoredTokens(tuple(range(n)), tuple(prompted.tolist()), tuple(plain.tolist()))


def answers(name: str, replies: list[list[str]], rng: np.random.Generator, **more: Any) -> Answers:
    each = [scored_tokens(rng, len(pieces)) for pieces in replies]
    means = [
        tuple(float(np.mean(values)) if values else float("nan") for values in of)
        for of in ([s.trait for s in each], [s.coherence for s in each])
    ]
    scores = Scores(*means, means[1], tuple(1.0 if s.tokens else float("nan") for s in each), tuple(each))
    strength = None if name in KINDS[:2] else 1.5
    options = {"strength": strength, "context_tokens": 0.0, "sentiments": None, **more}
    return Answers(name=name, replies=tuple("".join(pieces) for pieces in replies), scores=scores, **options)


def a_comparison(
    replies: list[list[str]] | None = None,
    *,
    n_ways: int = 5,
    questions: tuple[str, ...] | None = None,
    counts: tuple[str, ...] = ("e",),
    trait: str = "Talk so.",
    names: tuple[str, ...] = KINDS,
    timed: bool = True,
    curve: tuple[Point, ...] | None = None,
    **more: Any,
) -> Comparison:
    rng = np.random.default_rng(0)
    replies = [["Arr", ", ", "matey"], ["The", " sea"]] if replies is None else replies
    rows = rows_of([answers(name, replies, rng, **more) for name in names[:n_ways]], counts, 1)
    points = (Point(0.0, 0.1, 0.5, 1.0), Point(1.5, 0.4, 0.7, 0.9)) if curve is None else curve
    seconds = 0.01 if timed else None
    methods = tuple(
        Method(
            name,
            kind,
            Cost(17.0 * (kind == "prompt"), seconds, seconds, 1000 * i, 400.0 * (kind == "prompt")),
            8 * (kind == "prompt"),
            points if i > 1 else points[:1],
            tuple(map(tuple, replies)),
        )
        for i, (name, kind) in enumerate(zip(names[:n_ways], KINDS, strict=False))
    )
    questions = questions or tuple(f"Question {i}?" for i in range(len(replies)))
    table = Table(trait, questions, 64, rows)
    model = ModelInfo("llama", "Tiny", 8, 4, "Q4_1")
    return Comparison("suite", model, table, methods, tuple(range(len(replies))), 32, 3, 400.0)


def pieces_on(shown: Page) -> list[str]:
    """The tokens in order."""
    spans = zip(
        (attributes for name, attributes in shown.tags if name == "span"),
        shown.texts.get("span", []),
        strict=True,
    )
    return [text for attributes, text in spans if "data-t" in attributes]


@quick
@given(texts, texts, texts, st.lists(texts, min_size=1, max_size=4))
def test_a_page_is_self_contained_whatever_the_texts(
    question: str, trait: str, name: str, pieces: list[str]
) -> None:
    names = ("unsteered", "prompt", name or "x")
    comparison = a_comparison([pieces], n_ways=3, questions=(question,), trait=trait, names=names, counts=())
    shown = self_contained(page(comparison))
    assert [tag for tag, _ in shown.tags if tag in ("img", "iframe", "object")] == []
    assert len(shown.named("script")) == 1
    assert pieces_on(shown) == [visible(piece) for piece in pieces] * 3
    assert shown.texts["h3"] == [f"1. {printable(question)}"]


def test_every_reply_is_shown_with_its_own_scores() -> None:
    comparison = a_comparison()
    shown = self_contained(page(comparison))
    groups = [attributes for attributes in shown.named("div") if attributes.get("class") == "tokens"]
    assert [group["aria-label"] for group in groups] == [label(method) for method in comparison.methods] * 2
    assert {group["tabindex"] for group in groups} == {"0"}
    spans = [attributes for attributes in shown.named("span") if "data-t" in attributes]
    scores = [
        score for i in range(2) for row in comparison.table.rows for score in row.scores.by_token[i].trait
    ]
    assert [float(span["data-t"] or "") for span in spans] == pytest.approx(scores, abs=0.006)
    for span, score in zip(spans, scores, strict=True):
        kind = span.get("class") or ""
        assert not kind or kind[0] == ("p" if score > 0 else "n")


def test_a_way_is_called_by_its_bundle_and_kind_and_can_be_hidden() -> None:
    comparison = a_comparison(names=("unsteered", "prompt", "a", "b", "c"))
    assert [label(method) for method in comparison.methods] == [
        "unsteered", "prompt", "a (constant)", "b (S-PSR)", "c (A-PSR)",
    ]  # fmt: skip
    html = page(comparison)
    boxes = [attributes["id"] for attributes in self_contained(html).named("input")]
    assert boxes == [f"way{i}" for i in range(5)]
    for i in range(5):
        assert f"body:has(#way{i}:not(:checked)) .way{i} {{ display: none; }}" in html
        assert html.count(f'class="reply way{i}"') == 2


def test_costs_are_shown_and_unknown_ones_are_marked() -> None:
    html = page(a_comparison())
    shown = self_contained(html)
    cells = shown.texts["td"]
    assert "+17" in cells
    assert "8 bytes of text" in cells
    assert "4,000 bytes" in cells
    assert cells.count("400 bytes") == 4  # every way but the prompt saves what the prompt takes
    assert cells.count("10.0 ms") == 10
    assert self_contained(page(a_comparison(timed=False))).texts["td"].count("not measured") == 10
    comparison = a_comparison()
    silent = tuple(
        dataclasses.replace(method, cost=dataclasses.replace(method.cost, kv_bytes=None))
        for method in comparison.methods
    )
    unknown = page(dataclasses.replace(comparison, methods=silent, kv_bytes_per_token=None))
    assert unknown.count("not known") == 5


def test_charts_are_there_for_each_figure() -> None:
    replies = [["Arr"], ["Aye"]]
    charts = {
        (): 4,
        ("e",): 6,
        ("e", "a"): 8,
    }
    for counts, n in charts.items():
        assert len(self_contained(page(a_comparison(replies, counts=counts))).named("svg")) == n
    moods = a_comparison(replies, counts=(), sentiments=(0.5, -0.5))
    assert len(self_contained(page(moods)).named("svg")) == 5


def test_an_overflow_is_in_the_numbers_and_not_in_the_curve() -> None:
    over = (Point(0.0, 0.1, 0.5, 1.0), Point(9.0, float("nan"), float("inf"), 0.0))
    shown = self_contained(page(a_comparison(curve=over)))
    assert "inf" in shown.texts["td"]
    nothing = (Point(9.0, float("nan"), float("inf"), 0.0),)
    assert self_contained(page(a_comparison(curve=nothing)))


def test_empty_replies_still_make_a_page() -> None:
    shown = self_contained(page(a_comparison([[], []], counts=())))
    assert shown.texts["em"] == ["empty"] * 10
    assert pieces_on(shown) == []


def test_without_bundles_or_extras_the_page_stands() -> None:
    shown = self_contained(page(a_comparison(n_ways=2, counts=())))
    assert len(shown.named("input")) == 2
    assert "details" not in shown.texts


def test_what_is_explained_is_what_is_measured() -> None:
    assert self_contained(page(a_comparison(counts=()))).texts["dt"] == [
        "trait", "coherence", "nll0", "distinct-2",
    ]  # fmt: skip
    both = a_comparison(counts=("e",), sentiments=(0.5, -0.5))
    assert self_contained(page(both)).texts["dt"][-2:] == ["counts", "sentiment"]


def test_further_measures_have_a_column_a_difference_a_chart_and_an_explanation() -> None:
    further = {"relevance": (0.5, 0.1), "judge": (0.25, float("nan")), "judge: concept": (1.0, 2.0)}
    shown = self_contained(page(a_comparison([["Arr"], ["Aye"]], counts=(), further=further)))
    assert shown.texts["dt"][-2:] == ["relevance", "judge"]
    assert len(shown.named("svg")) == 6
    head = shown.texts["th"]
    assert head[head.index("relevance") + 1] == head[head.index("judge") + 1] == "minus prompt"


def test_twenty_four_questions_in_five_ways_stay_below_a_megabyte() -> None:
    replies = [[f" word{j}" for j in range(64)] for _ in range(24)]
    assert len(page(a_comparison(replies)).encode()) < 1_000_000
