"""A map as a page and in a notebook: self-contained and small whatever the texts, with the map's numbers."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesteer.report.map_page import Run, page
from edgesteer.report.palette import LEVELS, Scale
from edgesteer.steering_map import SteeringMap
from edgesteer.text import visible
from tests.report.html_pages import FETCHING, NASTY, Page, printable, self_contained


def a_map(pieces: tuple[str, ...], blocks: int = 3, seed: int = 0, n_prompt: int = 1) -> SteeringMap:
    values = np.random.default_rng(seed).normal(size=(len(pieces), blocks)).astype(np.float32)
    n = len(pieces)
    return SteeringMap(
        tuple(range(n)), pieces, tuple(range(n)), n_prompt, tuple(range(2, blocks + 2)), values
    )


def data_of(html: str) -> dict:
    shown = self_contained(html)
    data = [text for text in shown.texts["script"] if text.startswith("{")]
    assert len(data) == 1
    return json.loads(data[0])


def test_the_page_holds_every_run_and_no_markup_of_the_texts() -> None:
    pieces = tuple(NASTY)
    for text in NASTY:
        runs = [Run(f"{text} {i}", a_map(pieces, seed=i)) for i in range(3)]
        html = page(f"Map of {text}", text, runs, first=2)
        shown, data = self_contained(html), data_of(html)
        assert {tag for tag, _ in shown.tags}.isdisjoint({"img", "b"})
        assert len(shown.named("script")) == 2
        assert shown.texts["blockquote"] == [printable(text)]
        assert shown.texts["span"] == data["runs"][2]["pieces"] == [visible(piece) for piece in pieces]
        assert html.encode("utf-8")
        assert [option["label"] for option in shown.named("option")] == [visible(run.label) for run in runs]


def test_the_numbers_are_the_maps() -> None:
    runs = [Run(str(i), a_map(("a", "b\n", "c"), seed=i)) for i in range(5)]
    data = data_of(page("m", "p", runs, first=2))
    assert (data["layers"], data["first"]) == ([2, 3, 4], 2)
    for run, one in zip(data["runs"], runs, strict=True):
        assert (run["prompt"], run["breaks"]) == (1, [False, True, False])
        assert np.allclose(run["rows"], one.map.coefficients.T, rtol=5e-3)
        assert np.allclose(run["totals"], one.map.totals, rtol=5e-3, atol=1e-6)


def test_the_first_run_is_there_without_a_script() -> None:
    shown = self_contained(
        page("m", "p", [Run("a", a_map(("one", "two"))), Run("b", a_map(("three",)))], first=0)
    )
    assert shown.texts["span"] == ["one", "two"]


def test_a_run_that_steers_nothing_has_zeros() -> None:
    none = SteeringMap((1, 2), ("a", "b"), (0, 1), 0, (), np.zeros((2, 0), dtype=np.float32))
    data = data_of(page("m", "p", [Run("0", none), Run("1", a_map(("a", "b")))]))
    assert data["runs"][0]["rows"] == [[0, 0]] * 3


def test_three_hundred_tokens_by_thirty_blocks_at_five_strengths_stay_below_a_megabyte() -> None:
    runs = [Run(str(i), a_map(tuple(f" word{j}" for j in range(300)), blocks=30, seed=i)) for i in range(5)]
    assert len(page("m", "p", runs).encode()) < 1_000_000


def test_one_run_has_no_slider_and_none_is_refused() -> None:
    shown = self_contained(page("m", "p", [Run("1", a_map(("a",)))]))
    assert not shown.named("input")
    with pytest.raises(ValueError, match="no runs"):
        page("m", "p", [])


def test_an_empty_reply_is_shown() -> None:
    empty = SteeringMap((), (), (), 0, (1,), np.zeros((0, 1), dtype=np.float32))
    assert data_of(page("m", "", [Run("1", empty)]))["runs"][0]["pieces"] == []


def test_the_blocks_begin_at_the_first_token_that_any_run_steers():
    steered = np.zeros((4, 2), np.float32)
    steered[2:] = 1.0
    plain = SteeringMap((1, 2, 3, 4), tuple("abcd"), (0, 1, 2, 3), 3, (1, 2), np.zeros((4, 2), np.float32))
    acting = SteeringMap((1, 2, 3, 4), tuple("abcd"), (0, 1, 2, 3), 3, (1, 2), steered)
    assert '"from": 2' in page("t", "p", [Run("0", plain), Run("1", acting)])
    assert '"from": 0' in page("t", "p", [Run("0", plain)])


# -- the piece for a notebook ----------------------------------------------------------------------


def read(shown: SteeringMap) -> Page:
    """The fragment, after checking that it needs nothing and affects nothing around it."""
    html = shown._repr_html_()
    page = Page(html)
    assert html.startswith("<div")
    assert html.endswith("</div>")
    for word in ("http", "url(", "javascript:", "@import", "var("):
        assert word not in re.sub(r"<span[^>]*>[^<]*</span>", "", html)
    used = {tag for tag, _ in page.tags}
    assert not used & {"html", "head", "body", "style", "script", "link", "img", "iframe", "base", "meta"}
    for _, attributes in page.tags:
        assert not FETCHING - {"data"} & attributes.keys()
        assert not [name for name in attributes if name.startswith("on") or name in ("id", "class")]
    return page


def test_hostile_text_is_shown_and_is_no_markup() -> None:
    pieces = tuple(NASTY)
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
    assert len({color[1] for color in colors if color}) == 3


RUN = re.compile(r"M(\d+) (\d+)h(\d+)v1h-(\d+)z")


def test_the_blocks_are_drawn_cell_by_cell() -> None:
    shown = a_map(tuple("word" for _ in range(40)), blocks=7, seed=3)
    scale = Scale.of(shown.coefficients)
    wanted = [[scale.level(value) for value in row] for row in shown.coefficients.T.tolist()]
    painted = np.zeros((7, 40), dtype=int)
    opacity = {}
    for i, path in enumerate(read(shown).named("path"), start=1):
        opacity[i] = path["fill"]
        for x, row, width, back in RUN.findall(path["d"] or ""):
            assert width == back
            assert not painted[int(row), int(x) : int(x) + int(width)].any()
            painted[int(row), int(x) : int(x) + int(width)] = i
    levels = {i: {wanted[r][t] for r, t in zip(*np.where(painted == i), strict=True)} for i in opacity}
    assert all(len(each) == 1 for each in levels.values())
    assert (np.array(wanted)[painted == 0] == 0).all()
    assert len(set(opacity.values())) == len(opacity) <= 2 * LEVELS


def test_it_stays_small_and_says_what_it_leaves_out() -> None:
    usual = a_map(tuple(f" word{i}" for i in range(300)), blocks=30)
    assert len(usual._repr_html_()) < 250_000
    long = a_map(tuple(" word" for _ in range(4000)), blocks=80)
    assert len(long._repr_html_()) < 2_000_000
    assert "the last 750 tokens" in long._repr_html_()
    assert "the last" not in usual._repr_html_()


def test_drawing_is_loaded_by_those_who_look() -> None:
    code = """
import sys, edgesteer
print(sorted({"edgesteer.report", "jinja2", "llama_cpp"} & set(sys.modules)))
print(edgesteer.SteeringMap.empty()._repr_html_())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, html = done.stdout.splitlines()
    assert before == "[]"
    assert html.startswith("<div")
