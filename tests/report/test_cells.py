"""A table for a terminal: in columns if it fits, with whole texts if not; no text drives the terminal."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesteer.report.cells import Cell, cells, table
from edgesteer.report.palette import LEVELS
from edgesteer.text import visible
from tests.report.html_pages import NASTY

SGR = re.compile(r"\x1b\[[0-9;]*m")
ISOLATES = re.compile("[\u2068\u2069]")
HEAD = ("way", "ms a token", "ratio")
ROWS = [
    ("unsteered", "10.00", "1.000"),
    ("a rather long bundle's name", "10.10", ""),
    ("図書館", "9.99", "0.999"),
]


def test_a_table_that_fits_has_a_line_a_row_in_columns() -> None:
    lines = list(table(HEAD, ROWS, width=80))
    assert len(lines) == 1 + len(ROWS)
    assert {cells(line) for line in (lines[0], lines[1], lines[3])} == {cells(lines[0])}


@pytest.mark.parametrize("width", [20, 30, 40])
def test_a_narrow_one_holds_all_its_numbers(width: int) -> None:
    lines = list(table(HEAD, ROWS, width=width))
    assert max(map(cells, lines)) <= width
    text = " ".join(lines)
    for row in ROWS:
        assert all(cell in text for cell in row[1:])


def test_names_are_spelled_out_and_cut() -> None:
    lines = list(table(HEAD, [("\x1b[31m\u202ered" * 9, "1", "2")], width=80))
    assert not any(c in "".join(lines) for c in "\x1b\u202e")
    assert "…" in lines[1]
    assert max(map(cells, lines)) <= 80


texts = st.one_of(st.sampled_from(NASTY), st.text(max_size=12))
cells_of_a_table = st.lists(
    st.tuples(*[st.builds(Cell, texts, st.integers(-LEVELS, LEVELS))] * 3), min_size=1, max_size=4
)


@given(cells_of_a_table, st.sets(st.integers(0, 2)), st.booleans())
def test_colour_changes_no_character_and_no_text_drives_the_terminal(
    rows: list[tuple[Cell, Cell, Cell]], left: set[int], narrow: bool
) -> None:
    width = 20 if narrow else None
    plain = list(table(HEAD, rows, left=left, width=width))
    colored = list(table(HEAD, rows, left=left, width=width, colored=True))
    assert [SGR.sub("", line) for line in colored] == plain
    for line in plain:
        assert visible(bare := ISOLATES.sub("", line)) == bare
        assert not narrow or cells(bare) <= 20


@given(cells_of_a_table)
def test_columns_stand_below_one_another(rows: list[tuple[Cell, Cell, Cell]]) -> None:
    ended = [(*row, Cell("|")) for row in rows]
    lines = [ISOLATES.sub("", line) for line in table((*HEAD, "|"), ended, left=(0, 1))]
    assert {line[-1] for line in lines} == {"|"}
    assert len({cells(line) for line in lines}) == 1
