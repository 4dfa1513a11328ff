"""A PAS run as an HTML page: heat maps of both measures, the effect on the test split, and the costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgesteer.report.html import Cell, render, tint
from edgesteer.report.pas import MEASURES, percent, points, signed

if TYPE_CHECKING:
    from edgesteer.learn.pas.report import PasReport, Trial
    from edgesteer.learn.pas.scores import Grid, Scores

Rows = list[tuple[str | Cell, ...]]


def page(title: str, report: PasReport) -> str:
    """The document."""
    first = report.trials[0]
    over_groups = first.tested.over_groups
    return render(
        "pas",
        title=f"{title}: {report.recipe.variant}",
        report=report,
        first=first,
        verdict=_verdict(first),
        test_rows=_test(first),
        over_groups=None if over_groups is None else points(over_groups),
        letters=_letters(first.tested),
        heat_maps=[_heat(first.grid, measure) for measure in MEASURES],
        seeds=_seeds(report) if len(report.trials) > 1 else None,
        costs=_costs(report),
    )


def _verdict(trial: Trial) -> str:
    chosen, gain = trial.chosen, trial.tested.balanced[2]
    cell = f"Block {chosen.block}, strength {chosen.strength:g}, chosen by validation {MEASURES[trial.by]}."
    if not trial.improves:
        return f"{cell} No cell beats the unsteered model on validation: these items do not move this model."
    if gain.high < 0:
        return f"{cell} On the test split it is worse than no steering."
    if gain.low <= 0:
        return f"{cell} On the test split the gain is not distinguishable from zero."
    return f"{cell} Test balanced accuracy rises by {points(gain)} points."


def _test(trial: Trial) -> Rows:
    """Two rows for each chosen cell; both measures often choose the same one."""
    rows: Rows = []
    for cell in dict.fromkeys(trial.choices.values()):
        by = [measure for measure, chosen in trial.choices.items() if chosen == cell]
        note = Cell(f"block {cell.block} at {cell.strength:g}, by validation {' and '.join(by)}", kind="text")
        for measure, name in MEASURES.items():
            before, after, gain = getattr(trial.test[by[0]], measure)
            rows.append((name, percent(before, ""), percent(after, ""), points(gain), note))
    return rows


def _letters(scores: Scores) -> Rows:
    return [
        (
            f"target {letter}",
            str(n),
            f"{100 * before:.0f} %",
            f"{100 * after:.0f} %",
            *map(str, scores.answered[letter]),
        )
        for letter, (n, before, after) in scores.by_letter.items()
    ]


def _heat(grid: Grid, measure: str) -> tuple[str, tuple[str, ...], Rows]:
    """Caption, head and rows: blocks downward, strengths across."""
    base, best = grid.unsteered[measure], grid.best(measure)
    gains = 100 * (grid.values[measure] - base)
    most = max(1.0, float(abs(gains).max()))
    rows: Rows = []
    for block, row in zip(grid.blocks, gains.tolist(), strict=True):
        cells = [
            Cell(
                signed(gain),
                kind="best" if (block, strength) == (best.block, best.strength) else "",
                style=tint(0.75 * gain / most),
            )
            for strength, gain in zip(grid.strengths, row, strict=True)
        ]
        rows.append((f"block {block}", *cells))
    caption = (
        f"Validation {MEASURES[measure]}: points over the unsteered model's {100 * base:.1f} %. "
        "Framed: the best cell."
    )
    return caption, ("strength", *(f"{strength:g}" for strength in grid.strengths)), rows


def _seeds(report: PasReport) -> Rows:
    rows: Rows = [
        (
            f"seed {trial.seed}",
            str(trial.chosen.block),
            f"{trial.chosen.strength:g}",
            *(points(getattr(trial.tested, measure)[2]) for measure in MEASURES),
        )
        for trial in report.trials
    ]
    means = [report.over_seeds(measure) for measure in MEASURES]
    return [*rows, ("mean over seeds", "", "", *(points(mean) for mean in means if mean is not None))]


def _costs(report: PasReport) -> Rows:
    before, after, _ = report.control.accuracy
    rows: Rows = [(f"{report.control.n} general questions", percent(before, ""), percent(after, ""))]
    for name, (unsteered, steered) in (
        ("surprise of free text, nats per token", report.free_text.nll0),
        ("its distinct-2", report.free_text.distinct2),
    ):
        rows.append((name, f"{unsteered:.2f}", "overflow" if steered is None else f"{steered:.2f}"))
    return rows
