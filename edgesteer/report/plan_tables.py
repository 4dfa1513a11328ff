"""A plan at each block, as text for a terminal: interference between bundles, and norms.

Marks repeat what colour shows, so that a log or a pipe loses nothing.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator

from edgesteer.interference import AGAINST, PILE_UP, Block, Interference, Pair, shared_blocks, verdict
from edgesteer.norms import BlockNorms, NormReport
from edgesteer.report.cells import NUMBER, Cell, cosine, hanging, number, table
from edgesteer.report.palette import Scale
from edgesteer.report.terminal import usable_width, wants_color

_BLOCK = 5  # columns of a block's number

# -- interference ----------------------------------------------------------------------------------

_MARKS = {"against": "!", "pile-up": "+", None: " "}
_COSINES = Scale(1.0)


def render_interference(shown: Interference, *, width: int | None = None, color: bool | None = None) -> str:
    """The table, the pairs and the notes, no line wider than `width` cells (at least 40; None: the
    terminal's). color: None decides by `wants_color`.

    A table that is too wide leaves out first the norms of the terms, then all pairs but those with the lowest
    and the highest cosine of a block.
    """
    width, colored = usable_width(width), wants_color(color)
    if not shown.terms:
        return "nothing steers: every strength is 0"
    parts = [[line for i in range(len(shown.terms)) for line in hanging(*_term(shown, i), width)]]
    parts.append(list(_interference_table(shown, width, colored)))
    parts.append([line for pair in shown.pairs for line in hanging(*_pair(pair), width)])
    parts.append([*hanging("", _interference_legend(shown), width)])
    parts.append([line for note in shown.notes for line in hanging("- ", note, width)])
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def label(term: int) -> str:
    """The letter of a term: A to Z, a to z, and again from A."""
    return string.ascii_letters[(term + 26) % 52]


def _term(shown: Interference, i: int) -> tuple[str, str]:
    term = shown.terms[i]
    kind = "the same on every token" if term.constant else "per token, here at its mean"
    return f"{label(i)}  ", f"{term.bundle.name} × {term.strength:g} (scope {term.scope}; {kind})"


def _pair(pair: Pair) -> tuple[str, str]:
    if pair.mean is None or pair.lowest is None or pair.highest is None:
        why = "a direction is zero at each of them" if pair.blocks else "they steer different blocks"
        return f"{_both(pair.terms)}  ", f"no cosine: {why}"
    (low, at_low), (high, at_high) = pair.lowest, pair.highest
    ends = f", from {cosine(low)} (block {at_low}) to {cosine(high)} (block {at_high})"
    uneven = cosine(low) != cosine(high)
    text = f"cosine {cosine(pair.mean)} over {shared_blocks(pair)}{ends if uneven else ''}"
    return f"{_both(pair.terms)}  ", text


def _both(pair: tuple[int, int]) -> str:
    return f"{label(pair[0])}·{label(pair[1])}"


def _interference_table(shown: Interference, width: int, colored: bool) -> Iterator[str]:
    """The most complete form that fits."""
    n_terms, n_pairs = len(shown.terms), len(shown.pairs)
    column = 1 + NUMBER
    norms = _BLOCK + column * (n_terms + 1 + n_pairs) <= width
    all_pairs = _BLOCK + column * (1 + n_pairs) <= width
    titles = [label(i) for i in range(n_terms)] if norms else []
    pairs = [f"{_both(p.terms)} " for p in shown.pairs] if all_pairs else ["lowest ", "", "highest ", ""]
    widths = [_BLOCK, *[NUMBER] * (len(titles) + 1), *([NUMBER] * n_pairs if all_pairs else [NUMBER, 3] * 2)]
    rows = [_row(shown, block, norms, all_pairs) for block in shown.blocks]
    head = ["block", *titles, "joint", *pairs]
    yield from table(head, rows, widths=widths, left=(), gap=1, colored=colored)


def _row(shown: Interference, block: Block, norms: bool, all_pairs: bool) -> list[str | Cell]:
    values = [block.norms.get(i) for i in range(len(shown.terms))] if norms else []
    row: list[str | Cell] = [f"{block.layer}", *(number(value) for value in (*values, block.joint))]
    if all_pairs:
        return row + [_cosine_cell(block.cosines.get(p.terms)) for p in shown.pairs]
    known = [(c, p) for p, c in block.cosines.items()]
    for c, p in (min(known), max(known)) if known else ():
        row += [_cosine_cell(c), _both(p)]
    return row


def _cosine_cell(value: float | None) -> Cell:
    level = 0 if value is None else _COSINES.level(value)
    return Cell(f"{cosine(value)}{_MARKS[verdict(value)]}", level)


def _interference_legend(shown: Interference) -> str:
    text = "Norms of strength × direction, and of their sum (joint)."
    if shown.share is not None:
        text += f" Over all blocks joint is {shown.share:.0%} of the sum of the norms."
    if shown.pairs:
        against, piled = cosine(AGAINST), cosine(PILE_UP)
        text += f" Cosine of each pair: ! below {against}, against each other; + above {piled}, piled up."
    return text


# -- norms -----------------------------------------------------------------------------------------

_LEAST_BAR, _MOST_BAR = 8, 32


def render_norms(
    report: NormReport,
    *,
    about: Iterable[tuple[str, str]] = (),
    width: int | None = None,
    color: bool | None = None,
) -> str:
    """The table and its legend, no line wider than `width` cells (at least 40; None: the terminal's).

    about: (heading, text) pairs to show first, such as the prompt. color: None decides by `wants_color`.
    """
    width, colored = usable_width(width), wants_color(color)
    parts = [
        [line for head, text in about for line in hanging(f"{head}  ", text, width)],
        list(_norm_table(report, width, colored)),
        list(hanging("", _norm_legend(report), width)),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _norm_table(report: NormReport, width: int, colored: bool) -> Iterator[str]:
    """With a bar for each ratio if there is room."""
    largest = report.largest[0] if report.largest else 0.0
    room = min(width - _BLOCK - 4 * (1 + NUMBER) - 2, _MOST_BAR)
    bar = room if room >= _LEAST_BAR else 0
    yield from table(
        ("block", "|h|", "|u|", "ratio", "cosine", ""),
        [_norm_row(block, largest, bar) for block in report.blocks],
        widths=(_BLOCK, *[NUMBER] * 4, bar + 1),
        left=(5,),
        gap=1,
        colored=colored,
    )


def _norm_row(block: BlockNorms, largest: float, bar: int) -> tuple[str | Cell, ...]:
    ratio = block.ratio or 0.0
    return (
        f"{block.layer}",
        number(block.stream),
        number(block.intervention),
        Cell(number(block.ratio), Scale(largest).level(ratio)),
        cosine(block.cosine),
        " " + "█" * round(bar * ratio / largest) if largest else "",
    )


def _norm_legend(report: NormReport) -> str:
    rows = [block.rows for block in report.blocks]
    if not any(rows):
        return f"None of the {report.n_tokens} tokens is in scope, so there is nothing to measure."
    span = f"{min(rows)} to {max(rows)}" if len(set(rows)) > 1 else f"{rows[0]}"
    text = (
        f"Means over the {span} of {report.n_tokens} tokens in scope. h: the residual stream before steering "
    )
    text += "at the block; u: what steering adds; ratio: |u| / |h|; cosine: of h and u."
    still = sum(rows) - sum(block.acting for block in report.blocks)
    if still:
        text += f" Over all blocks u is 0 on {still / sum(rows):.0%} of the rows, where gates are closed."
    if report.largest and report.median is not None:
        ratio, layer = report.largest
        text += f" Largest ratio {number(ratio)} at block {layer}, median {number(report.median)}."
    return f"{text} This is the size of the steering, not the quality of the replies."
