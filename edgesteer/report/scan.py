"""A steerability scan as text for a terminal and as an HTML page: which blocks are worth steering.

Colour only repeats what the numbers show.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from edgesteer.bundle import spans
from edgesteer.evaluate.scan.result import F64, Scan, Useful
from edgesteer.report import palette
from edgesteer.report.cells import Cell, hanging, table
from edgesteer.report.charts import heat
from edgesteer.report.html import render
from edgesteer.report.palette import Scale
from edgesteer.report.svg import Drawing
from edgesteer.report.terminal import usable_width, wants_color

_BLOCK, _CELL, _GAP = 5, 8, 3
_NAMED = 5
_MARKS = "*: its 95 % interval over the questions is above 0. "
_FEW = 0.25  # the share of the blocks that counts as "only" these


class _Grid(NamedTuple):
    """One measure: values float64 [blocks, sizes], the text of each cell, and the scale of its colours."""

    title: str
    values: F64
    texts: list[list[str]]
    scale: Scale


def render_scan(scan: Scan, *, width: int | None = None, color: bool | None = None) -> str:
    """The maps and a verdict, no line wider than `width` cells (at least 40; None: the terminal's)."""
    width, colored = usable_width(width), wants_color(color)
    parts = [
        [line for head, text in about(scan) for line in hanging(f"{head}  ", text, width)],
        *_tables(scan, width, colored),
        [line for text in (legend(scan, _MARKS), *verdict(scan)) for line in hanging("", text, width)],
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def about(scan: Scan) -> Iterator[tuple[str, str]]:
    """(heading, text): what was measured, and on what."""
    yield "bundle", scan.name
    yield "model ", scan.model
    if scan.trait is not None:
        yield "trait ", scan.trait
    n = len(scan.questions)
    prompted = f", {scan.tokens[1]} of prompted ones" if scan.trait is not None else ""
    yield (
        "on    ",
        f"{n} question{'s' * (n != 1)}, {scan.tokens[0]} tokens of unsteered replies{prompted}",
    )


def column(scan: Scan, size: float) -> str:
    """The heading of a column."""
    return f"{100 * size:g}%" if scan.unit == "share" else f"{size:g}"


def legend(scan: Scan, marks: str = "") -> str:
    """The meaning of the norms and the numbers. marks: an addition about the trait's cells."""
    what = "strength × gate × direction" if scan.gated else "strength × direction"
    of = ", in % of the residual stream's there" if scan.unit == "share" else ""
    text = f"Each block alone. Norm: the mean norm of {what} on the unsteered replies{of}. "
    if scan.gain is not None:
        text += "Trait: how much likelier prompted replies get without their prompt, in nats per token. "
        f"{marks}"
    text += "KL: how far the next token's distribution moves on the unsteered replies, in nats"
    text += f"; up to {palette.number(scan.noise)} is rounding" if scan.noise else ""
    text += f", and below {palette.number(scan.floor)} nothing is ranked." if scan.floor else "."
    if scan.scope != "response":
        text += f" Steered from the prompt's last token on, not on {scan.scope} as the bundle says."
    return text


def verdict(scan: Scan) -> Iterator[str]:
    """The conclusions, a paragraph each."""
    if len(scan.blocks) == 1:
        yield "The bundle steers one block: there is nothing to compare it with."
    yield from _by_trait(scan) if scan.gain is not None else _by_kl(scan)
    if scan.closed:
        yield (
            f"No strength moves {blocks(scan.closed)}: nothing is added there on these replies (the gate "
            "stays closed, or the direction is zero)."
        )
    if scan.overflowed:
        yield f"{scan.overflowed} cells overflowed and show a dot: give smaller norms."


def _by_trait(scan: Scan) -> Iterator[str]:
    useful, n = scan.useful, len(scan.blocks)
    if len(scan.questions) < 4:
        yield "The intervals of so few questions mean little: give more."
    yield from _left_out(scan)
    if not useful:
        yield (
            "No block alone gains the trait at these norms: try larger ones, or more questions; or it takes "
            "all blocks together."
        )
        return
    share = "Only " if n > 1 and len(useful) <= _FEW * n else ""
    gain = "block gains" if n == 1 else "blocks gain" if len(useful) > 1 else "blocks gains"
    yield f"{share}{len(useful)} of {n} {gain} the trait alone: {blocks(sorted(u.block for u in useful))}."
    best = ", ".join(
        f"{u.block} ({fixed(u.gain)} at {column(scan, u.size)}, KL {fixed(u.kl)})" for u in useful[:_NAMED]
    )
    yield f"Best in proportion to what they disturb (trait per root of KL, each at its best norm): {best}."


def _left_out(scan: Scan) -> Iterator[str]:
    if scan.unclear:
        cells = "1 cell that gains" if scan.unclear == 1 else f"{scan.unclear} cells that gain"
        yield (
            f"Left out of the ranking: {cells} the trait where KL is below {palette.number(scan.floor)}, "
            f"{scan.floor / scan.noise:g} times what rounding alone brings."
        )


def _by_kl(scan: Scan) -> Iterator[str]:
    movers = ", ".join(f"{block} ({fixed(kl)})" for block, kl in scan.movers[:_NAMED])
    if movers:
        yield f"Blocks that move the model most, by KL at the largest norm: {movers}."
    elif scan.floor:
        floor = palette.number(scan.floor)
        yield f"No block clearly moves the model at these norms: every KL is below {floor}."
    yield "Whether that is towards the trait was not measured: the bundle names none; give --trait TEXT."


def blocks(numbers: Sequence[int]) -> str:
    """`blocks 3-5, 9`."""
    return f"{'block' if len(numbers) == 1 else 'blocks'} {spans(numbers)}"


# -- tables ----------------------------------------------------------------------------------------


def _tables(scan: Scan, width: int, colored: bool) -> Iterator[list[str]]:
    """Both measures side by side if they fit, else one below the other; wide ones in bands of columns."""
    grids = list(_grids(scan))
    n = len(scan.sizes)
    if _BLOCK + len(grids) * n * _CELL + (len(grids) - 1) * _GAP <= width:
        yield list(_table(scan, grids, range(n), colored))
        return
    room = max(1, (width - _BLOCK) // _CELL)
    for grid in grids:
        for first in range(0, n, room):
            yield list(_table(scan, [grid], range(first, min(first + room, n)), colored))


def _grids(scan: Scan) -> Iterator[_Grid]:
    if scan.gain is not None and scan.low is not None:
        sure = scan.low > 0
        n = _decimals(scan.gain)
        texts = [
            [_text(v, n, "*" if s else " ") for v, s in zip(*rows, strict=True)]
            for rows in zip(scan.gain, sure, strict=True)
        ]
        yield _Grid("trait", scan.gain, texts, Scale(trait_limit(scan.gain)))
    n = _decimals(scan.kl)
    texts = [[_text(v, n, " ") for v in row] for row in scan.kl]
    yield _Grid("KL", scan.kl, texts, Scale.of_numbers(_known(scan.kl)))


def trait_limit(gain: F64) -> float:
    """Full colour: the largest gain, so that overdoses, whose losses are larger, do not make it pale."""
    known = _known(gain)
    return max([v for v in known if v > 0] or [-v for v in known] or [0.0])


def _known(values: F64) -> list[float]:
    return [float(v) for v in values.ravel() if math.isfinite(v)]


def fixed(value: float, decimals: int = 3) -> str:
    """A number with a true minus; a dot if it was not measured."""
    return f"{value:z.{decimals}f}".replace("-", "−") if math.isfinite(value) else "."


def _decimals(values: F64) -> int:
    """Three, or as many as leave room for the largest value, a mark and a blank in a cell."""
    widest = max([len(fixed(v, 0)) for v in _known(values)] or [1])
    return max(0, min(3, _CELL - 3 - widest))


def _text(value: float, decimals: int, mark: str) -> str:
    return f"{fixed(value, decimals)}{mark}"


def _table(scan: Scan, grids: Sequence[_Grid], columns: range, colored: bool) -> Iterator[str]:
    """The grids side by side, under their titles."""
    sizes = [f"{column(scan, scan.sizes[j])} " for j in columns]
    titles, heads = [""], ["block"]
    widths = [_BLOCK]
    rows: list[list[str | Cell]] = [[str(block)] for block in scan.blocks]
    for k, grid in enumerate(grids):
        between = [""] if k else []
        titles += [*between, *[""] * (len(columns) - 1), f"{grid.title} "]
        heads += [*between, *sizes]
        widths += [*[_GAP - 2] * len(between), *[_CELL - 1] * len(columns)]
        for i, row in enumerate(rows):
            row += [*between, *(_cell(grid, i, j) for j in columns)]
    yield from table(titles, [heads, *rows], widths=widths, left=(), gap=1, colored=colored)


def _cell(grid: _Grid, i: int, j: int) -> Cell:
    value = float(grid.values[i, j])
    return Cell(grid.texts[i][j], grid.scale.level(value) if math.isfinite(value) else 0)


# -- the page --------------------------------------------------------------------------------------


def page(scan: Scan) -> str:
    """The document."""
    numbers_head, numbers = _numbers(scan)
    return render(
        "scan",
        title=f"Steerability scan: {scan.name}",
        about=[(head.strip(), content) for head, content in about(scan)],
        verdict=list(verdict(scan)),
        trait_map=None
        if scan.gain is None
        else _heat(scan, "Trait, nats per token", scan.gain, trait_limit(scan.gain)),
        kl_map=_heat(scan, "KL, nats", scan.kl),
        legend=legend(scan),
        useful=_rows(scan, scan.useful),
        numbers_head=numbers_head,
        numbers=numbers,
        questions=scan.questions,
    )


def _heat(scan: Scan, title: str, values: F64, limit: float | None = None) -> Drawing:
    """Norms downward, the largest at the top; blocks across."""
    cells = [[float(v) if math.isfinite(v) else None for v in row] for row in values.T[::-1]]
    names = [column(scan, size) for size in reversed(scan.sizes)]
    return heat(title, names, [str(n) for n in scan.blocks], cells, x="block", y="norm", limit=limit)


def _numbers(scan: Scan) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows of all numbers, a row per block."""
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
    decimals = _strength_decimals(strengths)
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


def _strength_decimals(strengths: Sequence[float]) -> int:
    """Three, or as many as the smallest strength needs: strengths are copied from here, and none is 0."""
    least = min((abs(v) for v in strengths if v), default=1.0)
    return max(3, 2 - math.floor(math.log10(least)))
