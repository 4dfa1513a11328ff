"""The page of an evaluation: self-contained whatever the texts, with a section for each measurement."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from edgesteer.bundle import ModelInfo
from edgesteer.evaluate.conversation_table import MEASURES, ConversationTable, Talk, table_of
from edgesteer.evaluate.evaluation import Evaluation
from edgesteer.evaluate.facts import FactsRow, FactsTable
from edgesteer.evaluate.intervals import Estimate
from edgesteer.evaluate.obedience import Obedience, ObedienceRow
from edgesteer.evaluate.shares import Share
from edgesteer.evaluate.snapshot import SnapshotCost
from edgesteer.evaluate.table import Judging
from edgesteer.evaluate.transfer import Transfer, Trial
from edgesteer.report import transfer
from edgesteer.report.evaluation import lines
from edgesteer.report.evaluation_page import page
from tests.report.html_pages import NASTY, printable, self_contained
from tests.report.test_comparison_page import a_comparison

MODEL = ModelInfo("llama", "Tiny", 8, 4, "Q4_1")
COST = SnapshotCost(
    30,
    690e3,
    {"snapshot": 20.0, "prompt": 50.0, "unsteered": 22.0},
    {"snapshot": 0.05, "prompt": 0.1, "unsteered": 0.05},
    None,
)


def conversations(text: str, turns: int = 2) -> ConversationTable:
    values = {measure: np.full((1, turns), 0.5) for measure in MEASURES}
    talks = [Talk(name, None, (), ((text,) * turns,), values) for name in ("unsteered", "prompt", "x")]
    table = table_of(text, [text], turns, 64, 0.7, talks)
    return dataclasses.replace(table, questions=((text,) * turns,))


def side_effects(text: str) -> tuple[FactsTable, Obedience]:
    share = Share.of([True, False], [True, True])
    names = ("unsteered", "prompt", text or "x")
    known = FactsTable((text, "b"), 0.25, tuple(FactsRow(n, None, share, (1.0, -1.0)) for n in names))
    rows = tuple(ObedienceRow(n, None, share, {"case": 1}, 0, (True, False), (text, "b")) for n in names)
    return known, Obedience((text, "b"), {"case": 2}, 64, rows)


def evaluation(text: str = "Arr.") -> Evaluation:
    table = a_comparison(n_ways=3, names=("unsteered", "prompt", text or "x"), trait=text).table
    table = dataclasses.replace(table, questions=(text, text), snapshot=COST)
    return Evaluation(MODEL, text, table, conversations(text), *side_effects(text))


@pytest.mark.parametrize("text", NASTY)
def test_a_page_is_self_contained_whatever_the_texts(text: str) -> None:
    shown = self_contained(page(evaluation(text)))
    assert [tag for tag, _ in shown.tags if tag in ("img", "iframe", "object", "script")] == []
    assert shown.texts["h3"][0] == f"1. {printable(text)}"
    assert shown.texts["blockquote"] == [printable(text)]


def test_each_measurement_has_a_section_in_order() -> None:
    whole = evaluation()
    assert self_contained(page(whole)).texts["h2"] == ["Replies", "Conversations", "Facts", "Instructions"]
    facts = dataclasses.replace(whole, replies=None, conversations=None, instructions=None)
    assert self_contained(page(facts)).texts["h2"] == ["Facts"]


def test_every_reply_stands_below_its_question() -> None:
    whole = evaluation("Arr.")
    shown = self_contained(page(whole))
    assert whole.replies is not None
    replies = [row.replies[i] for i in range(2) for row in whole.replies.rows]
    groups = [attributes.get("class") for attributes in shown.named("div")]
    assert groups.count("tokens") == len(replies) + 2 * 3 + 2 * 3  # and conversations, and instructions
    assert [row for row in shown.texts["th"] if row == "prompt, its KV kept"] == ["prompt, its KV kept"]


def test_a_single_turn_has_no_curve() -> None:
    alone = Evaluation(MODEL, "Arr.", conversations=conversations("Arr.", turns=1))
    shown = self_contained(page(alone))
    assert "svg" not in {tag for tag, _ in shown.tags}


def test_a_terminal_shows_the_same_measurements() -> None:
    shown = list(lines(evaluation()))
    assert max(map(len, shown)) <= 100
    for head in ("trait kept", "facts, right", "instructions, obeyed", "kept, tokens"):
        assert sum(head in line for line in shown) >= 1


def test_what_has_no_value_is_a_dot_or_an_empty_cell() -> None:
    nothing = Estimate(math.nan, math.nan, math.nan)
    whole = evaluation()
    assert whole.replies is not None
    means: dict[str, Any] = dict.fromkeys(("trait", "coherence", "nll0", "distinct2"), math.nan)
    rows = [
        dataclasses.replace(row, estimates=dict.fromkeys(row.estimates, nothing), **means)
        for row in whole.replies.rows
    ]
    empty = dataclasses.replace(whole, replies=dataclasses.replace(whole.replies, rows=tuple(rows)))
    assert "nan" not in "\n".join(lines(empty)) + page(empty)


def test_a_report_is_printable_whatever_the_names() -> None:
    whole = evaluation("\x1b[2J\u202e")
    assert whole.replies is not None
    judge = Judging("m", "judged by \x1b[31mevil at localhost")
    table = dataclasses.replace(whole.replies, judge=judge)
    shown = "\n".join(lines(dataclasses.replace(whole, replies=table)))
    assert "evil at localhost" in shown
    assert not {"\x1b", "\u202e"} & {*shown}


def test_copies_with_long_figures_fit_a_terminal() -> None:
    long = Estimate(-1234.56, -12345.67, 12345.67)
    each = dict.fromkeys(("trait", "coherence", "kl", "distinct2"), long)
    trial = Trial("Q4_K_M", 10**11, True, each, each, each, (), ())
    result = Transfer("x", 1.0, None, "Arr.", ("Why?",), 64, (trial, trial))
    assert max(map(len, transfer.lines(result))) <= 100
