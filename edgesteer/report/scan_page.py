"""A steerability scan as one HTML page: a heat map by the trait and one by KL, which blocks to steer, the numbers.

In:  a Scan. Out: a document as text; it needs no network and no script.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgesteer.report.charts import heat
from edgesteer.report.html import render
from edgesteer.report.scan import about, column, fixed, legend, trait_limit, verdict
from edgesteer.report.svg import Drawing

if TYPE_CHECKING:
    from edgesteer.evaluate.scan.result import F64, Scan, Useful


def page(scan: Scan) -> str:
    """The whole file."""
    numbers_head, numbers = _numbers(scan)
    return render(
        "scan",
        title=f"Steerability scan: {scan.name}",
        about=[(head.strip(), content) for head, content in about(scan)],
        verdict=list(verdict(scan)),
        trait_map=None
        if scan.gain is None
        else _heat(scan, "Trait, nats a token", scan.gain, trait_limit(scan.gain)),
        kl_map=_heat(scan, "KL, nats", scan.kl),
        legend=legend(scan),
        useful=_rows(scan, scan.useful),
        numbers_head=numbers_head,
        numbers=numbers,
        questions=scan.questions,
    )


def _heat(scan: Scan, title: str, values: F64, limit: float | None = None) -> Drawing:
    """Norms downward, the largest on top; blocks across."""
    cells = [[float(v) if math.isfinite(v) else None for v in row] for row in values.T[::-1]]
    names = [column(scan, size) for size in reversed(scan.sizes)]
    return heat(title, names, [str(n) for n in scan.blocks], cells, x="block", y="norm", limit=limit)


def _numbers(scan: Scan) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows of every number, a row per block."""
    measured = [(name, v) for name, v in (("trait", scan.gain), ("KL", scan.kl)) if v is not None]
    head = (
        "block",
        "mean |h|",
        *(f"{name} {column(scan, size)}" for name, _ in measured for size in scan.sizes),
    )
    rows = [
        (str(block), fixed(scan.streams[i]), *(fixed(v) for _, values in measured for v in values[i]))
        for i, block in enumerate(scan.blocks)
    ]
    return head, rows


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
