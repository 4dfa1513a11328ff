"""SVG primitives: elements, text, marks, number axes, and a drawing for a page or a file.

Text is made printable and escaped. Colours are CSS variables: `page.css` sets them for light, dark and print,
`standalone` for black on white.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from edgesteer.report.cells import visible
from edgesteer.report.html import asset

_PAPER = ":root { --ink: #1b1b1f; --line: #d9d9d4; --dim: #55555b; --warm: 208 96 20; --cold: 30 90 190; }"
_N_COLORS = 6
_MARGIN = 16.0  # around the charts of a file
_DASHES = ("none", "7 3", "2 3", "9 3 2 3", "4 2", "12 4")
_WIDTH_OF_LETTER = 7.6  # the average of the widest common fonts at 13 px


def color(i: int) -> str:
    return f"var(--s{i % _N_COLORS})"


def dash(i: int) -> str:
    return _DASHES[i % len(_DASHES)]


def element(tag: str, *inside: str, **attributes: object) -> Markup:
    """An element. inside: text or elements. A `_` in the name of an attribute becomes `-`."""
    named = [(name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items()]
    return Markup("<{0}{1}>{2}</{0}>").format(
        tag,
        Markup().join(Markup(' {}="{}"').format(name, _value(value)) for name, value in named),
        Markup().join(one if isinstance(one, Markup) else visible(one) for one in inside),
    )


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return visible(value) if isinstance(value, str) else str(value)


def label(x: float, y: float, text: str, anchor: str = "start", kind: str = "", turn: float = 0.0) -> Markup:
    """Text at (x, y); kind: its CSS class; turn: degrees around that point."""
    extra: dict[str, object] = {"class_": kind} if kind else {}
    if turn:
        extra["transform"] = f"rotate({turn:g} {x:.1f} {y:.1f})"
    return element("text", text, x=float(x), y=float(y), text_anchor=anchor, **extra)


def tooltip(text: str) -> Markup:
    return element("title", text)


def text_width(text: str) -> float:
    """The approximate width of `text` in pixels."""
    return _WIDTH_OF_LETTER * len(visible(text))


def shortened(text: str, pixels: float) -> str:
    """`text`, cut to `pixels`."""
    shown, most = visible(text), max(2, int(pixels / _WIDTH_OF_LETTER))
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def mark(i: int, x: float, y: float, name: str = "") -> Markup:
    """A point of series i: circle, square, triangle, diamond in turn."""
    inside = [tooltip(name)] if name else []
    corners = {
        1: [(-4, -4), (4, -4), (4, 4), (-4, 4)],
        2: [(0, -5), (5, 4), (-5, 4)],
        3: [(0, -6), (5, 0), (0, 6), (-5, 0)],
    }.get(i % 4)
    if corners is None:
        return element("circle", *inside, cx=float(x), cy=float(y), r=4, fill=color(i))
    return element("polygon", *inside, points=path((x + a, y + b) for a, b in corners), fill=color(i))


def path(points: Iterable[tuple[float, float]]) -> str:
    """The `points` attribute of a polyline."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


@dataclass(frozen=True, slots=True)
class Drawing:
    """One chart, which a template prints as an `<svg>` element. width, height: in pixels."""

    title: str
    width: float
    height: float
    parts: Sequence[Markup]

    def __html__(self) -> str:
        return self.svg()

    def svg(self, **place: float) -> Markup:
        """The element. place: its x and y inside another."""
        return _svg(
            self.width, self.height, label(0, 15, self.title, kind="title"), *self.parts,
            class_="chart", role="img", aria_label=self.title, **place,
        )  # fmt: skip


def _svg(width: float, height: float, *inside: Markup, **attributes: object) -> Markup:
    return element(
        "svg", *inside, xmlns="http://www.w3.org/2000/svg", **attributes, viewBox=f"0 0 {width:g} {height:g}",
        width=f"{width:g}", height=f"{height:g}",
    )  # fmt: skip


def standalone(drawings: Sequence[Drawing]) -> str:
    """An SVG file of these drawings, one below the other, black on white. Raises ValueError for none."""
    if not drawings:
        raise ValueError("chart: nothing to draw, expected at least one chart")
    placed, top = [], _MARGIN
    for drawing in drawings:
        placed.append(drawing.svg(x=_MARGIN, y=top))
        top += drawing.height + _MARGIN
    paper = element("rect", width="100%", height="100%", fill="#fff")
    style = element("style", Markup(_PAPER) + asset("chart.css"))
    width = max(drawing.width for drawing in drawings) + 2 * _MARGIN
    svg = _svg(width, top, style, paper, *placed)
    return Markup('<?xml version="1.0" encoding="UTF-8"?>\n{}\n').format(svg)


@dataclass(frozen=True, slots=True)
class Axis:
    """A scale from numbers (low to high) to pixels (start to end)."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def over(cls, values: Iterable[float], start: float, end: float, log: bool = False) -> Axis:
        """An axis for all finite values; a logarithmic axis for those above zero.

        Raises ValueError if there are none.
        """
        known = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
        if not known:
            raise ValueError("chart: nothing to draw, expected at least one finite number")
        low, high = min(known), max(known)
        if log:
            return cls(low / 1.15, high * 1.15, start, end, True)
        room = 0.06 * (high - low) or 0.5 * abs(high) or 1.0
        return cls(low if low == 0 else low - room, high + room, start, end)

    def at(self, value: float) -> float:
        scale = math.log if self.log else float
        share = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))
        return self.start + share * (self.end - self.start)

    def shows(self, value: float) -> bool:
        return math.isfinite(value) and (value > 0 or not self.log)

    def ticks(self, about: int = 5) -> list[float]:
        """Round numbers between the ends."""
        if self.log:
            return self._log_ticks()
        step = _round_step((self.high - self.low) / about)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(k * step, 12) for k in range(first, last + 1)]

    def _log_ticks(self) -> list[float]:
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for steps in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
            ticks = [s * 10.0**d for d in decades for s in steps if self.low <= s * 10.0**d <= self.high]
            if len(ticks) >= 3:
                break
        return ticks


def _round_step(least: float) -> float:
    size: float = 10.0 ** math.floor(math.log10(least))
    return next(size * s for s in (1, 2, 2.5, 5, 10) if size * s >= least * 0.999)


def short(value: float) -> str:
    """A number for a tick: four digits, a true minus."""
    return f"{value:.4g}".replace("-", "−")
