"""Charts: lines, bars with intervals, radar, heat map.

In:  series of numbers and their labels. Out: a Drawing, for a template or, with `svg.standalone`, for a file.

None, NaN and infinity are left out. Series differ in colour, dash and mark, so that they can be told apart in
black and white. Raises ValueError if there is nothing to draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from edgesteer.report.palette import Scale, number
from edgesteer.report.svg import (
    Axis,
    Drawing,
    color,
    dash,
    element,
    label,
    mark,
    path,
    short,
    shortened,
    text_width,
    tooltip,
)

_WIDTH = 640.0
_TOP = 34.0  # under the title
_LABEL = 220.0  # the widest label; longer ones are cut, with the whole in the tooltip


class Series(NamedTuple):
    """points: (x, y). names: a tooltip for each point."""

    label: str
    points: Sequence[tuple[float, float]]
    names: Sequence[str] = ()


class Bar(NamedTuple):
    """low, high: an interval around the value. note: text at the end of the bar instead of its value."""

    label: str
    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""


def lines(
    title: str,
    x: str,
    y: str,
    series: Sequence[Series],
    *,
    marks: Sequence[Series] = (),
    log_x: bool = False,
    log_y: bool = False,
    x_ticks: Sequence[float] | None = None,
) -> Drawing:
    """x, y: the titles of the axes. series: points joined by lines; marks: points without lines."""
    every = [*series, *marks]
    left, bottom = 64.0, _TOP + 270
    right = _WIDTH - max(min(_LABEL, text_width(s.label)) + 28 for s in every) if every else _WIDTH
    points = [point for s in every for point in s.points]
    across = Axis.over([a for a, _ in points], left, right, log_x)
    upward = Axis.over([b for _, b in points], bottom, _TOP, log_y)
    parts = [*_grid(across, upward, x_ticks), *_axis_names(x, y, across, upward)]
    for i, each in enumerate(every):
        parts += _series(i, each, across, upward, joined=i < len(series))
        parts += _key(i, each.label, right + 16, _TOP + 12 + 20 * i, joined=i < len(series))
    return Drawing(title, _WIDTH, max(bottom + 48, _TOP + 20 * len(every) + 12), parts)


def _grid(across: Axis, upward: Axis, x_ticks: Sequence[float] | None) -> Iterator[Markup]:
    left, right, bottom, top = across.start, across.end, upward.start, upward.end
    for value in upward.ticks():
        at = upward.at(value)
        yield element("line", x1=left, x2=right, y1=at, y2=at, class_="grid")
        yield label(left - 8, at + 4, short(value), "end", "dim")
    for value in across.ticks() if x_ticks is None else x_ticks:
        at = across.at(value)
        yield element("line", x1=at, x2=at, y1=bottom, y2=top, class_="grid")
        yield label(at, bottom + 18, short(value), "middle", "dim")


def _axis_names(x: str, y: str, across: Axis, upward: Axis) -> Iterator[Markup]:
    middle = (upward.start + upward.end) / 2
    yield label((across.start + across.end) / 2, upward.start + 38, x, "middle")
    yield label(16, middle, y, "middle", turn=-90)


def _series(i: int, series: Series, across: Axis, upward: Axis, joined: bool) -> Iterator[Markup]:
    shown = [
        (across.at(a), upward.at(b), series.names[k] if k < len(series.names) else f"{short(a)}, {short(b)}")
        for k, (a, b) in enumerate(series.points)
        if across.shows(a) and upward.shows(b)
    ]
    if joined and len(shown) > 1:
        points = path((a, b) for a, b, _ in shown)
        yield element("polyline", points=points, class_="line", stroke=color(i), stroke_dasharray=dash(i))
    for a, b, name in shown:
        yield mark(i, a, b, f"{series.label}: {name}")


def _key(i: int, text: str, x: float, y: float, joined: bool) -> Iterator[Markup]:
    if joined:
        yield element(
            "line", x1=x - 8, x2=x + 8, y1=y - 4, y2=y - 4, class_="line", stroke=color(i),
            stroke_dasharray=dash(i),
        )  # fmt: skip
    yield mark(i, x, y - 4)
    yield label(x + 12, y, shortened(text, _LABEL))


def bars(title: str, unit: str, rows: Sequence[Bar]) -> Drawing:
    """Horizontal bars from zero, with their intervals."""
    height, left = 26.0, max([60.0, *(min(_LABEL, text_width(bar.label)) + 16 for bar in rows)])
    ends = [v for bar in rows for v in (bar.value, bar.low, bar.high) if v is not None and math.isfinite(v)]
    if not ends:
        raise ValueError("chart: nothing to draw, expected at least one finite number")
    room = max(text_width(bar.note or number(bar.value or 0)) for bar in rows) + 12
    across = Axis.over([0.0, *ends], left, _WIDTH - room)
    bottom = _TOP + height * len(rows)
    parts = []
    for value in across.ticks():
        parts.append(
            element("line", x1=across.at(value), x2=across.at(value), y1=_TOP, y2=bottom, class_="grid")
        )
        parts.append(label(across.at(value), bottom + 16, short(value), "middle", "dim"))
    for i, bar in enumerate(rows):
        parts += _bar(i, bar, across, _TOP + height * i, height)
    parts.append(element("line", x1=across.at(0), x2=across.at(0), y1=_TOP, y2=bottom, class_="axis"))
    parts.append(label((across.start + across.end) / 2, bottom + 36, unit, "middle"))
    return Drawing(title, _WIDTH, bottom + 46, parts)


def _bar(i: int, bar: Bar, across: Axis, top: float, height: float) -> Iterator[Markup]:
    middle = top + height / 2
    yield label(across.start - 8, middle + 4, shortened(bar.label, _LABEL), "end")
    if bar.value is None or not math.isfinite(bar.value):
        yield label(across.at(0) + 6, middle + 4, bar.note or "not measured", kind="dim")
        return
    start, end = sorted((across.at(0), across.at(bar.value)))
    name = tooltip(f"{bar.label}: {bar.note or number(bar.value)}")
    yield element(
        "rect", name, x=start, y=top + 4, width=max(end - start, 1.0), height=height - 8, fill=color(i)
    )
    if bar.low is not None and bar.high is not None and math.isfinite(bar.low) and math.isfinite(bar.high):
        a, b = across.at(bar.low), across.at(bar.high)
        yield element("path", d=_whisker(a, b, middle), class_="interval", fill="none")
    yield label(across.end + 6, middle + 4, bar.note or number(bar.value), kind="dim")


def _whisker(a: float, b: float, y: float) -> str:
    return f"M{a:.1f} {y - 4:.1f}V{y + 4:.1f}M{a:.1f} {y:.1f}H{b:.1f}M{b:.1f} {y - 4:.1f}V{y + 4:.1f}"


def radar(title: str, axes: Sequence[str], series: Sequence[tuple[str, Sequence[float | None]]]) -> Drawing:
    """series: (name, values); a value from 0 (centre) to 1 (rim) for each axis, or None, which has no mark.

    Raises ValueError for fewer than three axes, no series, or other values.
    """
    if len(axes) < 3 or not series:
        raise ValueError("radar: expected at least three axes and one series")
    for name, values in series:
        if len(values) != len(axes) or any(v is not None and not 0 <= v <= 1 for v in values):
            raise ValueError(
                f"radar: {name}: expected a value from 0 to 1, or None, for each of {len(axes)} axes"
            )
    centre, radius, names = (260.0, _TOP + 180), 130.0, 510.0
    parts = [*_rings(axes, centre, radius)]
    for i, (name, values) in enumerate(series):
        at = [(k, v) for k, v in enumerate(values) if v is not None]
        points = [_on_ray(centre, radius * v, k, len(axes)) for k, v in at]
        if len(points) > 1:
            parts.append(
                element(
                    "polygon",
                    points=path(points),
                    class_="line",
                    stroke=color(i),
                    stroke_dasharray=dash(i),
                    style=f"fill: {color(i)}; fill-opacity: .08",
                )
            )
        for (k, v), point in zip(at, points, strict=True):
            parts.append(mark(i, *point, f"{name}: {axes[k]} {short(v)}"))
        parts += _key(i, name, names, _TOP + 12 + 20 * i, joined=True)
    width = max(_WIDTH, names + 24 + max(min(_LABEL, text_width(name)) for name, _ in series))
    return Drawing(title, width, _TOP + 360, parts)


def _rings(axes: Sequence[str], centre: tuple[float, float], radius: float) -> Iterator[Markup]:
    n = len(axes)
    for share in (0.25, 0.5, 0.75, 1.0):
        corners = [_on_ray(centre, radius * share, k, n) for k in range(n)]
        yield element("polygon", points=path(corners), class_="grid")
    for k, name in enumerate(axes):
        x, y = _on_ray(centre, radius, k, n)
        yield element("line", x1=centre[0], y1=centre[1], x2=x, y2=y, class_="grid")
        at, height = _on_ray(centre, radius + 14, k, n)
        anchor = "middle" if abs(at - centre[0]) < 12 else "start" if at > centre[0] else "end"
        yield label(at, height + 4, name, anchor)


def _on_ray(centre: tuple[float, float], length: float, k: int, n: int) -> tuple[float, float]:
    angle = 2 * math.pi * k / n
    return centre[0] + length * math.sin(angle), centre[1] - length * math.cos(angle)


def heat(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    *,
    x: str = "",
    y: str = "",
    limit: float | None = None,
) -> Drawing:
    """values[row][column]: warm above zero, cold below. limit: the value of full colour; if None, the 95th
    percentile of the magnitudes. Raises ValueError if the values do not match the labels.
    """
    if not rows or not columns or len(values) != len(rows) or any(len(r) != len(columns) for r in values):
        raise ValueError(f"heat: expected {len(rows)} rows of {len(columns)} values, at least one of each")
    known = [v for row in values for v in row if v is not None and math.isfinite(v)]
    full = Scale.of_numbers(known).limit if limit is None else limit
    left = 20.0 + max([24.0, *(min(_LABEL, text_width(name)) + 12 for name in rows)])
    wide = min(72.0, max([22.0, *(text_width(name) + 10 for name in columns)]))
    cell = max(16.0, min(wide, (_WIDTH - left) / len(columns)))
    top, height = _TOP + 22, 20.0
    parts = [
        label(left + cell * (j + 0.5), top - 6, shortened(name, cell), "middle", "dim")
        for j, name in enumerate(columns)
    ]
    for i, (name, row) in enumerate(zip(rows, values, strict=True)):
        parts.append(label(left - 8, top + height * i + 14, shortened(name, _LABEL), "end", "dim"))
        for j, value in enumerate(row):
            at = (left + cell * j, top + height * i, cell, height)
            parts.append(_cell(at, value, full, f"{name}, {columns[j]}"))
    bottom = top + height * len(rows)
    parts.append(label(left + cell * len(columns) / 2, bottom + 20, x, "middle"))
    parts.append(label(14, (top + bottom) / 2, y, "middle", turn=-90))
    parts.append(label(left, bottom + 40, f"Full colour: {number(full)} and more", kind="dim"))
    return Drawing(title, max(_WIDTH, left + cell * len(columns) + 8), bottom + 48, parts)


def _cell(at: tuple[float, float, float, float], value: float | None, full: float, name: str) -> Markup:
    x, y, width, height = at
    if value is None or not math.isfinite(value):
        note, style = "not measured", "fill: none"
    else:
        share = 0.0 if full == 0 else min(1.0, abs(value) / full)
        note = number(value)
        style = f"fill: rgb(var({'--warm' if value > 0 else '--cold'}) / {share:.2f})"
    return element(
        "rect",
        tooltip(f"{name}: {note}"),
        x=x,
        y=y,
        width=width - 1,
        height=height - 1,
        style=style,
        class_="grid",
    )


def drawn(draw: Callable[..., Drawing], *args: Any, **options: Any) -> Drawing | None:
    """The chart, or None if there is nothing to draw."""
    try:
        return draw(*args, **options)
    except ValueError:
        return None
