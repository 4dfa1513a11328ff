"""A steering map as text for a terminal: each token by how strongly it was steered, and a grid of blocks.

Without colour, marks under the text show the same levels, so that a log or a pipe loses nothing.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TextIO

import numpy as np
import numpy.typing as npt

from edgesteer.report import palette
from edgesteer.report.cells import Glyph, glyphs, is_right_to_left, isolate, wrap
from edgesteer.report.palette import Scale
from edgesteer.steering_map import SteeringMap

MIN_WIDTH = 40


def wants_color(
    choice: bool | None = None, stream: TextIO | None = None, environ: Mapping[str, str] | None = None
) -> bool:
    """`choice`; if None, whether the stream is a terminal that is not dumb, without NO_COLOR."""
    if choice is not None:
        return choice
    env = os.environ if environ is None else environ
    if env.get("NO_COLOR"):
        return False
    return (stream or sys.stdout).isatty() and env.get("TERM") != "dumb"


def usable_width(width: int | None) -> int:
    """`width`, or the terminal's if None, but at least MIN_WIDTH."""
    return max(MIN_WIDTH, shutil.get_terminal_size().columns if width is None else width)


def render(
    steering_map: SteeringMap,
    *,
    width: int | None = None,
    color: bool | None = None,
    numbers: bool = False,
    heat: bool = False,
    reply_only: bool = True,
) -> str:
    """The map as text, no line wider than `width` cells (at least 40; None: the terminal's).

    color: None decides by `wants_color`. numbers: the coefficient under each token. heat: a grid of blocks
    and tokens below. reply_only: leave the prompt out; else it is shown dimmed before the reply.
    """
    width = usable_width(width)
    colored = wants_color(color)
    shown = steering_map.reply if reply_only else steering_map
    if len(shown) == 0:
        return "no tokens"
    parts = [token_lines(shown, width, colored, numbers), legend_lines(shown, width, colored)]
    if heat:
        parts.append(heat_lines(shown, width, colored))
    return "\n\n".join("\n".join(lines) for lines in parts)


def show(
    steering_map: SteeringMap, *, numbers: bool = False, heat: bool = False, reply_only: bool = True
) -> None:
    """Print the map to standard output, in its width, and in colour if it is a terminal."""
    print(render(steering_map, numbers=numbers, heat=heat, reply_only=reply_only))


@dataclass(frozen=True, slots=True)
class _Section:
    """The prompt or the reply: consecutive tokens, their coefficients and levels."""

    pieces: Sequence[str]
    totals: npt.NDArray[np.float32]
    levels: list[int]
    dim: bool

    def paint(self, text: str, token: int) -> str:
        return palette.paint(text, self.levels[token], self.dim)


def _sections(shown: SteeringMap) -> Iterator[tuple[str, _Section]]:
    scale, totals = Scale.of(shown.totals), shown.totals
    for name, part in (("prompt", slice(None, shown.n_prompt)), ("reply", slice(shown.n_prompt, None))):
        if shown.pieces[part]:
            levels = [scale.level(float(total)) for total in totals[part]]
            yield name, _Section(shown.pieces[part], totals[part], levels, name == "prompt")


def token_lines(shown: SteeringMap, width: int, colored: bool, numbers: bool) -> list[str]:
    """The tokens' text: the prompt, then the reply on lines of its own."""
    sections = list(_sections(shown))
    lines: list[str] = []
    for name, section in sections:
        lines += [f"{name}:"] if len(sections) > 1 and not colored else []
        if numbers:
            lines += _number_lines(section, width, colored)
        else:
            lines += _color_lines(section, width) if colored else _marked_lines(section, width)
    return lines


def _segments(line: list[Glyph]) -> list[tuple[int, str, int]]:
    """The part of each token on one line: the token's index, its text, its cells."""
    groups = ((token, list(group)) for token, group in groupby(line, key=lambda glyph: glyph.token))
    return [(token, "".join(g.text for g in group), sum(g.cells for g in group)) for token, group in groups]


def _color_lines(section: _Section, width: int) -> list[str]:
    return [_color_line(section, _segments(line)) for line in wrap(glyphs(section.pieces), width)]


def _color_line(section: _Section, segments: list[tuple[int, str, int]]) -> str:
    """One line in colour; its right-to-left stretch is isolated as a whole, which keeps its order."""
    texts = [section.paint(text, token) for token, text, _ in segments]
    turned = [i for i, (_, text, _) in enumerate(segments) if is_right_to_left(text)]
    if not turned:
        return "".join(texts)
    first, end = turned[0], turned[-1] + 1
    return "".join([*texts[:first], isolate("".join(texts[first:end])), *texts[end:]])


def _marked_lines(section: _Section, width: int) -> list[str]:
    """Pairs of lines: text, and under it the mark of each token."""
    lines = []
    for line in wrap(glyphs(section.pieces), width):
        segments = _segments(line)
        lines.append("".join(isolate(text) for _, text, _ in segments))
        lines.append(
            "".join(palette.mark(section.levels[token]) * cells for token, _, cells in segments).rstrip()
        )
    return lines


