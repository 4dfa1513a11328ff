"""Text as terminal cells: what a token's piece looks like, how wide it is, where lines may break.

Knows Unicode and fixed-width cells. Data flow: pieces -> glyphs -> lines of glyphs. Model output is
untrusted: no control character, ANSI escape or direction override of a piece leaves this module raw.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from edgesteer.text import visible as visible

NEWLINE = "↵"
_EMOJI_STYLE = "\ufe0f"
_ISOLATE, _END_ISOLATE = "\u2068", "\u2069"


class Glyph(NamedTuple):
    """What cannot be divided on the screen: a character and the zero-width ones upon it, or an escape."""

    text: str
    cells: int
    token: int
    ends_line: bool = False


def cells(text: str) -> int:
    """Terminal cells that visible `text` takes: the most that a terminal would give it."""
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
    """Whether a terminal that knows bidirectional text would turn some of it around."""
    return any(unicodedata.bidirectional(char) in ("R", "AL", "AN") for char in text)


def isolate(text: str) -> str:
    """`text` between isolates if it runs right to left, so that its neighbours stay where they are."""
    return f"{_ISOLATE}{text}{_END_ISOLATE}" if is_right_to_left(text) else text


# The width of a column of numbers.
NUMBER = 8


def number(value: float | None) -> str:
    """Three digits in at most seven characters; "." where there is none."""
    if value is None:
        return "."
    text = f"{value:#.3g}".rstrip(".") if value else "0"
    return text if len(text) < NUMBER else f"{value:.0e}"


def cosine(value: float | None) -> str:
    """Two digits; "." where there is none."""
    text = "." if value is None else f"{value:.2f}"
    return "0.00" if text == "-0.00" else text.replace("-", "−")


def hanging(head: str, text: str, width: int) -> Iterator[str]:
    """`head` and the wrapped text behind it, its further lines indented; nothing in it drives the terminal."""
    for i, line in enumerate(wrap(glyphs([text]), width - len(head))):
        shown = "".join(glyph.text for glyph in line).strip()
        yield f"{head if i == 0 else ' ' * len(head)}{isolate(shown)}"
