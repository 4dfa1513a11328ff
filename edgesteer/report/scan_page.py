"""A steerability scan as one HTML page: a heat map by the trait and one by KL, which blocks to steer, the numbers.

In:  a Scan. Out: a document as text; it needs no network and no script.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from edgesteer.report.chart import heat
from edgesteer.report.page import document, table, text
from edgesteer.report.scan import about, column, fixed, legend, trait_limit, verdict

if TYPE_CHECKING:
    from edgesteer.evaluate.scan.result import F64, Scan, Useful


def page(scan: Scan) -> str:
    """The whole file."""
    return document(f"Steerability scan: {scan.name}", _parts(scan))


def _parts(scan: Scan) -> Iterator[str]:
    yield "\n".join(f'<p class="dim">{head.strip()}: {text(told)}</p>' for head, told in about(scan))
    for told in verdict(scan):
        yield f"<p>{text(told)}</p>"
    if scan.gain is not None:
        yield _heat(scan, "Trait, nats a token", scan.gain, trait_limit(scan.gain))
        yield '<p class="dim">Orange: more of the trait than before; blue: less than before.</p>'
    yield _heat(scan, "KL, nats", scan.kl)
    yield f'<p class="dim">{text(legend(scan))}</p>'
    if scan.useful:
        yield "<h2>Blocks that gain the trait</h2>"
        yield table(
            "Each at its best norm, the best block first; brackets are 95 % intervals over the questions.",
            ("block", "norm", "strength", "trait", "KL", "trait / √KL"),
            _rows(scan, scan.useful),
        )
    yield _numbers(scan)
    yield "<h2>Questions</h2>"
    yield "<ul>" + "".join(f"<li>{text(question)}</li>" for question in scan.questions) + "</ul>"


def _heat(scan: Scan, title: str, values: F64, limit: float | None = None) -> str:
    """Norms downward, the largest on top; blocks across."""
    cells = [[float(v) if math.isfinite(v) else None for v in row] for row in values.T[::-1]]
    names = [column(scan, size) for size in reversed(scan.sizes)]
    drawn = heat(title, names, [str(n) for n in scan.blocks], cells, x="block", y="norm", limit=limit)
    return f'<div class="wide">{drawn}</div>'


def _numbers(scan: Scan) -> str:
    names = [column(scan, size) for size in scan.sizes]
    measures = {"trait": scan.gain, "KL": scan.kl}
    shown = {name: values for name, values in measures.items() if values is not None}
    head = ("block", "mean |h|", *(f"{name} {size}" for name in shown for size in names))
    rows = [
        (
            str(block),
            fixed(scan.streams[i]),
            *(fixed(v) for a in shown.values() for v in a[i]),
        )
        for i, block in enumerate(scan.blocks)
    ]
    return f"<details><summary>All numbers</summary>{table('In nats a token.', head, rows)}</details>"


def _rows(scan: Scan, useful: Sequence[Useful]) -> list[tuple[str, ...]]:
    strengths = [
        float(scan.strengths[scan.blocks.index(one.block), scan.sizes.index(one.size)]) for one in useful
    ]
    decimals = _decimals(strengths)
    return [
        (
            str(one.block),
            column(scan, one.size),
            fixed(strength, decimals),
            f"{fixed(one.gain)} [{fixed(one.low)}, {fixed(one.high)}]",
            fixed(one.kl),
            fixed(one.score),
        )
        for one, strength in zip(useful, strengths, strict=True)
    ]


def _decimals(strengths: Sequence[float]) -> int:
    """Three, or as many as the smallest needs: a strength is to be copied from here, and none is 0."""
    least = min((abs(v) for v in strengths if v), default=1.0)
    return max(3, 2 - math.floor(math.log10(least)))
