"""What bundles do to one another, as text for a terminal: a row per block, a column per term and per pair.

Knows columns and a legend. Data flow: Interference -> cells of a table -> one string without a final newline.
Pure, but for what is left to the environment: colour and width None. Without colour the marks stay, so that
a log or a pipe loses nothing. What does not fit the width gives way: first the norms of the terms, then the
pairs but for the lowest and the highest cosine of a block.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator

from edgesteer.interference import AGAINST, PILE_UP, Block, Interference, Pair, shared_blocks, verdict
from edgesteer.report import palette
from edgesteer.report.cells import NUMBER, cosine, hanging, number
from edgesteer.report.palette import Scale
from edgesteer.report.terminal import usable_width, wants_color

_MARKS = {"against": "!", "pile-up": "+", None: " "}
_SCALE = Scale(1.0)  # a cosine's own
_NUMBER, _BLOCK = NUMBER, 5

# A cell of the table: its text, and the cosine that colours it, if it is one.
Cell = tuple[str, float | None]


def render_interference(shown: Interference, *, width: int | None = None, color: bool | None = None) -> str:
    """The table, the pairs and the notes, no line wider than `width` cells (at least 40; None: the terminal's).

    color: None decides by `wants_color`.
    """
    width, colored = usable_width(width), wants_color(color)
    if not shown.terms:
        return "nothing steers: every strength is 0"
    parts = [[line for i in range(len(shown.terms)) for line in hanging(*_term(shown, i), width)]]
    parts.append(list(_table(shown, width, colored)))
    parts.append([line for pair in shown.pairs for line in hanging(*_pair(pair), width)])
    parts.append([*hanging("", _legend(shown), width)])
    parts.append([line for note in shown.notes for line in hanging("- ", note, width)])
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def label(term: int) -> str:
    """A letter for a term: A, B, C; after Z and z they begin again."""
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


def _table(shown: Interference, width: int, colored: bool) -> Iterator[str]:
    """The fullest form that fits."""
    n_terms, n_pairs = len(shown.terms), len(shown.pairs)
    norms = _BLOCK + _NUMBER * (n_terms + 1 + n_pairs) <= width
    all_pairs = _BLOCK + _NUMBER * (1 + n_pairs) <= width
    yield _line(_head(shown, norms, all_pairs), colored)
    for block in shown.blocks:
        yield _line(_row(shown, block, norms, all_pairs), colored)


def _head(shown: Interference, norms: bool, all_pairs: bool) -> list[Cell]:
    titles = [label(i) for i in range(len(shown.terms))] if norms else []
    pairs = (
        [_both(p.terms) + " " for p in shown.pairs]
        if all_pairs
        else ["lowest ", "highest ".rjust(_NUMBER + 4)]
    )
    return [("block", None), *((f"{title:>{_NUMBER}}", None) for title in (*titles, "joint", *pairs))]


def _row(shown: Interference, block: Block, norms: bool, all_pairs: bool) -> list[Cell]:
    row: list[Cell] = [(f"{block.layer:>{_BLOCK}}", None)]
    values = [block.norms.get(i) for i in range(len(shown.terms))] if norms else []
    row += [(f"{number(value):>{_NUMBER}}", None) for value in (*values, block.joint)]
    if all_pairs:
        return row + [_cosine_cell(block.cosines.get(p.terms)) for p in shown.pairs]
    known = [(c, p) for p, c in block.cosines.items()]
    for c, p in (min(known), max(known)) if known else ():
        row += [_cosine_cell(c), (f" {_both(p)}", None)]
    return row


def _cosine_cell(value: float | None) -> Cell:
    text = cosine(value)
    return f"{text:>{_NUMBER - 1}}{_MARKS[verdict(value)]}", value


def _line(row: Iterable[Cell], colored: bool) -> str:
    """Colours reach over the number and its mark, not over the space around them."""
    parts = []
    for text, value in row:
        level = _SCALE.level(value) if colored and value is not None else 0
        parts.append(text.replace(text.strip(), palette.paint(text.strip(), level)) if level else text)
    return "".join(parts).rstrip()


def _legend(shown: Interference) -> str:
    text = "Norms of strength × direction, and of their sum (joint)."
    if shown.share is not None:
        text += f" Over all blocks joint is {shown.share:.0%} of the sum of the norms."
    if shown.pairs:
        against, piled = cosine(AGAINST), cosine(PILE_UP)
        text += f" Cosine of each pair: ! below {against}, against each other; + above {piled}, piled up."
    return text
