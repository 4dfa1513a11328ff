"""A PAS run as one HTML page: heat maps by either measure, what it did to the test split, what it costs.

In:  a PasReport. Out: a document as text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgesteer.report.page import document, table, text, tint
from edgesteer.report.pas import points

if TYPE_CHECKING:
    from edgesteer.evaluate.intervals import Estimate
    from edgesteer.learn.pas.scores import Grid, Scores
    from edgesteer.learn.pas.report import PasReport, Trial

_NAMES = {"accuracy": "accuracy", "balanced": "balanced accuracy"}


def page(title: str, report: PasReport) -> str:
    return document(f"{title}: {report.recipe.variant}", _parts(report))


def _parts(report: PasReport) -> Iterator[str]:
    first = report.trials[0]
    train, validation, test = first.sizes
    yield (
        f'<p class="dim">{train} training, {validation} validation and {test} test items; '
        f"{first.duplicates} repeated, {report.skipped.items} too long. Vectors from {first.wrong} training items "
        f"answered wrong. {report.seconds:.0f} s.</p>"
    )
    yield f"<p>{_verdict(first)}</p>"
    yield "<h2>Test items, asked once</h2>"
    yield _test(first)
    yield "<h2>By letter</h2>"
    yield _letters(first.tested)
    yield "<h2>Validation: which blocks and strengths</h2>"
    for measure in _NAMES:
        yield _heat(first.grid, measure)
    if len(report.trials) > 1:
        yield f"<h2>Over {len(report.trials)} seeds</h2>"
        yield _seeds(report)
    yield "<h2>What it costs elsewhere</h2>"
    yield from _cost(report)


def _verdict(trial: Trial) -> str:
    chosen, gain = trial.chosen, trial.tested.balanced[2]
    at = f"Block {chosen.block}, strength {chosen.strength:g}, chosen by validation {_NAMES[trial.by]}."
    if not trial.improves:
        return f"{at} No cell beats the unsteered model on validation: these items do not move this model."
    if gain.high < 0:
        return f"{at} On the test split it is worse than no steering."
    if gain.low <= 0:
        return f"{at} On the test split the gain is not distinguishable from zero."
    return f"{at} Test balanced accuracy rises by {points(gain)} points."


def _test(trial: Trial) -> str:
    """One pair of rows for each cell that was chosen; often both measures choose the same."""
    rows = []
    for cell in dict.fromkeys(trial.choices.values()):
        by = [measure for measure, chosen in trial.choices.items() if chosen == cell]
        tested = trial.test[by[0]]
        where = f"block {cell.block} at {cell.strength:g}, by validation {' and '.join(by)}"
        for name, three in (("accuracy", tested.accuracy), ("balanced accuracy", tested.balanced)):
            before, after, gain = three
            rows.append(
                (name, _percent(before), _percent(after), points(gain), f'<td class="text">{where}</td>')
            )
    caption = "Percent with 95 % intervals over items; the gain is paired, in points."
    over = trial.tested.over_groups
    groups = "" if over is None else f" With whole groups resampled the accuracy's gain is {points(over)}."
    flips = f"{trial.tested.wrong_to_right} wrong to right, {trial.tested.right_to_wrong} right to wrong"
    return table(caption, ("", "before", "after", "gain", ""), rows) + f"<p>Flips: {flips}.{groups}</p>"


def _letters(scores: Scores) -> str:
    rows = [
        (
            f"target {letter}",
            str(n),
            f"{100 * before:.0f} %",
            f"{100 * after:.0f} %",
            *map(str, scores.answered[letter]),
        )
        for letter, (n, before, after) in scores.by_letter.items()
    ]
    head = ("", "items", "right before", "right after", "answered before", "answered after")
    return table("A gain that is a letter's alone shows here.", head, rows)


def _heat(grid: Grid, measure: str) -> str:
    base, best = grid.unsteered[measure], grid.best(measure)
    gains = 100 * (grid.values[measure] - base)
    most = max(1.0, float(abs(gains).max()))
    rows = []
    for i, block in enumerate(grid.blocks):
        row = [f"block {block}"]
        for j, strength in enumerate(grid.strengths):
            gain = float(gains[i, j])
            kind = ' class="best"' if (block, strength) == (best.block, best.strength) else ""
            shown = f"{gain:+.1f}" if abs(gain) >= 0.05 else "0"
            row.append(f'<td{kind} style="{tint(0.75 * gain / most)}">{shown}</td>')
        rows.append(row)
    named = f"Validation {_NAMES[measure]}"
    caption = f"{named}: points over the unsteered model's {100 * base:.1f} %. Framed: the best cell."
    return table(caption, ("strength", *(f"{s:g}" for s in grid.strengths)), rows, "heat")


def _seeds(report: PasReport) -> str:
    rows = [
        (
            f"seed {trial.seed}",
            f"{trial.chosen.block}",
            f"{trial.chosen.strength:g}",
            points(trial.tested.accuracy[2]),
            points(trial.tested.balanced[2]),
        )
        for trial in report.trials
    ]
    accuracy, balanced = report.over_seeds("accuracy"), report.over_seeds("balanced")
    assert accuracy is not None
    assert balanced is not None
    rows.append(("mean over seeds", "", "", points(accuracy), points(balanced)))
    return table(
        "Test gains in points, 95 % intervals.", ("", "block", "strength", "accuracy", "balanced"), rows
    )


def _cost(report: PasReport) -> Iterator[str]:
    control, talk = report.control.accuracy, report.free_text
    rows = [(f"{report.control.n} general questions", _percent(control[0]), _percent(control[1]))]
    for name, (before, after) in (
        ("surprise of free text, nats a token", talk.nll0),
        ("its distinct-2", talk.distinct2),
    ):
        rows.append((name, f"{before:.2f}", "overflow" if after is None else f"{after:.2f}"))
    yield table("The same vector where nobody asks for letters.", ("", "before", "after"), rows)
    question, before_text, after_text = talk.sample
    yield f"<p>One reply, unsteered and steered: {text(question)}</p>"
    yield f"<blockquote>{text(before_text)}</blockquote><blockquote>{text(after_text)}</blockquote>"


def _percent(one: Estimate) -> str:
    return f"{100 * one.value:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}]"
