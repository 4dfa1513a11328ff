"""A steering map as a piece of HTML for a notebook: what `_repr_html_` shows.

In:  a SteeringMap. Out: one <div> as text: no document around it, no script, no address, every style in place, so
that it looks the same wherever it is put. Colours are half transparent and text keeps the notebook's own, so that
it reads on a white and on a dark page. Model text is untrusted: it is escaped, control characters spelled out.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from itertools import groupby

import numpy as np

from edgesteer.report.cells import visible
from edgesteer.report.palette import LEVELS, Scale, number
from edgesteer.steering_map import SteeringMap

_WARM, _COLD, _OPAQUE = "214,102,26", "58,122,224", 0.75
_TEXT = "white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:plaintext;line-height:1.9"
_DIM = "opacity:.7;font-size:90%"

# A token is so many pixels wide in the heat map, a block so many high; more cells would swell the notebook's file.
_ACROSS, _DOWN, _MOST_CELLS = 6, 8, 60_000
_MARGIN, _TICK = 30, 10


def fragment(shown: SteeringMap) -> str:
    """The <div>."""
    if len(shown) == 0:
        told = "Steering map: no tokens yet. It is filled when the recording ends."
        return f'<div style="{_DIM}">{told}</div>'
    scale = Scale.of(shown.totals)
    tokens = "".join(_tokens(shown, scale))
    legend = f'<div style="{_DIM}">{_legend(shown, scale)}</div>'
    return f'<div><div style="{_TEXT}">{tokens}</div>{legend}{_heat(shown)}</div>'


def _tokens(shown: SteeringMap, scale: Scale) -> Iterator[str]:
    for i, (piece, total) in enumerate(zip(shown.pieces, shown.totals.tolist(), strict=True)):
        share = 0.0 if scale.limit == 0 else max(-1.0, min(1.0, total / scale.limit))
        dim = "opacity:.55;" if i < shown.n_prompt else ""
        style = f"{dim}background:{_color(share)};border-radius:3px"
        ending = "<br>" if piece.endswith("\n") else ""
        yield f'<span style="{style}" title="{escape(number(total))}">{escape(visible(piece))}</span>{ending}'


def _color(share: float) -> str:
    return f"rgba({_WARM if share > 0 else _COLD},{_OPAQUE * abs(share):.2f})" if share else "none"


def _legend(shown: SteeringMap, scale: Scale) -> str:
    n, blocks = len(shown), len(shown.layers)
    prompt = f", the first {shown.n_prompt} of the prompt (dimmed)" if shown.n_prompt else ""
    told = (
        f"{n} {'token' if n == 1 else 'tokens'}{prompt}. Colour: strength × gate, summed over {blocks} "
        f"{'block' if blocks == 1 else 'blocks'}; full at {number(scale.limit)}. It shapes the tokens that follow."
    )
    return escape(told)


# -- the blocks ------------------------------------------------------------------------------------


def _heat(shown: SteeringMap) -> str:
    """Blocks downward, tokens across: one path for each level, in runs of equal ones."""
    if not shown.layers:
        return ""
    first = max(0, len(shown) - max(1, _MOST_CELLS // len(shown.layers)))
    scale, values = Scale.of(shown.coefficients), shown.coefficients[first:].T
    across, down = values.shape[1] * _ACROSS, len(shown.layers) * _DOWN
    told = f"Blocks {shown.layers[0]} to {shown.layers[-1]} downward, tokens across; full at {number(scale.limit)}"
    left_out = f" (the last {values.shape[1]} tokens)" if first else ""
    return (
        f"<details><summary>{escape(told)}{left_out}</summary>"
        f'<div style="overflow-x:auto"><svg role="img" aria-label="{escape(told)}" width="{across + _MARGIN}" '
        f'height="{down + 16}" style="color:inherit;font-size:9px" shape-rendering="crispEdges">'
        f'{"".join(_labels(shown, first, down))}<g transform="translate({_MARGIN} 12) scale({_ACROSS} {_DOWN})">'
        f"{''.join(_paths(scale, values))}</g></svg></div></details>"
    )


def _labels(shown: SteeringMap, first: int, down: int) -> Iterator[str]:
    """The first and the last block's number, every tenth token's, and a line where the reply begins."""
    rows = {0: shown.layers[0], len(shown.layers) - 1: shown.layers[-1]}
    for row, layer in rows.items():
        yield _text(_MARGIN - 4, 12 + row * _DOWN + 8, str(layer), "end")
    for i in range(-(-first // _TICK) * _TICK, len(shown), _TICK):
        yield _text(_MARGIN + (i - first) * _ACROSS, 9, str(i), "start")
    if first < shown.n_prompt < len(shown):
        x = _MARGIN + (shown.n_prompt - first) * _ACROSS
        yield f'<line x1="{x}" x2="{x}" y1="12" y2="{12 + down}" stroke="currentColor" stroke-dasharray="2 2"/>'


def _text(x: int, y: int, told: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="currentColor">{told}</text>'


def _paths(scale: Scale, values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Iterator[str]:
    runs: dict[int, list[str]] = {}
    for row, line in enumerate(values.tolist()):
        at = 0
        for level, same in groupby(scale.level(value) for value in line):
            width = len(list(same))
            if level:
                runs.setdefault(level, []).append(f"M{at} {row}h{width}v1h-{width}z")
            at += width
    for level, parts in sorted(runs.items()):
        yield f'<path fill="{_color(level / LEVELS)}" d="{"".join(parts)}"/>'
