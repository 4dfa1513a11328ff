"""A steering map as a heat map: a row per block, a column per token.

Knows the grid and its ruler. Data flow: SteeringMap -> lines. Colour shows two blocks in one row of half
blocks; without it every block has a row of marks.
"""

from __future__ import annotations

import textwrap

from edgesteer.report import palette
from edgesteer.report.palette import Scale
from edgesteer.steering_map import SteeringMap

_TICK = 10


def heat_lines(shown: SteeringMap, width: int, colored: bool) -> list[str]:
    """Title, then as many bands of columns as `width` demands, each under a ruler of token numbers."""
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
        lines += _rows(shown.layers, band, margin, colored)
    return lines


def _title(shown: SteeringMap, scale: Scale, width: int, colored: bool) -> list[str]:
    values = shown.coefficients
    ends = {"negative": bool((values < 0).any()), "positive": bool((values > 0).any())}
    two = " two to a row," if colored and len(shown.layers) > 1 else ""
    reply = " ▾ is the first of the reply." if 0 < shown.n_prompt < len(shown) else ""
    text = f"Coefficient at each block: blocks downward,{two} tokens across.{reply}"
    return [*textwrap.wrap(text, width), palette.legend(scale, colored=colored, **ends)]


def _ruler(start: int, n: int, n_prompt: int) -> str:
    """Token numbers at every tenth column, where they fit, and the place where the reply begins."""
    cells = [" "] * n
    for tick in range(-(-start // _TICK) * _TICK, start + n, _TICK):
        text = str(tick)
        if tick - start + len(text) <= n:
            cells[tick - start : tick - start + len(text)] = text
    if n_prompt and start <= n_prompt < start + n:
        cells[n_prompt - start] = "▾"
    return "".join(cells)


def _rows(layers: tuple[int, ...], band: list[list[int]], margin: int, colored: bool) -> list[str]:
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
