"""Steering maps as HTML: a page with a slider over recorded strengths, and a fragment for a notebook.

The page holds the numbers as JSON, and its script draws them; the first run is also there without a script.
The fragment is one <div> without script or ids; its colours are half transparent, for white and for dark
pages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from edgesteer.report.cells import visible
from edgesteer.report.html import render
from edgesteer.report.palette import LEVELS, Scale, number
from edgesteer.report.svg import element, label
from edgesteer.steering_map import SteeringMap


class Run(NamedTuple):
    """label: the run's name, such as its strength."""

    label: str
    map: SteeringMap


class Token(NamedTuple):
    """total: the coefficient summed over blocks; share: its share of full colour, -1 to 1."""

    piece: str
    total: float
    share: float
    is_prompt: bool

    @property
    def ends_line(self) -> bool:
        return self.piece.endswith("\n")


def _tokens(shown: SteeringMap, scale: Scale) -> list[Token]:
    return [
        Token(piece, total, scale.share(total), i < shown.n_prompt)
        for i, (piece, total) in enumerate(zip(shown.pieces, shown.totals.tolist(), strict=True))
    ]


# -- the page --------------------------------------------------------------------------------------


def page(title: str, prompt: str, runs: Sequence[Run], first: int = 0) -> str:
    """The document. runs: of one prompt, in the order of the slider; first: the index of the one shown first.

    Raises ValueError for no runs.
    """
    if not runs:
        raise ValueError("map page: no runs, expected at least one")
    layers = sorted({layer for run in runs for layer in run.map.layers})
    # The same scales for all runs, to make them comparable.
    totals = Scale.of(np.concatenate([run.map.totals for run in runs]))
    cells = Scale.of(np.concatenate([run.map.coefficients.ravel() for run in runs]))
    data = {
        "layers": layers,
        "total": totals.limit,
        "cell": cells.limit,
        "first": first,
        "from": _first_steered(runs),
        "runs": [_run(run, layers) for run in runs],
    }
    return render(
        "map",
        title=title,
        prompt=prompt,
        labels=[run.label for run in runs],
        first=first,
        tokens=_tokens(runs[first].map, totals),
        data=data,
    )


def _first_steered(runs: Sequence[Run]) -> int:
    """The first token that any run steers, or 0. The blocks leave out the tokens before it."""
    steered = [np.flatnonzero(run.map.coefficients.any(axis=1)) for run in runs]
    return int(min((tokens[0] for tokens in steered if len(tokens)), default=0))


def _run(run: Run, layers: Sequence[int]) -> dict[str, Any]:
    """The run for the script. rows: the tokens' values at each block, in three digits for a small page."""
    columns = dict(zip(run.map.layers, run.map.coefficients.T, strict=True))
    zeros = np.zeros(len(run.map), dtype=np.float32)
    return {
        "label": visible(run.label),
        "prompt": run.map.n_prompt,
        "pieces": [visible(piece) for piece in run.map.pieces],
        "breaks": [piece.endswith("\n") for piece in run.map.pieces],
        "totals": _three_digits(run.map.totals),
        "rows": [_three_digits(columns.get(layer, zeros)) for layer in layers],
    }


def _three_digits(values: Any) -> list[float]:
    return [float(f"{value:.3g}") for value in values.tolist()]


# -- the fragment for a notebook -------------------------------------------------------------------

_WARM, _COLD, _OPAQUE = "214,102,26", "58,122,224", 0.75
# Pixels across for a token, downward for a block; and the most cells, which bound the notebook's size.
_ACROSS, _DOWN, _MOST_CELLS = 6, 8, 60_000
_LEFT, _TOP, _TICK = 30, 12, 10


class Blocks(NamedTuple):
    """n_shown: the number of tokens, the last ones, that are drawn."""

    title: str
    n_shown: int
    svg: Markup


def fragment(shown: SteeringMap) -> str:
    """The <div>: the tokens in colour, and below them the blocks, folded."""
    totals = Scale.of(shown.totals)
    return render(
        "fragment",
        tokens=_tokens(shown, totals),
        color=_color,
        n_prompt=shown.n_prompt,
        n_blocks=len(shown.layers),
        limit=totals.limit,
        blocks=_blocks(shown) if shown.layers else None,
    )


def _color(share: float) -> str:
    return f"rgba({_WARM if share > 0 else _COLD},{_OPAQUE * abs(share):.2f})" if share else "none"


def _blocks(shown: SteeringMap) -> Blocks:
    """Blocks downward, tokens across."""
    first = max(0, len(shown) - max(1, _MOST_CELLS // len(shown.layers)))
    scale, values = Scale.of(shown.coefficients), shown.coefficients[first:].T
    height, width = values.shape[0] * _DOWN, values.shape[1] * _ACROSS
    ends = f"{shown.layers[0]} to {shown.layers[-1]}"
    title = f"Blocks {ends} downward, tokens across; full at {number(scale.limit)}"
    cells = element(
        "g", *_runs(scale, values), transform=f"translate({_LEFT} {_TOP}) scale({_ACROSS} {_DOWN})"
    )
    svg = element(
        "svg",
        *_labels(shown, first, height),
        cells,
        role="img",
        aria_label=title,
        width=width + _LEFT,
        height=height + 16,
        style="color:inherit;font-size:9px",
        fill="currentColor",
        shape_rendering="crispEdges",
    )
    return Blocks(title, values.shape[1], svg)


def _labels(shown: SteeringMap, first: int, height: int) -> Iterator[Markup]:
    """The first and the last block's number, every tenth token's, and a line where the reply begins."""
    rows = {0: shown.layers[0], len(shown.layers) - 1: shown.layers[-1]}
    for row, layer in rows.items():
        yield label(_LEFT - 4, _TOP + row * _DOWN + 8, str(layer), "end")
    for i in range(-(-first // _TICK) * _TICK, len(shown), _TICK):
        yield label(_LEFT + (i - first) * _ACROSS, 9, str(i))
    if first < shown.n_prompt < len(shown):
        x = _LEFT + (shown.n_prompt - first) * _ACROSS
        yield element(
            "line", x1=x, x2=x, y1=_TOP, y2=_TOP + height, stroke="currentColor", stroke_dasharray="2 2"
        )


def _runs(scale: Scale, values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Iterator[Markup]:
    """One path for each level, in runs of equal cells."""
    runs: dict[int, list[str]] = {}
    for row, line in enumerate(values.tolist()):
        at = 0
        for level, same in groupby(scale.level(value) for value in line):
            width = len(list(same))
            if level:
                runs.setdefault(level, []).append(f"M{at} {row}h{width}v1h-{width}z")
            at += width
    for level, parts in sorted(runs.items()):
        yield element("path", fill=_color(level / LEVELS), d="".join(parts))
