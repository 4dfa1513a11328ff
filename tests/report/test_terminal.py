"""A map on a terminal: every character once, in order, within the width, and nothing a model could inject."""

import io
import re
import unicodedata
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesteer.report import render, wants_color
from edgesteer.report.cells import cells, glyphs, wrap
from edgesteer.report.palette import LEVELS, Scale, mark
from edgesteer.report.terminal import MIN_WIDTH, token_lines
from edgesteer.steering_map import SteeringMap, join_pieces
from edgesteer.text import visible

SGR = re.compile(r"\x1b\[[0-9;]*m")
ISOLATES = re.compile("[\u2068\u2069]")


def a_map(
    pieces: list[str], totals: list[float] | None = None, n_prompt: int = 0, blocks: int = 1
) -> SteeringMap:
    values = np.zeros((len(pieces), blocks), dtype=np.float32)
    values[:, 0] = totals if totals is not None else np.arange(len(pieces))
    ids = tuple(range(len(pieces)))
    return SteeringMap(ids, tuple(pieces), ids, n_prompt, tuple(range(3, 3 + blocks)), values)


nasty = st.sampled_from(
    [
        "\x1b[31m",
        "\n",
        "\t",
        "\x07",
        "\u202e",
        "\u2067",
        "\x9b2J",
        "👩‍🚀",
        "é",
        "e\u0301",
        "茶",
        "שלום",
        "\r",
        "❤️",
    ]
)
pieces = st.lists(st.one_of(nasty, st.text(max_size=12)), min_size=1, max_size=20)
numbers = st.floats(-50, 50, width=32)
widths = st.integers(MIN_WIDTH, 120)


@st.composite
def maps(draw: st.DrawFn) -> SteeringMap:
    texts = draw(pieces)
    totals = draw(st.lists(numbers, min_size=len(texts), max_size=len(texts)))
    return a_map(texts, totals, draw(st.integers(0, len(texts))), draw(st.integers(1, 4)))


def plain(text: str) -> str:
    return ISOLATES.sub("", SGR.sub("", text))


def shown_text(steering_map: SteeringMap, width: int, colored: bool) -> str:
    """The text that the token lines carry, without colour, headings, marks and line breaks."""
    lines = [plain(line) for line in token_lines(steering_map, width, colored, False)]
    if colored:
        return "".join(lines)
    parts, pending = [], lines
    while pending:
        if pending[0] in ("prompt:", "reply:") and 0 < steering_map.n_prompt < len(steering_map):
            pending = pending[1:]
        else:
            parts.append(pending[0])
            pending = pending[2:]
    return "".join(parts)


@given(maps(), widths, st.booleans())
def test_every_character_appears_once_and_in_order(
    steering_map: SteeringMap, width: int, colored: bool
) -> None:
    texts = [text for text in steering_map.pieces if text not in ("prompt:", "reply:")]
    if len(texts) == len(steering_map):
        assert shown_text(steering_map, width, colored) == "".join(map(visible, texts))


@given(maps(), widths)
def test_numbers_keep_every_character_too(steering_map: SteeringMap, width: int) -> None:
    lines = [plain(line) for line in token_lines(steering_map, width, True, True)]
    squeezed = [
        text.replace(" ", "") for text in ("".join(lines[::2]), visible("".join(steering_map.pieces)))
    ]
    assert squeezed[0] == squeezed[1]


@given(maps(), widths, st.booleans(), st.booleans(), st.booleans())
def test_no_line_exceeds_the_width(
    steering_map: SteeringMap, width: int, colored: bool, numbered: bool, reply_only: bool
) -> None:
    text = render(
        steering_map, width=width, color=colored, numbers=numbered, heat=True, reply_only=reply_only
    )
    assert max(cells(plain(line)) for line in text.split("\n")) <= width


