"""Interference and norms: every block once, within the width, the same with and without colour."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesteer.bundle import Bundle, encode_directions
from edgesteer.interference import Interference, interference
from edgesteer.norms import BlockNorms, NormReport
from edgesteer.report import render_interference, render_norms
from edgesteer.report.cells import cells
from edgesteer.report.terminal import MIN_WIDTH
from edgesteer.text import visible
from tests.report.html_pages import NASTY

SGR = re.compile(r"\x1b\[[0-9;]*m")
ISOLATES = re.compile("[\u2068\u2069]")
TEXTS = st.one_of(st.sampled_from(NASTY), st.text(max_size=30))


def _steers(directions: dict[int, list[float]]) -> bool:
    return any(any(direction) for direction in directions.values())


@st.composite
def pictures(draw: st.DrawFn) -> Interference:
    values = st.lists(st.floats(-1e6, 1e6, width=32), min_size=4, max_size=4)
    rows = st.dictionaries(st.integers(1, 129), values, min_size=1, max_size=4).filter(_steers)
    items = draw(st.lists(st.tuples(rows, TEXTS, st.floats(-1e30, 1e30)), max_size=5))
    return interference((made(directions, name), strength) for directions, name, strength in items)


def made(directions: dict[int, list[float]], name: str = "b") -> Bundle:
    arrays = {n: np.array(v, np.float32) for n, v in directions.items()}
    return Bundle.from_control_vector(encode_directions(arrays, "llama"), name)


@settings(deadline=None, max_examples=40)
@given(pictures(), st.integers(1, 130), st.booleans())
def test_no_line_exceeds_the_width_and_nothing_drives_the_terminal(
    shown: Interference, width: int, color: bool
) -> None:
    text = ISOLATES.sub("", SGR.sub("", render_interference(shown, width=width, color=color)))
    for line in text.split("\n"):
        assert visible(line) == line
        assert cells(line) <= max(width, MIN_WIDTH)


@settings(deadline=None, max_examples=40)
@given(pictures(), st.sampled_from([40, 80, 120]))
def test_colour_changes_no_character(shown: Interference, width: int) -> None:
    plain = render_interference(shown, width=width, color=False)
    assert "\x1b" not in plain
    assert SGR.sub("", render_interference(shown, width=width, color=True)) == plain


def table(text: str) -> dict[int, list[str]]:
    """Block -> the cells of its row."""
    rows = [line.split() for line in text.split("\n") if re.fullmatch(r" *[0-9]+ .*", line)]
    return {int(row[0]): row[1:] for row in rows}


@settings(deadline=None, max_examples=40)
@given(pictures().filter(lambda shown: shown.terms), st.sampled_from([40, 80, 120]))
def test_every_block_has_a_row(shown: Interference, width: int) -> None:
    text = "\n\n".join(render_interference(shown, width=width, color=False).split("\n\n")[1:2])
    assert list(table(text)) == [block.layer for block in shown.blocks]


OPPOSED = [
    ({1: [1, 0, 0, 0], 2: [1, 0, 0, 0], 3: [1, 0, 0, 0]}, 2.0),
    ({1: [-1, 0, 0, 0], 2: [0, 1, 0, 0]}, 3.0),
]


def test_the_cells_are_norms_joint_and_cosine_with_its_mark() -> None:
    shown = interference((made(rows, name), s) for name, (rows, s) in zip("ab", OPPOSED, strict=True))
    assert table(render_interference(shown, width=40, color=False)) == {
        1: ["2.00", "3.00", "1.00", "−1.00!"],
        2: ["2.00", "3.00", "3.61", "0.00"],
        3: ["2.00", ".", "2.00", "."],
    }


@pytest.mark.parametrize(("width", "columns"), [(120, 1 + 3 + 1 + 3), (40, 1 + 1 + 3)])
def test_what_does_not_fit_gives_way(width: int, columns: int) -> None:
    shown = interference((made({1: v}), 1.0) for v in np.eye(4)[:3].tolist())
    assert len(table(render_interference(shown, width=width, color=False))[1]) + 1 == columns


def test_four_terms_on_a_narrow_terminal_show_the_ends() -> None:
    v = [1.0, 0, 0, 0]
    shown = interference([(made({1: v}), s) for s in (1.0, 2.0, -1.0)] + [(made({1: [0, 1.0, 0, 0]}), 1.0)])
    assert table(render_interference(shown, width=40, color=False))[1] == [
        "2.24",
        "−1.00!",
        "A·C",
        "1.00+",
        "A·B",
    ]


def test_nothing_says_so() -> None:
    assert "nothing" in render_interference(interference([]), width=40, color=False)


def test_no_color_leaves_no_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    shown = interference((made(rows), s) for rows, s in OPPOSED)
    assert "\x1b" not in render_interference(shown)
    assert "\x1b" not in render_norms(REPORT)


# -- norms -----------------------------------------------------------------------------------------

SIZES = st.one_of(st.none(), st.floats(0, 1e38))


@st.composite
def reports(draw: st.DrawFn) -> NormReport:
    layers = sorted(draw(st.sets(st.integers(1, 999), max_size=12)))
    tokens = draw(st.integers(0, 200000))
    blocks = []
    for n in layers:
        rows = draw(st.integers(0, tokens))
        sizes = [draw(SIZES) for _ in range(3)]
        cosine = draw(st.one_of(st.none(), st.floats(-1, 1)))
        blocks.append(BlockNorms(n, rows, draw(st.integers(0, rows)), *sizes, cosine))
    return NormReport(tokens, tuple(blocks))


@settings(deadline=None, max_examples=30)
@given(reports(), TEXTS, st.sampled_from([1, 40, 41, 47, 80, 130]), st.booleans())
def test_no_line_of_norms_exceeds_the_width_and_nothing_drives_the_terminal(
    report: NormReport, text: str, width: int, color: bool
) -> None:
    shown = render_norms(report, about=[("reply", text)], width=width, color=color)
    for line in ISOLATES.sub("", SGR.sub("", shown)).split("\n"):
        assert visible(line) == line
        assert cells(line) <= max(width, MIN_WIDTH)


@settings(deadline=None, max_examples=25)
@given(reports(), st.sampled_from([40, 80]))
def test_colour_changes_no_character_of_norms(report: NormReport, width: int) -> None:
    plain = render_norms(report, width=width, color=False)
    assert "\x1b" not in plain
    assert SGR.sub("", render_norms(report, width=width, color=True)) == plain


def norm_rows(text: str) -> dict[int, list[str]]:
    """Block -> the cells of its row."""
    rows = [line.split() for line in text.split("\n\n")[0].split("\n")[1:]]
    return {int(row[0]): row[1:] for row in rows}


@settings(deadline=None, max_examples=25)
@given(reports(), st.sampled_from([40, 80]))
def test_every_block_has_a_row_of_four_numbers(report: NormReport, width: int) -> None:
    rows = norm_rows(render_norms(report, width=width, color=False))
    assert list(rows) == [block.layer for block in report.blocks]
    assert all(len([cell for cell in row if "█" not in cell]) == 4 for row in rows.values())


REPORT = NormReport(
    30,
    (
        BlockNorms(1, 24, 24, 65.5, 0.5, 0.01, -0.25),
        BlockNorms(12, 24, 18, 140.0, 14.0, 0.1, 0.5),
        BlockNorms(23, 24, 24, 385.0, 77.0, 0.2, None),
    ),
)


def test_the_cells_are_the_numbers() -> None:
    assert norm_rows(render_norms(REPORT, width=40, color=False)) == {
        1: ["65.5", "0.500", "0.0100", "−0.25"],
        12: ["140", "14.0", "0.100", "0.50"],
        23: ["385", "77.0", "0.200", "."],
    }


def test_bars_are_as_long_as_the_ratios_and_give_way() -> None:
    assert "█" not in render_norms(REPORT, width=40, color=False)
    bars = {n: row[4:] for n, row in norm_rows(render_norms(REPORT, width=80, color=False)).items()}
    lengths = {n: len(bar[0]) if bar else 0 for n, bar in bars.items()}
    assert lengths[23] == 2 * lengths[12] > 2 * lengths[1]


def test_the_legend_tells_rows_largest_and_median() -> None:
    text = " ".join(render_norms(REPORT, width=40, color=False).split())
    for part in ("24 of 30 tokens", "0.200 at block 23", "median 0.100", "8%"):
        assert part in text
    uneven = NormReport(30, (*REPORT.blocks, BlockNorms(24, 7, 7, 1.0, 0.0, 0.0, None)))
    assert "7 to 24 of 30" in " ".join(render_norms(uneven, width=40, color=False).split())


@pytest.mark.parametrize("blocks", [(), (BlockNorms(3, 0, 0, None, None, None, None),)])
def test_without_rows_in_scope_it_says_so(blocks: tuple[BlockNorms, ...]) -> None:
    text = " ".join(render_norms(NormReport(9, blocks), width=40, color=False).split())
    assert "tokens is in scope" in text
    assert "Largest" not in text
