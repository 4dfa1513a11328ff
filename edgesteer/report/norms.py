"""The norm report as text for a terminal: a row per block, with a bar where there is room.

Knows columns and a legend. Data flow: NormReport -> rows -> one string without a final newline. Pure, but for
what is left to the environment: colour and width None. Colour only repeats what the numbers say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from edgesteer.norms import BlockNorms, NormReport
from edgesteer.report import palette
from edgesteer.report.cells import NUMBER, cosine, hanging, number
from edgesteer.report.palette import Scale
from edgesteer.report.terminal import usable_width, wants_color

_BLOCK, _NUMBER = 5, NUMBER
_TABLE = _BLOCK + 4 * _NUMBER
_LEAST_BAR, _MOST_BAR = 8, 32


def render_norms(
    report: NormReport,
    *,
    about: Iterable[tuple[str, str]] = (),
    width: int | None = None,
    color: bool | None = None,
) -> str:
    """The table and what it says, no line wider than `width` cells (at least 40; None: the terminal's).

    about: (heading, text) pairs to stand above, such as the prompt. color: None decides by `wants_color`.
    """
    width, colored = usable_width(width), wants_color(color)
    parts = [
        [line for head, text in about for line in hanging(f"{head}  ", text, width)],
        list(_table(report, width, colored)),
        list(hanging("", _legend(report), width)),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _table(report: NormReport, width: int, colored: bool) -> Iterator[str]:
    largest = report.largest[0] if report.largest else 0.0
    room = min(width - _TABLE - 2, _MOST_BAR)
    bars = room if room >= _LEAST_BAR else 0
    yield "block" + "".join(f"{title:>{_NUMBER}}" for title in ("|h|", "|u|", "ratio", "cosine"))
    for block in report.blocks:
        yield _row(block, largest, bars, colored)


def _row(block: BlockNorms, largest: float, bars: int, colored: bool) -> str:
    ratio = number(block.ratio)
    level = Scale(largest).level(block.ratio or 0.0)
    shown = palette.paint(ratio, level) if colored and level else ratio
    cells = [
        f"{block.layer:>{_BLOCK}}",
        *(f"{number(v):>{_NUMBER}}" for v in (block.stream, block.intervention)),
    ]
    cells += [" " * (_NUMBER - len(ratio)) + shown, f"{cosine(block.cosine):>{_NUMBER}}"]
    share = (block.ratio or 0.0) / largest if largest else 0.0
    return ("".join(cells) + "  " + "█" * round(share * bars)).rstrip()


def _legend(report: NormReport) -> str:
    rows = [block.rows for block in report.blocks]
    if not any(rows):
        return f"Of {report.n_tokens} tokens no token is in scope, so there is nothing to measure."
    span = f"{min(rows)} to {max(rows)}" if len(set(rows)) > 1 else f"{rows[0]}"
    text = (
        f"Means over the {span} of {report.n_tokens} tokens in scope. h: the residual stream before steering "
    )
    text += "at the block; u: what steering adds; ratio: |u| / |h|; cosine: of h and u."
    still = sum(rows) - sum(block.acting for block in report.blocks)
    if still:
        text += f" Over all blocks u is 0 on {still / sum(rows):.0%} of the rows: gates that are closed."
    if report.largest and report.median is not None:
        ratio, layer = report.largest
        text += f" Largest ratio {number(ratio)} at block {layer}, median {number(report.median)}."
    return f"{text} It tells the size of the steering, not whether the replies are good."
