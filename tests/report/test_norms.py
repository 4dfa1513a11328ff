"""The norm report as text: every block once, within the width, the same with and without colour."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesteer.norms import BlockNorms, NormReport
from edgesteer.report.cells import cells, visible
from edgesteer.report.norms import render_norms
from edgesteer.report.terminal import MIN_WIDTH

SGR = re.compile(r"\x1b\[[0-9;]*m")
ISOLATES = re.compile("[\u2068\u2069]")
SIZES = st.one_of(st.none(), st.floats(0, 1e38))
TEXTS = st.one_of(
    st.text(max_size=60), st.sampled_from(["\x1b[2J", "a\nb", "茶" * 40, "שלום", "\u202ex", ""])
)


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
def test_no_line_is_wider_than_asked_and_nothing_drives_the_terminal(
    report: NormReport, text: str, width: int, color: bool
) -> None:
    shown = render_norms(report, about=[("reply", text)], width=width, color=color)
    for line in ISOLATES.sub("", SGR.sub("", shown)).split("\n"):
        assert visible(line) == line
        assert cells(line) <= max(width, MIN_WIDTH)


@settings(deadline=None, max_examples=25)
@given(reports(), st.sampled_from([40, 80]))
def test_colour_changes_no_character(report: NormReport, width: int) -> None:
    plain = render_norms(report, width=width, color=False)
    assert "\x1b" not in plain
    assert SGR.sub("", render_norms(report, width=width, color=True)) == plain


def table(text: str) -> dict[int, list[str]]:
    """Block -> the cells of its row."""
    rows = [line.split() for line in text.split("\n\n")[0].split("\n")[1:]]
    return {int(row[0]): row[1:] for row in rows}


@settings(deadline=None, max_examples=25)
@given(reports(), st.sampled_from([40, 80]))
def test_every_block_has_a_row_of_four_numbers(report: NormReport, width: int) -> None:
    rows = table(render_norms(report, width=width, color=False))
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
    assert table(render_norms(REPORT, width=40, color=False)) == {
        1: ["65.5", "0.500", "0.0100", "−0.25"],
        12: ["140", "14.0", "0.100", "0.50"],
        23: ["385", "77.0", "0.200", "."],
    }


def test_bars_are_as_long_as_the_ratios_and_give_way() -> None:
    assert "█" not in render_norms(REPORT, width=40, color=False)
    bars = {n: row[4:] for n, row in table(render_norms(REPORT, width=80, color=False)).items()}
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
    assert "no token is in scope" in text
    assert "Largest" not in text


def test_no_color_leaves_no_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in render_norms(REPORT)
