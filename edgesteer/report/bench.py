"""The cost of steering: tables of `edgesteer bench` for a terminal, and its charts as one SVG file.

In:  the JSON of `bench --json`. Out: text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from edgesteer.report import charts as draw
from edgesteer.report.cells import hanging
from edgesteer.report.cells import table as columns
from edgesteer.report.charts import Bar, Series
from edgesteer.report.svg import Drawing, shortened, standalone

Table = dict[str, Any]
MIN_WIDTH = 20
_FEW_ROUNDS, _FEW_RUNS = 50, 2
_RATIO = (
    "A ratio is the median over the rounds of the ratio within a round, then over the runs: it need not be "
    "the quotient of the times shown, which are medians too."
)


def lines(table: Table, width: int) -> Iterator[str]:
    """Every part of the table, with blank lines between them."""
    width = max(MIN_WIDTH, width)
    yield from _ways(table, width)
    for note in (_RATIO, *_few(table["settings"])):
        yield from hanging("", note, width)
    yield ""
    yield from _files(table, width)
    for study in table.get("scale", {}).values():
        yield ""
        yield from _study(study, width)
    for part, section in (("prompt", _prompt), ("repeng", _repeng)):
        if part in table.get("against", {}):
            yield ""
            yield from section(table["against"][part], width)


def _ways(table: Table, width: int) -> Iterator[str]:
    head = ("", "ms a token", "ratio", "low..high", "ms prefill", "ratio", "dial ms", "peak MB", "more MB")
    rows = []
    for way, token in table["token"].items():
        prefill, dial = table["prefill"][way], table["strength_change"].get(way)
        memory = table["memory"].get(way)
        low, high = token["ratio_range"]
        rows.append(
            (
                way,
                milli(token["seconds"]),
                f"{token['ratio']:.3f}",
                f"{low:.3f}..{high:.3f}",
                f"{1e3 * prefill['seconds']:.1f}",
                f"{prefill['ratio']:.3f}",
                f"{1e3 * dial['seconds']:.2f}" if dial else "",
                f"{memory['peak'] / 1e6:.0f}" if memory else "",
                f"{memory['added'] / 1e6:.1f}" if memory else "",
            )
        )
    yield from columns(head, rows, width=width)


def _few(settings: Table) -> Iterator[str]:
    """A remark if there were too few rounds or runs."""
    rounds, runs = settings["rounds"], settings["runs"]
    if rounds < _FEW_ROUNDS or runs < _FEW_RUNS:
        yield (
            f"With {counted(settings)} the ratios scatter by several percent; the default rounds and runs "
            "scatter less."
        )


def counted(settings: Table) -> str:
    """`200 rounds, 3 runs`."""
    return ", ".join(
        f"{settings[name]} {name if settings[name] != 1 else name[:-1]}" for name in ("rounds", "runs")
    )


def _files(table: Table, width: int) -> Iterator[str]:
    rows = [
        (name, f"{1e3 * load['seconds']:.1f}", f"{load['bytes'] / 1e3:.1f}")
        for name, load in table["load"].items()
    ]
    yield from columns(("", "ms to load", "KB"), rows, width=width)


def _study(study: Table, width: int) -> Iterator[str]:
    """Ratios: a row for each value of x, a column for each way; for the unsteered model, the time."""
    yield from hanging("", f"time of a {study['timed']} as a ratio to unsteered, by {study['x']}", width)
    ways = study["ways"]
    plain, *steered = ways
    head = (study["x"], "ms unsteered", *steered)
    rows = [
        (str(base["x"]), milli(base["seconds"]), *(f"{ways[name][i]['ratio']:.3f}" for name in steered))
        for i, base in enumerate(ways[plain])
    ]
    yield from columns(head, rows, width=width)


def _prompt(part: Table, width: int) -> Iterator[str]:
    title = f"beside the prompt ({part['trait_tokens']} tokens): {part['trait']}"
    yield from hanging("", title, width)
    head = ("", "+tokens", "KV KB", "file KB", "ms to first", "ratio", "ms a token", "ratio")
    rows = [
        (
            way,
            f"{row['context_tokens']:.0f}",
            "" if row["kv_bytes"] is None else f"{row['kv_bytes'] / 1e3:.0f}",
            f"{row['artifact_bytes'] / 1e3:.0f}",
            milli(row["first_token_seconds"]),
            _ratio(row["first_token_ratio"]),
            milli(row["token_seconds"]),
            _ratio(row["token_ratio"]),
        )
        for way, row in part["ways"].items()
    ]
    yield from columns(head, rows, width=width)
    if part["replaces_default"]:
        added = part["ways"]["prompt"]["context_tokens"]
        yield from hanging(
            "",
            f"The prompt adds {added:z.0f} tokens because it replaces the template's default system prompt.",
            width,
        )


def _repeng(part: Table, width: int) -> Iterator[str]:
    size = f"{part['prompts']} prompts, {part['tokens']} tokens each"
    yield from hanging("", f"{part['bundle']} in repeng on Torch (float32): {size}", width)
    rows = [(way, milli(row["token"]), milli(row["prefill"])) for way, row in part["ways"].items()]
    yield from columns(("", "ms a token", "ms prefill"), rows, width=width)
    yield ""
    ratios = [
        (which, f"{row['token']:.3f}", f"{row['prefill']:.3f}") for which, row in part["ratios"].items()
    ]
    yield from columns(("ratio", "token", "prefill"), ratios, width=width)
    alike = ", ".join(f"{share:.0%} {how}" for how, share in part["first_tokens_alike"].items())
    yield from hanging("", f"replies that begin alike in both: {alike}", width)
    if part["without"]:
        names = ", ".join(part["without"])
        yield from hanging("", f"not compared: {names}; repeng has no gates", width)


def milli(seconds: float | None) -> str:
    """Milliseconds; empty for None."""
    return "" if seconds is None else f"{1e3 * seconds:.2f}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


# -- charts ----------------------------------------------------------------------------------------

_MORE = "percent more time than unsteered"
_NAME_PIXELS = 220.0  # of the model's name in a title


def picture(table: Table) -> str:
    """An SVG file with a panel for each part."""
    return standalone(list(charts(table)))


def charts(table: Table) -> Iterator[Drawing]:
    """The panels."""
    yield _cost(f"Time of a token: {_how(table)}", table["token"])
    yield _cost("Time of a prefill, by way of steering", table["prefill"])
    if table["memory"]:
        yield _memory(table["memory"], table["token"])
    for name, study in table.get("scale", {}).items():
        yield _study_chart(study, log_x=name in ("batch", "ubatch", "width"))
    against = table.get("against", {})
    if "prompt" in against:
        yield from _prompt_charts(against["prompt"]["ways"])
    if "repeng" in against:
        yield from _repeng_charts(against["repeng"])


def _how(table: Table) -> str:
    """`SmolLM2 135M, 200 rounds, 3 runs, 2 threads`."""
    settings = table["settings"]
    threads = settings["n_threads"]
    name = shortened(table["model"]["name"], _NAME_PIXELS)
    return f"{name}, {counted(settings)}, {threads} {'thread' if threads == 1 else 'threads'}"


def _cost(title: str, ways: dict[str, Table]) -> Drawing:
    rows = []
    for way, row in ways.items():
        low, high = map(_more, row["ratio_range"])
        note = _ratio_and_time(row["ratio"], row["seconds"])
        bar = Bar(way, _more(row["ratio"]), note=note)
        rows.append(bar._replace(low=low, high=high) if low < high else bar)  # a single run has no interval
    return draw.bars(title, _MORE, rows)


def _more(ratio: float) -> float:
    """Percent beyond 1: the ratios themselves would be bars of nearly the same length."""
    return 100 * (ratio - 1)


def _ratio_and_time(ratio: float, seconds: float) -> str:
    return f"{ratio:.3f} ({milli(seconds)} ms)"


def _memory(ways: dict[str, Table], order: Iterable[str]) -> Drawing:
    """order: the ways of the other charts, so that each keeps its colour."""
    rows = [
        Bar(way, row["peak"] / 1e6, note=f"{row['peak'] / 1e6:.0f} ({row['added'] / 1e6:+.1f})")
        for way, row in ((way, ways[way]) for way in order if way in ways)
    ]
    return draw.bars("Peak memory of a process that runs the model this way", "MB", rows)


def _study_chart(study: Table, log_x: bool) -> Drawing:
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
    return draw.lines(title, study["x"], "ratio to unsteered", series, log_x=log_x, x_ticks=ticks)


def _point(point: Table) -> str:
    low, high = point["interval"]
    return f"{point['x']}: {point['ratio']:.3f} ({low:.3f} to {high:.3f})"


def _prompt_charts(ways: dict[str, Table]) -> Iterator[Drawing]:
    for what, title in (("first_token", "Time to the first token"), ("token", "Time of each further token")):
        rows = [
            Bar(
                way,
                _more(row[f"{what}_ratio"]),
                note=_ratio_and_time(row[f"{what}_ratio"], row[f"{what}_seconds"]),
            )
            for way, row in ways.items()
            if row[f"{what}_ratio"] is not None
        ]
        if rows:
            yield draw.bars(f"{title}: prompt and bundles", _MORE, rows)
    rows = [
        Bar(
            way,
            row["kv_bytes"] / 1e3,
            note=f"{row['kv_bytes'] / 1e3:.0f} ({row['context_tokens']:.0f} tokens)",
        )
        for way, row in ways.items()
        if row["kv_bytes"] is not None
    ]
    if rows:
        yield draw.bars("Context that each way takes up", "KB in the KV cache", rows)


def _repeng_charts(part: Table) -> Iterator[Drawing]:
    for what in ("token", "prefill"):
        rows = [Bar(way, 1e3 * row[what], note=milli(row[what])) for way, row in part["ways"].items()]
        yield draw.bars(f"Time of a {what}: edgesteer and repeng", "milliseconds", rows)
