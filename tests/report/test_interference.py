"""The interference table: every block once, within the width, the same with and without colour."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesteer.bundle import Bundle, encode_directions
from edgesteer.interference import Interference, interference
from edgesteer.report import render_interference
from edgesteer.report.cells import cells, visible
from edgesteer.report.terminal import MIN_WIDTH

SGR = re.compile(r"\x1b\[[0-9;]*m")
ISOLATES = re.compile("[\u2068\u2069]")


@st.composite
def pictures(draw: st.DrawFn) -> Interference:
    values = st.lists(st.floats(-1e6, 1e6, width=32), min_size=4, max_size=4).filter(any)
    rows = st.dictionaries(st.integers(1, 129), values, min_size=1, max_size=4)
    name = st.one_of(st.text(max_size=30), st.sampled_from(["\x1b[2J", "a\nb", "茶" * 30, "שלום", "\u202ex"]))
    items = draw(st.lists(st.tuples(rows, name, st.floats(-1e30, 1e30)), max_size=5))
    return interference((made(directions, name), strength) for directions, name, strength in items)


def made(directions: dict[int, list[float]], name: str = "b") -> Bundle:
    arrays = {n: np.array(v, np.float32) for n, v in directions.items()}
    return Bundle.from_control_vector(encode_directions(arrays, "llama"), name)


@settings(deadline=None, max_examples=40)
@given(pictures(), st.integers(1, 130), st.booleans())
def test_no_line_is_wider_than_asked_and_nothing_drives_the_terminal(
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
