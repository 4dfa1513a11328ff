"""SVG as text: elements, colours and number axes that the charts share.

In:  numbers and labels. Out: strings; every label is escaped here. Colours are CSS variables, which a page of ours
sets for light, dark and print, and `standalone` for a file by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from edgesteer.report.cells import visible

# Told apart by the colour-blind, and by lightness on paper (Okabe and Ito); dashes and marks tell them apart too.
_LIGHT = ":root { --s0: #0072b2; --s1: #d55e00; --s2: #009e73; --s3: #b8860b; --s4: #a05195; --s5: #56b4e9; }"
_DARK_AND_PRINT = """
@media (prefers-color-scheme: dark) { :root { --s0: #5ab4e6; --s1: #ff8a3d; --s2: #3ccfa4; --s3: #e6b93d;
  --s4: #d98bc4; --s5: #9fd8ff; } }
@media print { :root { --s0: #00507d; --s1: #b04a00; --s2: #006b4f; --s3: #7a5a00; --s4: #7a2f6d; --s5: #2b7fae; } }
"""
_RULES = """
svg.chart { max-width: 100%; height: auto; display: block; font: 13px system-ui, sans-serif; }
svg.chart text { fill: var(--ink); } svg.chart .dim { fill: var(--dim); } svg.chart .title { font-weight: 600; }
svg.chart .grid { stroke: var(--line); stroke-width: 1; fill: none; }
svg.chart .axis { stroke: var(--dim); stroke-width: 1; fill: none; }
svg.chart .line { fill: none; stroke-width: 2; } svg.chart .interval { stroke: var(--ink); stroke-width: 1.5; }
@media print { svg.chart * { -webkit-print-color-adjust: exact; print-color-adjust: exact; } }
"""
SERIES_STYLE = _LIGHT + _DARK_AND_PRINT + _RULES
_PAPER = ":root { --ink: #1b1b1f; --line: #d9d9d4; --dim: #55555b; --warm: 208 96 20; --cold: 30 90 190; }"
N_COLORS = 6
_MARGIN = 16.0  # around the charts of a file
_DASHES = ("none", "7 3", "2 3", "9 3 2 3", "4 2", "12 4")
_WIDTH_OF_LETTER = 7.6  # of 13 px type: what the widest of the usual fonts take on average


def color(i: int) -> str:
    return f"var(--s{i % N_COLORS})"


def dash(i: int) -> str:
    return _DASHES[i % len(_DASHES)]


def element(tag: str, *inside: str, **attributes: object) -> str:
    """`inside` is SVG; attributes are escaped, and `_` in their names stands for `-`."""
    told = "".join(f' {k.rstrip("_").replace("_", "-")}="{escape(_value(v))}"' for k, v in attributes.items())
    return f"<{tag}{told}>{''.join(inside)}</{tag}>"


def _value(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def label(x: float, y: float, text: str, anchor: str = "start", kind: str = "", turn: float = 0.0) -> str:
    """Text at (x, y), escaped, its control characters spelled out."""
    extra: dict[str, object] = {"class_": kind} if kind else {}
    if turn:
        extra["transform"] = f"rotate({turn:g} {x:.1f} {y:.1f})"
    return element("text", clean(text), x=float(x), y=float(y), text_anchor=anchor, **extra)


def tooltip(text: str) -> str:
    return element("title", clean(text))


def clean(text: str) -> str:
    return escape(visible(text))


def text_width(text: str) -> float:
    """About how many pixels `text` takes."""
    return _WIDTH_OF_LETTER * len(visible(text))


def shortened(text: str, pixels: float) -> str:
    """`text`, or its beginning where it is wider than `pixels`."""
    told, most = visible(text), max(2, int(pixels / _WIDTH_OF_LETTER))
    return told if len(told) <= most else told[: most - 1] + "…"


def mark(i: int, x: float, y: float, name: str = "") -> str:
    """A point of series i: circle, square, triangle, diamond in turn."""
    inside = tooltip(name) if name else ""
    corners = {
        1: [(-4, -4), (4, -4), (4, 4), (-4, 4)],
        2: [(0, -5), (5, 4), (-5, 4)],
        3: [(0, -6), (5, 0), (0, 6), (-5, 0)],
    }.get(i % 4)
    if corners is None:
        return element("circle", inside, cx=float(x), cy=float(y), r=4, fill=color(i))
    return element("polygon", inside, points=path((x + a, y + b) for a, b in corners), fill=color(i))


def path(points: Iterable[tuple[float, float]]) -> str:
    """The `points` attribute of a polyline."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def chart(title: str, width: float, height: float, parts: Iterable[str]) -> str:
    """The svg element; the title is drawn, and told to those who cannot see."""
    head = label(0, 15, title, kind="title")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" aria-label="{clean(title)}" '
        f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}">{head}{"".join(parts)}</svg>'
    )


def standalone(svg: str | Sequence[str]) -> str:
    """One chart, or several one below the other, as a file of its own: black on white, with its styles inside."""
    charts = [svg] if isinstance(svg, str) else list(svg)
    if not charts:
        raise ValueError("chart: nothing to draw, expected at least one chart")
    sizes = [_size(each) for each in charts]
    width, height = max(w for w, _ in sizes) + 2 * _MARGIN, _MARGIN
    placed = []
    for each, (_, own) in zip(charts, sizes, strict=True):
        placed.append(each.replace("<svg ", f'<svg x="{_MARGIN}" y="{height:g}" ', 1))
        height += own + _MARGIN
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<svg xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}">'
        f'<style>{_PAPER}{_LIGHT}{_RULES}</style><rect width="100%" height="100%" fill="#fff"/>'
        + "".join(placed)
        + "</svg>\n"
    )


def _size(svg: str) -> tuple[float, float]:
    _, _, width, height = svg.split('viewBox="', 1)[1].split('"', 1)[0].split()
    return float(width), float(height)


@dataclass(frozen=True, slots=True)
class Axis:
    """Numbers to pixels. low, high: the ends, in numbers; start, end: in pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def over(cls, values: Iterable[float], start: float, end: float, log: bool = False) -> Axis:
        """Room for all values that are numbers; on a logarithmic axis for those above zero.

        Raises ValueError where there are none.
        """
        found = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
        if not found:
            raise ValueError("chart: nothing to draw, expected at least one finite number")
        low, high = min(found), max(found)
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
            found = [s * 10.0**d for d in decades for s in steps if self.low <= s * 10.0**d <= self.high]
            if len(found) >= 3:
                return found
        return found


def _round_step(least: float) -> float:
    size: float = 10.0 ** math.floor(math.log10(least))
    return next(size * s for s in (1, 2, 2.5, 5, 10) if size * s >= least * 0.999)


def short(value: float) -> str:
    """A tick's number."""
    return f"{value:.4g}".replace("-", "−")
