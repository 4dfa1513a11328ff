"""The adaptation page: self-contained whatever the texts, with the scores and numbers of the rows."""

from __future__ import annotations

import dataclasses
import math

import pytest

from edgesteer.evaluate.adaptation import Adaptation
from edgesteer.evaluate.adaptation.criteria import (
    AXES,
    Adapted,
    Data,
    Drift,
    Effect,
    Memory,
    Reversal,
    Speed,
)
from edgesteer.evaluate.intervals import Estimate
from edgesteer.report.adaptation_page import figures, label, page
from tests.report.html_pages import NASTY, printable, self_contained


def exactly(value: float) -> Estimate:
    return Estimate(value, value, value)


def a_row(name: str, kind: str = "constant", example: str = "Arr.", strength: float | None = 1.0) -> Adapted:
    return Adapted(
        name=name,
        kind=kind,
        strength=strength,
        reversal=Reversal(True, 0.0, 0.1, 0.0, 0),
        drift=Drift(exactly(0.1), {"one": 0.1, "two <i>": 0.3}, 0.9, 10),
        effect=Effect(exactly(0.5), exactly(1.0), 0.9, 0.0, 0.8, example),
        speed=Speed(0.1, 0.01, 1.0, 1.0, 1.1, False),
        memory=Memory(100, 2_000_000, 0.0, 0.0, 10_000),
        data=Data(10, 3, 100, "method psr"),
    )


BASE = dataclasses.replace(a_row("unadapted", "unadapted", strength=None), data=None)


def an_adaptation(*rows: Adapted, trait: str = "Arr.", question: str = "Why?") -> Adaptation:
    return Adaptation("m.gguf", trait, (question,), 8, (BASE, *rows))


def test_hostile_texts_stay_text() -> None:
    rows = [a_row(text or "empty", example=text) for text in NASTY]
    for text in NASTY:
        shown = self_contained(page(f"Adaptation {text}", an_adaptation(*rows, trait=text, question=text)))
        assert {tag for tag, _ in shown.tags}.isdisjoint({"script", "img", "b"})
        assert shown.texts["q"] == [printable(text)]
    heads = " ".join(shown.texts["th"])
    assert all(printable(row.name) in heads for row in rows)


def test_every_score_and_every_number_is_in_the_table() -> None:
    rows = [a_row("first"), dataclasses.replace(a_row("second"), reversal=Reversal(False, 2.5, 1.0, None, 7))]
    shown = self_contained(page("A", an_adaptation(*rows)))
    cells = shown.texts["td"]
    for row in rows:
        for score in row.scores.values():
            assert score is not None
            assert f"{score:.2f}" in cells
    for figure in figures((BASE, *rows)):
        assert len(figure.cells) == 3
        assert {cell.text + cell.note for cell in figure.cells} <= set(cells)
        assert figure.name in shown.texts["th"]
    assert any("2.5" in cell for cell in cells)
    for axis in AXES:
        assert axis.measured in cells
        assert axis.scored in cells


def test_the_radar_has_a_mark_for_each_number_and_none_for_what_is_missing() -> None:
    def marks(row: Adapted) -> list[str]:
        shown = self_contained(page("A", an_adaptation(row)))
        return [text for text in shown.texts["svg title"] if text.startswith(f"{label(row)}: ")]

    whole, partial = a_row("one"), dataclasses.replace(a_row("one"), speed=None, data=None)
    missing = [marks(row) for row in (whole, partial)]
    assert sum(any(axis.name in text for axis in AXES) for text in missing[0]) == len(AXES)
    assert not [text for text in missing[1] if "compute" in text or "data" in text]
    html = page("A", an_adaptation(partial))
    assert "Not measured, so without a mark" in html
    assert "compute, data" in html
    assert "Not measured, so without a mark" not in page("A", an_adaptation(whole))


def test_what_is_no_number_is_left_out() -> None:
    nothing = Estimate(math.nan, math.nan, math.nan)
    row = dataclasses.replace(a_row("mute"), effect=Effect(nothing, nothing, math.nan, 0.0, 0.8, ""))
    shown = self_contained(page("A", an_adaptation(row)))
    assert not [text for text in shown.texts["text"] if "nan" in text]


def test_a_label_says_what_the_name_does_not() -> None:
    assert label(BASE) == "unadapted"
    assert label(a_row("prompt", "prompt", strength=None)) == "prompt"
    assert label(a_row("pirate", "A-PSR", strength=1.62)) == "pirate (A-PSR, 1.62)"


def test_without_any_adaptation_there_is_nothing_to_draw() -> None:
    with pytest.raises(ValueError, match="radar"):
        page("A", an_adaptation())