@given(maps(), widths, st.booleans(), st.booleans())
def test_nothing_of_a_piece_can_control_the_terminal(
    steering_map: SteeringMap, width: int, colored: bool, numbered: bool
) -> None:
    text = render(steering_map, width=width, color=colored, numbers=numbered, heat=True, reply_only=False)
    rest = SGR.sub("", text) if colored else text
    assert {char for char in rest if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")} <= {"\n"}
    for line in rest.split("\n"):
        controls = [
            char
            for char in line
            if unicodedata.bidirectional(char) in ("FSI", "PDI", "RLI", "LRI", "RLO", "LRO")
        ]
        assert "".join(controls) == "\u2068\u2069" * (len(controls) // 2)


@given(maps(), widths)
def test_colour_ends_where_the_line_ends(steering_map: SteeringMap, width: int) -> None:
    for line in render(steering_map, width=width, color=True, heat=True, reply_only=False).split("\n"):
        codes = SGR.findall(line)
        assert not codes or codes[-1] == "\x1b[0m"


@given(st.text())
def test_what_is_printable_stays_as_it_is(text: str) -> None:
    kept = "".join(char for char in text if char.isprintable())
    assert visible(kept) == kept


@pytest.mark.parametrize(
    ("raw", "spelled"),
    [
        ("\n", "↵"),
        ("\t", "⇥"),
        ("\x1b", "␛"),
        ("\x7f", "␡"),
        ("\x9b", "\\x9b"),
        ("\u202e", "\\u202e"),
        ("\ud800", "\\ud800"),
    ],
)
def test_controls_are_spelled_out(raw: str, spelled: str) -> None:
    assert visible(f"a{raw}b") == f"a{spelled}b"


def test_a_map_of_nothing_renders() -> None:
    assert render(SteeringMap.empty(), width=80, color=True, heat=True) == "no tokens"
    assert render(a_map(["a"], [1], n_prompt=1), width=80, color=False, reply_only=True) == "no tokens"


def test_unsteered_tokens_have_no_colour() -> None:
    assert not SGR.search(render(a_map(["a", "b"], [0, 0]), width=80, color=True, heat=True))


def test_signs_have_hues_and_marks_of_their_own() -> None:
    up, down = (a_map(["word"], [sign]) for sign in (2, -2))
    colours = [set(SGR.findall(token_lines(m, 80, True, False)[0])) - {"\x1b[0m"} for m in (up, down)]
    assert colours[0].isdisjoint(colours[1])
    marks = [set(token_lines(m, 80, False, False)[1]) for m in (up, down)]
    assert marks[0].isdisjoint(marks[1])
    every = [{mark(sign * level) for level in range(1, LEVELS + 1)} for sign in (1, -1)]
    assert every[0].isdisjoint(every[1])


def test_marks_stand_under_their_tokens() -> None:
    text, marks = token_lines(a_map(["ab", "茶", "", "cd"], [1, 0, 5, 9]), 80, False, False)
    assert text == "ab茶cd"
    assert (marks[:2], marks[2:4], marks[4:]) == (mark(1) * 2, "  ", mark(LEVELS) * 2)


def test_the_prompt_is_dimmed_or_left_out() -> None:
    steering_map = a_map(["ask", "tell"], [0, 3], n_prompt=1)
    assert "\x1b[2mask" in render(steering_map, width=80, color=True, reply_only=False)
    assert "ask" not in render(steering_map, width=80, color=True, reply_only=True)
    assert "\x1b[2m" not in render(steering_map, width=80, color=True, reply_only=True)


@given(st.lists(numbers, min_size=1, max_size=30), numbers)
def test_levels_are_odd_monotone_and_bounded(values: list[float], value: float) -> None:
    scale = Scale.of(np.array(values, dtype=np.float32))
    levels = [scale.level(v) for v in sorted([*values, value])]
    assert levels == sorted(levels)
    assert scale.level(-value) == -scale.level(value)
    assert max(map(abs, levels)) <= LEVELS


def test_one_outlier_does_not_flatten_the_rest() -> None:
    values = np.array([1.0] * 99 + [1000.0], dtype=np.float32)
    assert Scale.of(values).level(1.0) == LEVELS


@pytest.mark.parametrize(
    ("choice", "environ", "terminal", "expected"),
    [
        (None, {}, True, True),
        (None, {}, False, False),
        (None, {"NO_COLOR": "1"}, True, False),
        (None, {"NO_COLOR": ""}, True, True),
        (None, {"TERM": "dumb"}, True, False),
        (True, {"NO_COLOR": "1"}, False, True),
        (False, {}, True, False),
    ],
)
def test_colour_is_chosen_as_no_color_org_says(
    choice: bool | None, environ: dict[str, str], terminal: bool, expected: bool
) -> None:
    stream = io.StringIO()
    stream.isatty = lambda: terminal  # type: ignore[method-assign]
    assert wants_color(choice, stream, environ) is expected


def test_no_color_leaves_no_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert "\x1b" not in render(a_map(["a", "b"], [1, -2], blocks=2), width=80, heat=True, numbers=True)


def test_words_stay_whole_where_they_fit() -> None:
    lines = wrap(glyphs(["The", " quick", " brown", " fox", "es"]), 10)
    assert ["".join(glyph.text for glyph in line) for line in lines] == ["The quick ", "brown ", "foxes"]


@given(st.text(), st.lists(st.integers(0, 200)))
def test_joined_pieces_are_the_text_and_split_no_character(text: str, cuts: list[int]) -> None:
    data = text.encode("utf-8", "replace")
    bounds = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    tokens = [data[a:b] for a, b in pairwise(bounds)] or [b""]
    joined = join_pieces(tokens)
    assert len(joined) == len(tokens)
    assert "".join(joined).encode() == data


def test_a_split_character_goes_to_the_token_that_completes_it() -> None:
    bird = "🦜".encode()
    assert join_pieces([b"a", bird[:1], bird[1:3], bird[3:] + b"b"]) == ["a", "", "", "🦜b"]


def test_bytes_that_are_no_text_are_shown_as_such() -> None:
    assert join_pieces([b"\xff", "é".encode()[:1]]) == ["\ufffd", "\ufffd"]
    assert join_pieces([]) == []


def test_the_heat_map_has_a_row_per_block_and_a_cell_per_token() -> None:
    values = np.array([[1, 0, -1], [0, 2, 0]], dtype=np.float32).T
    steering_map = SteeringMap((0, 1, 2), ("a", "b", "c"), (0, 1, 2), 0, (7, 12), values)
    text = render(steering_map, width=60, color=False, heat=True)
    assert f" 7 {mark(4)} {mark(-4)}\n12  {mark(8)}" in text
