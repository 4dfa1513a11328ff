"""What steering costs, as one picture: a panel for each part of the bench.

In:  the bench's table. Out: one SVG file as text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from edgesteer.report.bench_table import counted, milli
from edgesteer.report.charts import Bar, Series, bars, lines
from edgesteer.report.svg import Drawing, shortened, standalone

Table = dict[str, Any]
_MORE = "percent more time than unsteered"
_NAME = 220.0  # pixels of the model's name in a title


def picture(table: Table) -> str:
    """The file."""
    return standalone(list(charts(table)))


def charts(table: Table) -> Iterator[Drawing]:
    """The panels."""
    yield _cost(f"Time of a token: {_how(table)}", table["token"])
    yield _cost("Time of a prefill, by way of steering", table["prefill"])
    if table["memory"]:
        yield _memory(table["memory"], table["token"])
    for name, study in table.get("scale", {}).items():
        yield _study(study, log_x=name in ("batch", "ubatch", "width"))
    against = table.get("against", {})
    if "prompt" in against:
        yield from _prompt(against["prompt"]["ways"])
    if "repeng" in against:
        yield from _repeng(against["repeng"])


def _how(table: Table) -> str:
    """`SmolLM2 135M, 200 rounds, 3 runs, 2 threads`: without it nobody knows what the picture is of."""
    settings = table["settings"]
    threads = settings["n_threads"]
    name = shortened(table["model"]["name"], _NAME)
    return f"{name}, {counted(settings)}, {threads} {'thread' if threads == 1 else 'threads'}"


def _cost(title: str, ways: dict[str, Table]) -> Drawing:
    rows = []
    for way, row in ways.items():
        low, high = map(_more, row["ratio_range"])
        told = _told(row["ratio"], row["seconds"])
        bar = Bar(way, _more(row["ratio"]), told=told)
        rows.append(bar._replace(low=low, high=high) if low < high else bar)  # a single run has no interval
    return bars(title, _MORE, rows)


def _more(ratio: float) -> float:
    """Percent beyond 1: of bars that all end near 1 nobody sees the difference."""
    return 100 * (ratio - 1)


def _told(ratio: float, seconds: float) -> str:
    return f"{ratio:.3f} ({milli(seconds)} ms)"


def _memory(ways: dict[str, Table], order: Iterable[str]) -> Drawing:
    """order: of the bars above, so that a way keeps its colour."""
    rows = [
        Bar(way, row["peak"] / 1e6, told=f"{row['peak'] / 1e6:.0f} ({row['added'] / 1e6:+.1f})")
        for way, row in ((way, ways[way]) for way in order if way in ways)
    ]
    return bars("Most memory of a process that runs the model this way", "MB", rows)


def _study(study: Table, log_x: bool) -> Drawing:
    plain, *steered = study["ways"]
    series = [
        Series(
            way,
            [(point["x"], point["ratio"]) for point in study["ways"][way]],
            [_point(point) for point in study["ways"][way]],
        )
        for way in steered
    ]
    title = f"Time of a {study['timed']}, by {study['x']}"
    ticks = [point["x"] for point in study["ways"][plain]]
    return lines(title, study["x"], "ratio to unsteered", series, log_x=log_x, x_ticks=ticks)


def _point(point: Table) -> str:
    low, high = point["interval"]
    return f"{point['x']}: {point['ratio']:.3f} ({low:.3f} to {high:.3f})"


def _prompt(ways: dict[str, Table]) -> Iterator[Drawing]:
    for what, title in (("first_token", "Time to the first token"), ("token", "Time of each further token")):
        rows = [
            Bar(way, _more(row[f"{what}_ratio"]), told=_told(row[f"{what}_ratio"], row[f"{what}_seconds"]))
            for way, row in ways.items()
            if row[f"{what}_ratio"] is not None
        ]
        if rows:
            yield bars(f"{title}: prompt and bundles", _MORE, rows)
    rows = [
        Bar(
            way,
            row["kv_bytes"] / 1e3,
            told=f"{row['kv_bytes'] / 1e3:.0f} ({row['context_tokens']:.0f} tokens)",
        )
        for way, row in ways.items()
        if row["kv_bytes"] is not None
    ]
    if rows:
        yield bars("Context that the way takes from every conversation", "KB in the KV cache", rows)


def _repeng(part: Table) -> Iterator[Drawing]:
    for what in ("token", "prefill"):
        rows = [Bar(way, 1e3 * row[what], told=milli(row[what])) for way, row in part["ways"].items()]
        yield bars(f"Time of a {what}: edgesteer and repeng", "milliseconds", rows)