def _number_lines(section: _Section, width: int, colored: bool) -> list[str]:
    """Pairs of lines: tokens in columns, and under each its coefficient."""
    rows = [("", "")]
    used = 0
    for column, cells, label in _columns(section, width, colored):
        room = max(cells, len(label))
        gap = 1 if used else 0
        if used + gap + room > width:
            rows.append(("", ""))
            used = gap = 0
        above, below = rows[-1]
        used += gap + room
        rows[-1] = (f"{above}{' ' * gap}{column}{' ' * (room - cells)}", f"{below}{' ' * gap}{label:<{room}}")
    return [line.rstrip(" ") for row in rows for line in row]


def _columns(section: _Section, width: int, colored: bool) -> Iterator[tuple[str, int, str]]:
    """Each token's text, cells and coefficient; a token too long for a line takes further columns."""
    for token, piece in enumerate(section.pieces):
        label = palette.number(float(section.totals[token]))
        flat = [glyph._replace(ends_line=False) for glyph in glyphs([piece])]
        for line in wrap(flat, width) or [[]]:
            text, cells = "".join(glyph.text for glyph in line), sum(glyph.cells for glyph in line)
            yield section.paint(isolate(text), token) if colored else isolate(text), cells, label
            label = ""


def legend_lines(shown: SteeringMap, width: int, colored: bool) -> list[str]:
    """The scale, the range, and the meaning of the numbers."""
    totals = shown.totals
    ends = {"negative": bool((totals < 0).any()), "positive": bool((totals > 0).any())}
    low, mean, high = (palette.number(float(f(totals))) for f in (np.min, np.mean, np.max))
    words = [
        f"min {low}  mean {mean}  max {high}  over {len(shown)} {'token' if len(shown) == 1 else 'tokens'}",
        f"Coefficient of a token: strength × gate{_blocks(shown.layers)}. It shapes the tokens that follow.",
    ]
    scale = palette.legend(Scale.of(totals), colored=colored, **ends)
    return [scale, *(line for text in words for line in textwrap.wrap(text, width))]


def _blocks(layers: Sequence[int]) -> str:
    if len(layers) < 2:
        return "".join(f" at block {layer}" for layer in layers)
    return f", summed over {len(layers)} blocks ({layers[0]} to {layers[-1]})"


# -- blocks and tokens -----------------------------------------------------------------------------

_TICK = 10


def heat_lines(shown: SteeringMap, width: int, colored: bool) -> list[str]:
    """A title, then as many bands of columns as `width` requires, each under a ruler of token numbers."""
    if not shown.layers:
        return ["no steered blocks"]
    scale = Scale.of(shown.coefficients)
    levels = [[scale.level(float(value)) for value in row] for row in shown.coefficients.T]
    margin = len(str(shown.layers[-1])) + 1
    lines = _title(shown, scale, width, colored)
    room = width - margin
    for start in range(0, len(shown), room):
        band = [row[start : start + room] for row in levels]
        lines.append((" " * margin + _ruler(start, len(band[0]), shown.n_prompt)).rstrip())
        lines += _heat_rows(shown.layers, band, margin, colored)
    return lines


def _title(shown: SteeringMap, scale: Scale, width: int, colored: bool) -> list[str]:
    values = shown.coefficients
    ends = {"negative": bool((values < 0).any()), "positive": bool((values > 0).any())}
    two = " two to a row," if colored and len(shown.layers) > 1 else ""
    reply = " ▾ is the first of the reply." if 0 < shown.n_prompt < len(shown) else ""
    text = f"Coefficient at each block: blocks downward,{two} tokens across.{reply}"
    return [*textwrap.wrap(text, width), palette.legend(scale, colored=colored, **ends)]


def _ruler(start: int, n: int, n_prompt: int) -> str:
    """Token numbers at every tenth column where they fit, and a mark where the reply begins."""
    cells = [" "] * n
    for tick in range(-(-start // _TICK) * _TICK, start + n, _TICK):
        text = str(tick)
        if tick - start + len(text) <= n:
            cells[tick - start : tick - start + len(text)] = text
    if n_prompt and start <= n_prompt < start + n:
        cells[n_prompt - start] = "▾"
    return "".join(cells)


def _heat_rows(layers: tuple[int, ...], band: list[list[int]], margin: int, colored: bool) -> list[str]:
    labels = [f"{layer:>{margin - 1}} " for layer in layers]
    if not colored:
        rows = zip(labels, band, strict=True)
        return [(label + "".join(palette.mark(level) for level in row)).rstrip() for label, row in rows]
    uneven = [*band, [0] * len(band[0])]
    pairs = [(labels[i], uneven[i], uneven[i + 1]) for i in range(0, len(band), 2)]
    return [
        label + "".join(palette.half_blocks(u, v) for u, v in zip(upper, lower, strict=True))
        for label, upper, lower in pairs
    ]
