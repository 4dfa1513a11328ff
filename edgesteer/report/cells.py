"""Text as terminal cells: its width, line breaks, and tables.

Model output is untrusted: every control character, ANSI escape and direction override is made visible here.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from edgesteer.report import palette
from edgesteer.text import visible as visible

_EMOJI_STYLE = "\ufe0f"
_ISOLATE, _END_ISOLATE = "\u2068", "\u2069"


class Glyph(NamedTuple):
    """A unit that a line break cannot divide: a character with its zero-width marks, or an escape."""

    text: str
    cells: int
    token: int
    ends_line: bool = False


def cells(text: str) -> int:
    """The most terminal cells that `text` can take, made visible."""
    return sum(glyph.cells for glyph in glyphs([text]))


def _char_cells(char: str, after: int) -> int:
    if char == _EMOJI_STYLE:
        return 1 if after == 1 else 0  # widens the character before it, in many terminals
    if unicodedata.category(char) in ("Mn", "Me", "Cf") or "\u1160" <= char <= "\u11ff":
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def glyphs(pieces: Iterable[str], first: int = 0) -> Iterator[Glyph]:
    """Glyphs of the pieces' visible text in order; tokens count from `first`."""
    for token, piece in enumerate(pieces, first):
        current = Glyph("", 0, token)
        for char in piece:
            text = visible(char)
            width = sum(_char_cells(c, current.cells) for c in text)
            on_top = width == 0 or char == _EMOJI_STYLE or current.text.endswith("\u200d")
            if current.text and on_top and not current.ends_line:
                current = current._replace(text=current.text + text, cells=current.cells + width)
                continue
            if current.text:
                yield current
            current = Glyph(text, width, token, char == "\n")
        if current.text:
            yield current


def wrap(stream: Iterable[Glyph], width: int) -> list[list[Glyph]]:
    """Lines of at most `width` cells: broken after newlines, else between words, else between glyphs."""
    lines: list[list[Glyph]] = [[]]
    used = 0
    for word in _words(stream):
        body = sum(glyph.cells for glyph in word if glyph.text != " ")
        if used and used + body > width >= body:
            lines.append([])
            used = 0
        for glyph in word:
            if used + glyph.cells > width:
                lines.append([])
                used = 0
            lines[-1].append(glyph)
            used += glyph.cells
            if glyph.ends_line:
                lines.append([])
                used = 0
    return lines if lines[-1] else lines[:-1]


def _words(stream: Iterable[Glyph]) -> Iterator[list[Glyph]]:
    """Runs of glyphs that end in spaces, a newline, or a wide character (where CJK text may break)."""
    word: list[Glyph] = []
    for glyph in stream:
        if word and glyph.text != " " and (word[-1].text == " " or word[-1].cells == 2):
            yield word
            word = []
        word.append(glyph)
        if glyph.ends_line:
            yield word
            word = []
    if word:
        yield word


def is_right_to_left(text: str) -> bool:
    """Whether a terminal with bidirectional text would reorder some of it."""
    return any(unicodedata.bidirectional(char) in ("R", "AL", "AN") for char in text)


def isolate(text: str) -> str:
    """`text` between isolates if it runs right to left, so that the text around it is not reordered."""
    return f"{_ISOLATE}{text}{_END_ISOLATE}" if is_right_to_left(text) else text


def hanging(head: str, text: str, width: int) -> Iterator[str]:
    """`head` and then the text, made visible and wrapped, with further lines indented."""
    for i, line in enumerate(wrap(glyphs([text]), width - len(head))):
        shown = "".join(glyph.text for glyph in line).strip()
        yield f"{head if i == 0 else ' ' * len(head)}{isolate(shown)}"


def paragraphs(texts: Iterable[str], width: int) -> Iterator[str]:
    """Each text made visible and wrapped, beginning on a line of its own."""
    for text in texts:
        yield from hanging("", text, width)


# -- tables ----------------------------------------------------------------------------------------


class Cell(NamedTuple):
    """A cell of a table with the level of its colour, -8 to 8."""

    text: str
    level: int = 0


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str | Cell]],
    *,
    widths: Sequence[int] = (),
    left: Collection[int] = (0,),
    gap: int = 2,
    most: int = 32,
    width: int | None = None,
    colored: bool = False,
) -> Iterator[str]:
    """A table for a terminal: a line for the head and for each row.

    widths: cells of each column; without it, those of its widest text. left: columns that are aligned left,
    and cut if they are too long. gap: blanks between columns. most: the most cells of the first column.
    width: cells of a line; if the table needs more, each row becomes a few lines of its own.
    """
    shown = [[_printable_cell(cell) for cell in row] for row in (head, *rows)]
    sizes = list(widths) or [max(cells(row[i].text) for row in shown) for i in range(len(head))]
    if not widths:
        sizes[0] = min(sizes[0], most)
    if width is not None and sum(sizes) + gap * (len(sizes) - 1) > width:
        yield from _stacked(shown[0], shown[1:], width)
        return
    for row in shown:
        parts = [_aligned(cell, sizes[i], i in left, colored) for i, cell in enumerate(row)]
        yield (" " * gap).join(parts).rstrip(" ")


def _printable_cell(cell: str | Cell) -> Cell:
    text, level = cell if isinstance(cell, Cell) else (cell, 0)
    return Cell(visible(text), level)


def _aligned(cell: Cell, size: int, left: bool, colored: bool) -> str:
    """The padded text; its colour covers the blanks before it, not those after it."""
    text = cut(cell.text, size) if left else cell.text
    body = text.rstrip(" ")
    before, behind = " " * (size - cells(text)), " " * (len(text) - len(body))
    shown = isolate(body) if left else before + isolate(body)
    if colored and cell.level and body:
        shown = palette.paint(shown, cell.level)
    return shown + behind + (before if left else "")


def cut(text: str, size: int) -> str:
    """Visible `text` in at most `size` cells, with "…" in place of what is cut off."""
    while cells(text) > size:
        text = text[: -2 if text.endswith("…") else -1] + "…"
    return text


def _stacked(head: Sequence[Cell], rows: Iterable[Sequence[Cell]], width: int) -> Iterator[str]:
    for first, *rest in rows:
        yield from hanging("", f"{head[0].text} {first.text}".strip(), width)
        for name, cell in zip(head[1:], rest, strict=True):
            if cell.text:
                yield from hanging("  ", f"{name.text}: {cell.text}", width)


NUMBER = 7  # the most characters of `number`


def number(value: float | None) -> str:
    """Three digits in at most seven characters; "." for None."""
    if value is None:
        return "."
    text = f"{value:#.3g}".rstrip(".") if value else "0"
    return text if len(text) <= NUMBER else f"{value:.0e}"


def cosine(value: float | None) -> str:
    """Two digits; "." for None."""
    text = "." if value is None else f"{value:.2f}"
    return "0.00" if text == "-0.00" else text.replace("-", "−")
