"""A map in a notebook: a piece of HTML that stands alone, whatever the texts, and draws every coefficient."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesteer.report.cells import visible
from edgesteer.report.palette import LEVELS, Scale
from edgesteer.steering_map import SteeringMap
from tests.report.html_pages import _FETCHING, Page
from tests.report.test_map_page import NASTY, a_map
from tests.report.test_page import NASTY as NASTIER


def read(shown: SteeringMap) -> Page:
    """The fragment, once it is sure that it needs nothing and disturbs nothing around it."""
    html = shown._repr_html_()
    page = Page(html)
    assert html.startswith("<div")
    assert html.endswith("</div>")
    for word in ("http", "url(", "javascript:", "@import", "var("):
        assert word not in re.sub(r"<span[^>]*>[^<]*</span>", "", html)
    used = {tag for tag, _ in page.tags}
    assert not used & {"html", "head", "body", "style", "script", "link", "img", "iframe", "base", "meta"}
    for _, attributes in page.tags:
        assert not _FETCHING - {"data"} & attributes.keys()
        assert not [name for name in attributes if name.startswith("on") or name in ("id", "class")]
    return page


@pytest.mark.parametrize("pieces", [NASTY, tuple(NASTIER)])
def test_hostile_text_is_shown_and_is_no_markup(pieces: tuple[str, ...]) -> None:
    page = read(a_map(pieces))
    assert page.texts["span"] == [visible(piece) for piece in pieces]
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", a_map(pieces)._repr_html_())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=6), min_size=1, max_size=5))
def test_any_text_comes_back(pieces: list[str]) -> None:
    assert read(a_map(tuple(pieces))).texts["span"] == [visible(piece) for piece in pieces]


def test_an_empty_map_is_a_sentence() -> None:
    assert [tag for tag, _ in read(SteeringMap.empty()).tags] == ["div"]
    no_blocks = SteeringMap((1,), ("a",), (0,), 0, (), np.zeros((1, 0), dtype=np.float32))
    assert read(no_blocks).named("details") == []


def test_a_token_tells_its_total_and_its_sign() -> None:
    values = np.array([[0.0], [2.0], [-1.0]], dtype=np.float32)
    shown = SteeringMap((1, 2, 3), ("a", "b", "c"), (0, 1, 2), 1, (4,), values)
    spans = read(shown).named("span")
    assert [span["title"] for span in spans] == ["0", "2.00", "−1.00"]
    styles = [span["style"] or "" for span in spans]
    assert "opacity" in styles[0]
    assert not any("opacity" in style for style in styles[1:])
    colors = [re.search(r"background:([^;]+)", style) for style in styles]
    assert len({found[1] for found in colors if found}) == 3


RUN = re.compile(r"M(\d+) (\d+)h(\d+)v1h-(\d+)z")


def test_the_blocks_are_drawn_cell_by_cell() -> None:
    shown = a_map(tuple("word" for _ in range(40)), blocks=7, seed=3)
    scale = Scale.of(shown.coefficients)
    wanted = [[scale.level(value) for value in row] for row in shown.coefficients.T.tolist()]
    drawn = np.zeros((7, 40), dtype=int)
    opacity = {}
    for i, path in enumerate(read(shown).named("path"), start=1):
        opacity[i] = path["fill"]
        for x, row, width, back in RUN.findall(path["d"] or ""):
            assert width == back
            assert not drawn[int(row), int(x) : int(x) + int(width)].any()
            drawn[int(row), int(x) : int(x) + int(width)] = i
    levels = {i: {wanted[r][t] for r, t in zip(*np.where(drawn == i), strict=True)} for i in opacity}
    assert all(len(found) == 1 for found in levels.values())
    assert (np.array(wanted)[drawn == 0] == 0).all()
    assert len(set(opacity.values())) == len(opacity) <= 2 * LEVELS


def test_it_stays_small_and_says_what_it_leaves_out() -> None:
    usual = a_map(tuple(f" word{i}" for i in range(300)), blocks=30)
    assert len(usual._repr_html_()) < 250_000
    long = a_map(tuple(" word" for _ in range(4000)), blocks=80)
    assert len(long._repr_html_()) < 2_000_000
    assert "the last 750 tokens" in long._repr_html_()
    assert "the last" not in usual._repr_html_()


def test_drawing_is_loaded_by_those_who_look() -> None:
    code = "import sys, edgesteer; print('edgesteer.report' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
