"""What steering costs, for people: the tables of `edgesteer bench` as lines.

In:  the bench's table, and how many columns there are. Out: lines of plain text. Where a table is wider than that, each
of its rows becomes a few lines of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from edgesteer.report.cells import cells, hanging, visible

Table = dict[str, Any]
MIN_WIDTH = 20
_NAME = 32  # the widest first column
_FEW_ROUNDS, _FEW_RUNS = 50, 2
_RATIO = (
    "A ratio is the median over the rounds of the ratio within a round, then over the runs: it need not be the "
    "quotient of the times shown, which are medians too."
)


def lines(table: Table, width: int) -> Iterator[str]:
    """Every part that the table has, a blank line between them."""
    width = max(MIN_WIDTH, width)
    yield from _ways(table, width)
    for note in (_RATIO, *_few(table["settings"])):
        yield from hanging("", note, width)
    yield ""
    yield from _files(table, width)
    for study in table.get("scale", {}).values():
        yield ""
        yield from _study(study, width)
    for part, told in (("prompt", _prompt), ("repeng", _repeng)):
        if part in table.get("against", {}):
            yield ""
            yield from told(table["against"][part], width)


def grid(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """Columns, the first one left-aligned; head[0] names it, or is empty."""
    shown = [[visible(cell) for cell in row] for row in rows]
    sizes = [max(cells(row[i]) for row in [list(head), *shown]) + 2 for i in range(len(head))]
    sizes[0] = min(sizes[0], _NAME + 2)
    if sum(sizes) > width:
        yield from _stacked(head, shown, width)
        return
    for row in [list(head), *shown]:
        first = _padded(row[0], sizes[0])
        yield (
            first
            + "".join(" " * (n - cells(cell)) + cell for n, cell in zip(sizes[1:], row[1:], strict=True))
        ).rstrip()


def _padded(text: str, size: int) -> str:
    """Of this width, a blank at the end; what is longer is cut."""
    while cells(text) > size - 2:
        text = text[: -2 if text.endswith("…") else -1] + "…"
    return text + " " * (size - cells(text))


def _stacked(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    for row in rows:
        yield from hanging("", f"{head[0]} {row[0]}".strip(), width)
        for name, cell in zip(head[1:], row[1:], strict=True):
            if cell:
                yield from hanging("  ", f"{name}: {cell}", width)


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
    yield from grid(head, rows, width)


def _few(settings: Table) -> Iterator[str]:
    """What is to be said of a bench that took too little."""
    rounds, runs = settings["rounds"], settings["runs"]
    if rounds < _FEW_ROUNDS or runs < _FEW_RUNS:
        yield (
            f"From {counted(settings)} the ratios scatter by several percent; the usual rounds and three runs "
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
    yield from grid(("", "ms to load", "KB"), rows, width)


def _study(study: Table, width: int) -> Iterator[str]:
    """One row a value of what was varied, one column a way: ratios. Unsteered, the time itself."""
    yield from hanging("", f"time of a {study['timed']} as a ratio to unsteered, by {study['x']}", width)
    ways = study["ways"]
    plain, *steered = ways
    head = (study["x"], "ms unsteered", *steered)
    rows = [
        (str(base["x"]), milli(base["seconds"]), *(f"{ways[name][i]['ratio']:.3f}" for name in steered))
        for i, base in enumerate(ways[plain])
    ]
    yield from grid(head, rows, width)


def _prompt(part: Table, width: int) -> Iterator[str]:
    told = f"beside the prompt ({part['trait_tokens']} tokens): {part['trait']}"
    yield from hanging("", told, width)
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
    yield from grid(head, rows, width)
    if part["replaces_default"]:
        added = part["ways"]["prompt"]["context_tokens"]
        yield from hanging(
            "",
            f"The prompt adds {added:z.0f} tokens because it takes the place of the system prompt that the template "
            "puts where none is given.",
            width,
        )


def _repeng(part: Table, width: int) -> Iterator[str]:
    told = f"{part['bundle']} in repeng on Torch (float32): {part['prompts']} prompts, {part['tokens']} tokens each"
    yield from hanging("", told, width)
    rows = [(way, milli(row["token"]), milli(row["prefill"])) for way, row in part["ways"].items()]
    yield from grid(("", "ms a token", "ms prefill"), rows, width)
    yield ""
    ratios = [
        (which, f"{row['token']:.3f}", f"{row['prefill']:.3f}") for which, row in part["ratios"].items()
    ]
    yield from grid(("ratio", "token", "prefill"), ratios, width)
    alike = ", ".join(f"{share:.0%} {how}" for how, share in part["first_tokens_alike"].items())
    yield from hanging("", f"replies that begin alike in both: {alike}", width)
    if part["without"]:
        names = ", ".join(part["without"])
        yield from hanging(
            "", f"not compared: {names}; repeng adds the same at every token, it has no gates", width
        )


def milli(seconds: float | None) -> str:
    """Milliseconds; empty where there is no number."""
    return "" if seconds is None else f"{1e3 * seconds:.2f}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
