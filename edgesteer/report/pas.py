"""A PAS run for people: its heat map of blocks and strengths, and what it did to the test split.

In:  a PasReport. Out: lines of text without control characters of their own, in at most 100 columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgesteer.report import cells, palette
from edgesteer.report.palette import Scale

if TYPE_CHECKING:
    from edgesteer.evaluate.intervals import Estimate
    from edgesteer.learn.pas.report import PasReport, Trial
    from edgesteer.learn.pas.scores import Grid, Scores

MEASURES = {"accuracy": "accuracy", "balanced": "balanced accuracy"}

_WIDTH, _CELL = 100, 6


def lines(report: PasReport, colored: bool) -> Iterator[str]:
    """The whole report."""
    first = report.trials[0]
    yield from _data(report, first)
    yield ""
    yield from heat_lines(first.grid, first.by, colored)
    yield ""
    yield from _chosen(first)
    yield ""
    yield from _test(first.tested)
    if len(report.trials) > 1:
        yield ""
        yield from _seeds(report)
    yield ""
    yield from _cost(report)


def heat_lines(grid: Grid, measure: str, colored: bool) -> Iterator[str]:
    """Validation gain over the unsteered model in points: blocks downward, strengths across; `*` marks the best."""
    base, heads = grid.unsteered[measure], [f"{strength:g}" for strength in grid.strengths]
    gains = 100 * (grid.values[measure] - base)
    scale, texts = Scale(max(1.0, float(abs(gains).max()))), _texts(grid, measure)
    width = max(_CELL, 1 + max(map(len, [*heads, *(text for row in texts for text in row)])))
    yield (
        f"Validation {MEASURES[measure]}, points over the unsteered {100 * base:.1f} %: blocks downward, "
        "strengths across"
    )
    columns = (_WIDTH - 6) // width
    for first in range(0, len(heads), columns):
        shown = range(first, min(first + columns, len(heads)))
        yield "block " + "".join(f"{heads[j]:>{width}}" for j in shown)
        for i, block in enumerate(grid.blocks):
            padded = [(f"{texts[i][j]:>{width}}", scale.level(float(gains[i, j]))) for j in shown]
            yield f"{block:>5} " + "".join(palette.paint(*one) if colored else one[0] for one in padded)


def _texts(grid: Grid, measure: str) -> list[list[str]]:
    """The text of each cell [blocks, strengths]."""
    best, base = grid.best(measure), grid.unsteered[measure]
    return [
        [
            _gain(100 * (float(value) - base), (block, strength) == (best.block, best.strength))
            for strength, value in zip(grid.strengths, values, strict=True)
        ]
        for block, values in zip(grid.blocks, grid.values[measure], strict=True)
    ]


def _gain(gain: float, chosen: bool) -> str:
    text = f"{gain:+.1f}"
    return ("*" if chosen else "") + ("0" if text in ("+0.0", "-0.0") else text)


def _data(report: PasReport, trial: Trial) -> Iterator[str]:
    train, validation, test = trial.sizes
    yield f"items      {train} training, {validation} validation, {test} test"
    if trial.duplicates:
        yield f"           {trial.duplicates} left out: duplicates"
    if report.skipped.items:
        room = report.skipped.room
        yield f"           {report.skipped.items} left out: longer than {room} tokens (a larger -c holds them)"
    positive, negative = trial.texts
    yield (
        f"vectors    {report.recipe.variant} from {trial.wrong} training items answered wrong "
        f"({positive} positive, {negative} negative texts)"
    )
    if report.shots is not None:
        yield f"exemplars  {report.shots.n}, from training items answered wrong"


def _chosen(trial: Trial) -> Iterator[str]:
    for measure, cell in trial.choices.items():
        mark = "in the bundle" if measure == trial.by else "not in the bundle"
        tested = trial.test[measure]
        yield f"by {measure:<9} block {cell.block}, strength {cell.strength:g} ({mark})"
        yield f"{'':12} test accuracy {points(tested.accuracy[2])}, balanced {points(tested.balanced[2])}"
    if not trial.improves:
        yield "no block and strength beat the unsteered model on validation: these items do not move this model"
    elif trial.tested.balanced[2].high < 0:
        yield "on the test split it is worse than no steering"
    elif trial.tested.balanced[2].low <= 0:
        yield "on the test split the gain cannot be told from zero"


def _test(scores: Scores) -> Iterator[str]:
    yield f"{'test':<20}{'before':>23}{'after':>24}{'gain':>26}"
    for measure, name in MEASURES.items():
        before, after, gain = getattr(scores, measure)
        yield f"{name:<20}{percent(before):>23}{percent(after):>24}{points(gain):>26}"
    if scores.over_groups is not None:
        yield f"{'over groups':<20}{points(scores.over_groups):>70}"
    yield f"flips               {scores.wrong_to_right} wrong to right, {scores.right_to_wrong} right to wrong"
    for letter, (n, was, now) in scores.by_letter.items():
        before, after = scores.answered[letter]
        yield (
            f"target {letter}   {n:>3} items: {100 * was:.0f} % right before, {100 * now:.0f} % after; "
            f"{letter} answered {before} times before, {after} after"
        )


def _seeds(report: PasReport) -> Iterator[str]:
    for measure in MEASURES:
        over = report.over_seeds(measure)
        assert over is not None
        yield f"{len(report.trials)} seeds   mean test gain, {measure}: {points(over)}"


def _cost(report: PasReport) -> Iterator[str]:
    (control, steered, gain), text = report.control.accuracy, report.free_text
    if report.shots is not None:
        yield f"without exemplars and steering the test accuracy is {100 * report.shots.accuracy_without:.1f} %"
    yield (
        f"control    {report.control.n} general questions: {100 * control.value:.1f} % before, "
        f"{100 * steered.value:.1f} % after ({points(gain)})"
    )
    before, after = text.nll0
    if after is None:
        yield "free text  steering overflows"
    else:
        yield (
            f"free text  {before:.2f} nats a token before, {after:.2f} after (unsteered model's surprise), "
            f"distinct-2 {text.distinct2[0]:.2f}, {text.distinct2[1]:.2f}"
        )
        yield from cells.hanging(f'{"":11}"', f'{cells.visible(text.sample[2])[:150]}"', _WIDTH)


def percent(one: Estimate, unit: str = " %") -> str:
    """A share with its interval, in percent."""
    return f"{100 * one.value:.1f}{unit} [{100 * one.low:.1f}, {100 * one.high:.1f}]"


def points(one: Estimate) -> str:
    """A gain with its interval, in points."""
    value, low, high = (round(100 * part, 1) + 0.0 for part in (one.value, one.low, one.high))  # no -0.0
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"
