"""Score answers: accuracies, flips, letters, intervals, and the grid of cells. Pure.

In:  items, and the letters answered, unsteered and steered. Out: Scores of one cell; a Grid of many.

accuracy            share of the items whose target was answered
balanced accuracy   mean over the letters of the accuracy among the items whose target has that letter;
                    a model or vector that merely prefers a letter gains nothing
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesteer.evaluate.intervals import RESAMPLES, Estimate, Sample, estimate, estimated
from edgesteer.learn.pas.items import LETTERS, Item

I8 = npt.NDArray[np.int8]
F64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]
Three = tuple[Estimate, Estimate, Estimate]

# Stands for the letter if steering overflowed float32.
OVERFLOWED = -1

MEASURES = ("accuracy", "balanced")

_DIGITS = 9


def right(items: Sequence[Item], answers: I8) -> Bools:
    """Whether the target was answered: bool, with the shape of `answers` [items, ...]."""
    targets = np.array([item.answer for item in items], dtype=np.int8)
    return np.asarray(answers == targets.reshape(-1, *[1] * (answers.ndim - 1)))


def balanced(items: Sequence[Item], correct: Bools) -> F64:
    """Balanced accuracy over the items, the first axis of `correct`: float64 [...]."""
    targets = np.array([item.answer for item in items])
    return np.asarray(np.mean([correct[targets == t].mean(axis=0) for t in np.unique(targets)], axis=0))


# -- one cell --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scores:
    """The same items before (unsteered) and after (steered), in one batch each: only the steering differs.

    accuracy, balanced: before, after and the difference, with 95 % intervals over resampled items.
    over_groups: the gain in accuracy with an interval over resampled groups, which is wider because the items
        of a group are similar; None if no item has a group.
    by_letter: letter -> (items whose target it is, accuracy before, after).
    answered: letter -> how often it was answered (before, after).
    """

    n: int
    accuracy: Three
    balanced: Three
    right_to_wrong: int
    wrong_to_right: int
    over_groups: Estimate | None
    by_letter: dict[str, tuple[int, float, float]]
    answered: dict[str, tuple[int, int]]

    def to_json(self) -> dict[str, Any]:
        def three(estimates: Three) -> dict[str, Any]:
            return {
                name: rounded(one) for name, one in zip(("before", "after", "gain"), estimates, strict=True)
            }

        return {
            "items": self.n,
            "accuracy": three(self.accuracy),
            "balanced_accuracy": three(self.balanced),
            "gain_over_groups": None if self.over_groups is None else rounded(self.over_groups),
            "right_to_wrong": self.right_to_wrong,
            "wrong_to_right": self.wrong_to_right,
            "by_letter": {
                letter: {"items": n, "before": round(before, 4), "after": round(after, 4)}
                for letter, (n, before, after) in self.by_letter.items()
            },
            "answered": {letter: list(counts) for letter, counts in self.answered.items()},
        }


def rounded(one: Estimate) -> list[float]:
    """[value, low, high], rounded for JSON."""
    return [round(value, 4) + 0.0 for value in (one.value, one.low, one.high)]  # no -0.0


def scores(items: Sequence[Item], before: I8, after: I8, seed: int = 0) -> Scores:
    """Compare two sets of answers. before, after: the letters, int8 [items]."""
    was, now = right(items, before), right(items, after)
    targets = np.array([item.answer for item in items])
    rows = _resampled(targets, seed)
    most = max(len(item.choices) for item in items)
    return Scores(
        n=len(items),
        accuracy=_three(was, now, rows, lambda correct: correct.mean(axis=-1)),
        # Resampling within letters leaves each position its letter.
        balanced=_three(was, now, rows, lambda correct: balanced(items, correct.T)),
        right_to_wrong=int((was & ~now).sum()),
        wrong_to_right=int((~was & now).sum()),
        over_groups=_over_groups(items, was, now, seed),
        by_letter={
            LETTERS[t]: (
                int((targets == t).sum()),
                float(was[targets == t].mean()),
                float(now[targets == t].mean()),
            )
            for t in np.unique(targets)
        },
        answered={LETTERS[t]: (int((before == t).sum()), int((after == t).sum())) for t in range(most)},
    )


def _resampled(targets: Indices, seed: int) -> Indices:
    """Indices [RESAMPLES, items], drawn with replacement among the items whose target has the same letter."""
    rng, n = np.random.default_rng(seed), len(targets)
    rows = np.empty((RESAMPLES, n), dtype=np.intp)
    for t in np.unique(targets):
        here = np.flatnonzero(targets == t)
        rows[:, here] = here[rng.integers(0, len(here), (RESAMPLES, len(here)))]
    return rows


def _three(was: Bools, now: Bools, rows: Indices, measure: Callable[[Bools], F64]) -> Three:
    before, after = measure(was), measure(now)
    before_rows, after_rows = measure(was[rows]), measure(now[rows])
    return (
        estimated(float(before), before_rows),
        estimated(float(after), after_rows),
        estimated(float(after - before), after_rows - before_rows),
    )


def _over_groups(items: Sequence[Item], was: Bools, now: Bools, seed: int) -> Estimate | None:
    """The gain over resampled groups; an item without a group counts as a group."""
    if all(item.group is None for item in items):
        return None
    names = [item.group or i for i, item in enumerate(items)]
    index = {name: i for i, name in enumerate(dict.fromkeys(names))}
    gains, sizes = np.zeros(len(index)), np.zeros(len(index))
    np.add.at(gains, [index[name] for name in names], now.astype(np.float64) - was)
    np.add.at(sizes, [index[name] for name in names], 1.0)
    return estimate(Sample(gains, sizes), seed)


# -- the grid --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cell:
    """A block and the strength of the vector there; strength 0 is the unsteered model."""

    block: int
    strength: float


def cells_of(blocks: Sequence[int], strengths: Sequence[float]) -> list[Cell]:
    """One unsteered cell, then the grid, block by block."""
    return [Cell(blocks[0], 0.0), *(Cell(block, strength) for block, strength in product(blocks, strengths))]


@dataclass(frozen=True, slots=True)
class Grid:
    """Validation accuracies of every cell.

    blocks, strengths: the axes. values: measure -> float64 [blocks, strengths].
    unsteered: measure -> value at strength 0. overflowed: how many answers are OVERFLOWED.
    """

    blocks: tuple[int, ...]
    strengths: tuple[float, ...]
    values: dict[str, F64]
    unsteered: dict[str, float]
    overflowed: int

    def best(self, measure: str) -> Cell:
        """The cell with the highest value; ties go to the smaller strength, then to the earlier block."""
        values = self.values[measure]
        order = sorted(
            np.ndindex(values.shape),
            key=lambda at: (-values[at], abs(self.strengths[at[1]]), self.blocks[at[0]]),
        )
        block, strength = order[0]
        return Cell(self.blocks[block], self.strengths[strength])

    def at(self, cell: Cell, measure: str) -> float:
        row, column = self.blocks.index(cell.block), self.strengths.index(cell.strength)
        return float(self.values[measure][row, column])


def grid(items: Sequence[Item], blocks: Sequence[int], strengths: Sequence[float], answers: I8) -> Grid:
    """The grid of these answers: letters in `cells_of(blocks, strengths)`, int8 [items, cells]."""
    correct = right(items, answers)
    # Rounded, so that means that differ by rounding alone are ties, which `best` breaks.
    measured = {
        "accuracy": correct.mean(axis=0).round(_DIGITS),
        "balanced": balanced(items, correct).round(_DIGITS),
    }
    shape = (len(blocks), len(strengths))
    return Grid(
        tuple(blocks),
        tuple(strengths),
        {name: values[1:].reshape(shape) for name, values in measured.items()},
        {name: float(values[0]) for name, values in measured.items()},
        int((answers == OVERFLOWED).sum()),
    )
