"""A bundle on other quantizations of its model as tables of at most 100 columns, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from edgesteer.evaluate.transfer import Transfer, Trial
from edgesteer.report.cells import paragraphs, table
from edgesteer.report.measures import interval, number, strength

_WIDTH = 100
_HEAD = ("", "MB", "trait", "minus unsteered", "coherence", "distinct-2")
_DIFFERENCES = ("", "KL from unsteered", "trait minus", "coherence minus", "KL minus")


def lines(result: Transfer) -> Iterator[str]:
    """The whole report."""
    yield from table(_HEAD, [_figures(trial) for trial in result.trials], left=(0, 2, 3, 4), width=_WIDTH)
    yield ""
    first = result.trials[0]
    head = (*_DIFFERENCES[:2], *(f"{name} {first.file_type}" for name in _DIFFERENCES[2:]))
    rows = [_differences(trial, first) for trial in result.trials]
    yield from table(head, rows, left=range(5), width=_WIDTH)
    yield ""
    yield from paragraphs(notes(result), _WIDTH)


def notes(result: Transfer) -> list[str]:
    """What was tried, and on what."""
    n, given = len(result.questions), result.trials[0].file_type
    learnt = f", learnt on {result.learnt_on}" if result.learnt_on else ""
    copies = [trial.file_type for trial in result.trials if trial.copy]
    return [
        f"{result.bundle} at strength {strength(result.strength)}{learnt}. "
        f"{n} question{'s' if n > 1 else ''}, greedy, at most {result.max_tokens} tokens; 95 % intervals "
        "over the questions.",
        f"Requantized from {given}: {', '.join(copies)}." if copies else "No copy was tried.",
    ]


def _figures(trial: Trial) -> tuple[str, ...]:
    return (
        trial.file_type,
        f"{trial.file_bytes / 1e6:.1f}",
        interval(trial.estimates["trait"]),
        interval(trial.minus_unsteered["trait"]),
        interval(trial.estimates["coherence"]),
        number(trial.estimates["distinct2"].value),
    )


def _differences(trial: Trial, first: Trial) -> tuple[str, ...]:
    return (
        trial.file_type,
        interval(trial.estimates["kl"]),
        *("" if trial is first else interval(trial.minus_first[key]) for key in ("trait", "coherence", "kl")),
    )
