"""The bench's tables fit any terminal, and what a person named drives none."""

from __future__ import annotations

import pytest

from edgesteer.report.bench_table import MIN_WIDTH, grid
from edgesteer.report.cells import cells

HEAD = ("way", "ms a token", "ratio")
ROWS = [
    ("unsteered", "10.00", "1.000"),
    ("a rather long bundle's name", "10.10", ""),
    ("図書館", "9.99", "0.999"),
]


def test_a_table_that_fits_has_a_line_a_row_in_columns() -> None:
    told = list(grid(HEAD, ROWS, 80))
    assert len(told) == 1 + len(ROWS)
    assert {cells(line) for line in (told[0], told[1], told[3])} == {cells(told[0])}


@pytest.mark.parametrize("width", [MIN_WIDTH, 30, 40])
def test_a_narrow_one_holds_all_its_numbers(width: int) -> None:
    told = list(grid(HEAD, ROWS, width))
    assert max(map(cells, told)) <= width
    text = " ".join(told)
    for row in ROWS:
        assert all(cell in text for cell in row[1:])


def test_names_are_spelled_out_and_cut() -> None:
    told = list(grid(HEAD, [("\x1b[31m\u202ered" * 9, "1", "2")], 80))
    assert not any(c in "".join(told) for c in "\x1b\u202e")
    assert "…" in told[1]
    assert max(map(cells, told)) <= 80
