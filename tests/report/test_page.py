"""All pages: nothing in a text becomes markup or reorders the text around it, in any template."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesteer.report.html import Cell, environment, render, tint
from edgesteer.text import visible
from tests.report.html_pages import NASTY, Page, printable, self_contained

quick = settings(max_examples=40, deadline=None)
texts = st.one_of(st.sampled_from(NASTY), st.text(max_size=40))


@quick
@given(texts)
def test_the_frame_shows_its_title_as_text(title: str) -> None:
    page = self_contained(render("page", title=title))
    assert page.texts["title"] == page.texts["h1"] == [visible(title)]
    assert [tag for tag, _ in page.tags if tag in ("script", "img")] == []


TABLE = '{% from "macros.html.jinja" import table %}{{ table(caption, head, rows, kind) }}'


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str | Cell]], kind: str = "") -> str:
    return environment().from_string(TABLE).render(caption=caption, head=head, rows=rows, kind=kind)


@quick
@given(st.lists(texts, min_size=1, max_size=3), texts)
def test_a_table_shows_its_texts_as_text(row: list[str], note: str) -> None:
    page = Page(table("what", row, [[Cell(text, note, "best", tint(0.5)) for text in row]]))
    heads = page.texts["th"]
    assert heads[: len(row)] == [printable(text) for text in row]
    assert heads[len(row) :] + page.texts.get("td", []) == [printable(text) + printable(note) for text in row]
    known = {"div", "table", "caption", "thead", "tbody", "tr", "th", "td", "small", "bdi"}
    assert {tag for tag, _ in page.tags} <= known


def test_a_table_has_a_cell_for_each_column_and_heads_for_readers() -> None:
    page = Page(
        table("what", ("", "a", "b"), [("one", "1", "2"), ("two", Cell("3", kind="best"), "4")], "heat")
    )
    assert page.texts["caption"] == ["what"]
    assert [one["scope"] for one in page.named("th")] == ["col"] * 3 + ["row"] * 2
    assert page.texts["td"] == ["1", "2", "3", "4"]
    assert [one.get("class") for one in page.named("td")] == [None, None, "best", None]
    assert page.named("table") == [{"class": "heat"}]
    assert len(page.named("tr")) == 3
    assert Page(table("none", ("a",), [])).texts["tbody"] == ["\n"]


@pytest.mark.parametrize("share", [-5.0, -1.0, -0.5, 0.0, 1e-9, 0.25, 1.0, 7.0])
def test_a_tint_is_of_its_sign_and_at_most_whole(share: float) -> None:
    style = tint(share)
    strength = float(style.split("/")[1].rstrip(") "))
    assert 0 <= strength <= 1
    assert strength == pytest.approx(min(1, abs(share)), abs=0.005)
    if share:
        assert ("--warm" in style) == (share > 0)
