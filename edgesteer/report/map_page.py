"""Steering maps as one HTML page: the reply's tokens coloured, every block below, a slider over recorded strengths.

In:  recorded runs of one prompt, each a strength and its SteeringMap. Out: a document as text; it needs no network.

The page holds the numbers as JSON and draws them itself; the run that is shown first is there without a script too.
Model text is untrusted: it is escaped here, and set as text, never as HTML, by the script.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html import escape
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from edgesteer.report.cells import visible
from edgesteer.report.page import document, text
from edgesteer.report.palette import Scale, number
from edgesteer.steering_map import SteeringMap


class Run(NamedTuple):
    """label: how the run is called, such as its strength. map: what was recorded."""

    label: str
    map: SteeringMap


def page(title: str, prompt: str, runs: Sequence[Run], first: int = 0) -> str:
    """The document. runs: in the order of the slider; first: the one that is shown at first.

    Raises ValueError for no runs.
    """
    if not runs:
        raise ValueError("map page: no runs, expected at least one")
    layers = sorted({layer for run in runs for layer in run.map.layers})
    scales = _scales(runs)
    data = {
        "layers": layers,
        "total": scales[0].limit,
        "cell": scales[1].limit,
        "first": first,
        "from": _begin(runs),
        "runs": [_run(run, layers) for run in runs],
    }
    return document(title, _parts(prompt, runs, first, data, scales[0]), _text("map.css"), _text("map.js"))


def _scales(runs: Sequence[Run]) -> tuple[Scale, Scale]:
    """Of the tokens' totals and of single blocks, the same for all runs, so that they can be compared."""
    totals = np.concatenate([run.map.totals for run in runs])
    cells = np.concatenate([run.map.coefficients.ravel() for run in runs])
    return Scale.of(totals), Scale.of(cells)


def _begin(runs: Sequence[Run]) -> int:
    """The first token on which any run acts: the prompt in front of it is left out of the blocks. 0 where none does."""
    acted = [np.flatnonzero(run.map.coefficients.any(axis=1)) for run in runs]
    return int(min((tokens[0] for tokens in acted if len(tokens)), default=0))


def _run(run: Run, layers: Sequence[int]) -> dict[str, Any]:
    """rows: of each block the tokens' values, in three digits: a page of 300 tokens and 30 blocks stays small."""
    found = dict(zip(run.map.layers, run.map.coefficients.T, strict=True))
    zeros = np.zeros(len(run.map), dtype=np.float32)
    return {
        "label": run.label,
        "prompt": run.map.n_prompt,
        "pieces": [visible(piece) for piece in run.map.pieces],
        "breaks": [piece.endswith("\n") for piece in run.map.pieces],
        "totals": _digits(run.map.totals),
        "rows": [_digits(found.get(layer, zeros)) for layer in layers],
    }


def _digits(values: Any) -> list[float]:
    return [float(f"{value:.3g}") for value in values.tolist()]


def _parts(prompt: str, runs: Sequence[Run], first: int, data: dict[str, Any], scale: Scale) -> Iterator[str]:
    labels = "".join(
        f'<option value="{i}" label="{escape(run.label)}"></option>' for i, run in enumerate(runs)
    )
    yield f"<h2>Prompt</h2><blockquote>{text(prompt)}</blockquote>"
    if len(runs) > 1:
        yield (
            f'<p class="slider"><label for="strength">Strength</label> <input id="strength" type="range" min="0" '
            f'max="{len(runs) - 1}" step="1" value="{first}" list="labels"> <output id="label" for="strength">'
            f'{escape(runs[first].label)}</output><datalist id="labels">{labels}</datalist></p>'
        )
    yield (
        f'<p class="dim">Coefficient of a token: strength times gate, summed over blocks; it shapes the tokens that '
        f"follow, so the reply's last one is not here. Full colour: {escape(number(scale.limit))} and more. "
        "The prompt is pale. Arrow keys walk along the tokens.</p>"
    )
    yield f'<div id="tokens" tabindex="0" aria-label="Tokens">{"".join(_tokens(runs[first].map, scale))}</div>'
    yield '<p id="told" class="told" aria-live="polite">&nbsp;</p>'
    ends = f", {data['layers'][0]} to {data['layers'][-1]}" if data["layers"] else ""
    yield (
        f'<h2>Blocks</h2><p class="dim">Blocks downward{ends}; across, the tokens from number {data["from"]} on, the '
        f"first that is steered. Full colour: {escape(number(data['cell']))} and more. Arrow keys walk here too.</p>"
    )
    name = "Coefficient of each block and token"
    yield f'<div class="wide"><canvas id="heat" role="img" aria-label="{name}" tabindex="0"></canvas></div>'
    told = json.dumps(data).replace("<", "\\u003c")  # "</" would end the element, whatever stands around it
    yield f'<script type="application/json" id="data">{told}</script>'


def _tokens(shown: SteeringMap, scale: Scale) -> Iterator[str]:
    """What a reader without a script sees; the script puts its own in the place of it."""
    for i, (piece, total) in enumerate(zip(shown.pieces, shown.totals.tolist(), strict=True)):
        share = 0.0 if scale.limit == 0 else max(-1.0, min(1.0, total / scale.limit))
        color = "--warm" if share > 0 else "--cold"
        kind = "prompt" if i < shown.n_prompt else "reply"
        ending = "<br>" if piece.endswith("\n") else ""
        yield (
            f'<span class="{kind}" title="{escape(number(total))}" style="background: rgb(var({color}) / '
            f'{abs(share) * 0.8:.2f})">{escape(visible(piece))}</span>{ending}'
        )


def _text(name: str) -> str:
    return resources.files("edgesteer.report").joinpath(name).read_text("utf-8")
