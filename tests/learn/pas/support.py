"""What the tests of PAS share: items, tiny models with lanes, and reports that nobody had to run."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from edgesteer import Bundle, SteeredLlama
from edgesteer.evaluate.intervals import Estimate
from edgesteer.learn.part_file import PartFile
from edgesteer.learn.pas import Item, PasRecipe, PasReport
from edgesteer.learn.pas.report import FreeText, Shots, Skipped, Trial
from edgesteer.learn.pas.scores import I8, Grid, Scores, scores
from tests.runtime.support import vector

WORDS = [
    "stone",
    "river",
    "apple",
    "cloud",
    "horse",
    "paper",
    "winter",
    "candle",
    "bridge",
    "garden",
    "needle",
    "mirror",
]


def item(number: int, size: int = 2, answer: int | None = None, context: str = "") -> Item:
    """A question of its own with `size` choices."""
    choices = tuple(f"{WORDS[(number + n) % len(WORDS)]} {number}{'!' * n}" for n in range(size))
    return Item(f"What is {number}?", choices, number % size if answer is None else answer, context)


def quiz(count: int = 20, sizes: Sequence[int] = (2,)) -> list[Item]:
    return [item(number, sizes[number % len(sizes)]) for number in range(count)]


def opened(path: Path, lanes: int = 8, **options: Any) -> SteeredLlama:
    return SteeredLlama(
        path, n_seq_max=lanes, **{"n_ctx": 1024, "n_threads": 1, "n_threads_batch": 1, **options}
    )


def constants(
    path: Path, blocks: Sequence[int], scope: str = "response", size: float = 0.3
) -> dict[int, Bundle]:
    """For each block a random vector there."""
    return {block: vector(path, [block], scope=scope, seed=block, size=size) for block in blocks}


# What surrounds a run, in little: two control questions, and two questions for free text.
BRIEF: dict[str, Any] = {"control": (item(901, 4), item(902, 4)), "questions": ("Why?", "What is rain?")}


class Answers(PartFile):
    """The answers of a run in the order in which they were computed, each with the question and the number of cells.

    letters: called with what the model is shown and the number of cells, in place of the model; None asks the model.
    """

    def __init__(self, llm: SteeredLlama, letters: Callable[[str, int], list[int]] | None = None) -> None:
        super().__init__(None, {})
        self._llm, self._letters = llm, letters
        self.asked: list[tuple[str, str, int]] = []

    def get(self, key: str) -> Any:
        if self._letters is None:
            return super().get(key)
        kind, texts, cells = self._read(key)
        each = [self._letters(text, cells) for text in texts]
        self._note(kind, texts, cells)
        return each[0] if kind == "steered" else [letters[0] for letters in each]

    def put(self, key: str, result: Any) -> None:
        self._note(*self._read(key))
        super().put(key, result)

    def _note(self, kind: str, texts: list[str], cells: int) -> None:
        self.asked += [(kind, text, cells) for text in texts]

    def _read(self, key: str) -> tuple[str, list[str], int]:
        kind, what, *rest = ast.literal_eval(key)
        tokens = [tokens for tokens, _ in what] if kind == "unsteered" else [rest[0]]
        texts = [self._llm.detokenize(one, special=True).decode() for one in tokens]
        return kind, texts, len(what) if isinstance(what, list) and kind == "steered" else 1


def question(text: str) -> str:
    """The last "What is N?" of a prompt, behind any exemplars."""
    return [line for line in text.splitlines() if line.startswith("What is ")][-1]


# -- reports ---------------------------------------------------------------------------------------


def answers(rng: np.random.Generator, items: Sequence[Item]) -> I8:
    return np.array([rng.integers(0, len(one.choices)) for one in items], dtype=np.int8)


@cache
def judged(seed: int, n: int = 12, size: int = 2) -> Scores:
    rng = np.random.default_rng(seed)
    items = quiz(n, (size,))
    return scores(items, answers(rng, items), answers(rng, items))


def a_grid(
    rng: np.random.Generator, blocks: Sequence[int], strengths: Sequence[float], extreme: bool = False
) -> Grid:
    shape = (len(blocks), len(strengths))
    drawn = (lambda: rng.integers(0, 2, shape).astype(float)) if extreme else (lambda: rng.random(shape))
    values = {name: drawn() for name in ("accuracy", "balanced")}
    base = 1.0 if extreme else 0.5
    return Grid(tuple(blocks), tuple(strengths), values, {"accuracy": base, "balanced": base}, 3)


def a_trial(
    seed: int = 0,
    blocks: Sequence[int] = (1, 2, 3),
    strengths: Sequence[float] = (0.5, 1.0, 4.0),
    by: str = "accuracy",
    n: int = 12,
    size: int = 2,
    extreme: bool = False,
) -> Trial:
    rng = np.random.default_rng(seed)
    grid = a_grid(rng, blocks, strengths, extreme)
    return Trial(
        seed=seed,
        sizes=(3 * n, n, n),
        duplicates=seed % 3,
        wrong=n,
        texts=(n, n),
        norms=dict.fromkeys(blocks, 1.5),
        grid=grid,
        by=by,
        choices={measure: grid.best(measure) for measure in grid.values},
        test={measure: judged(seed + i, n, size) for i, measure in enumerate(grid.values)},
    )


def a_report(
    sample: tuple[str, str, str] = ("Why?", "So it is.", "Because."),
    trials: int = 1,
    shots: tuple[str, ...] = (),
    overflow: bool = False,
    skipped: int = 0,
    **how: Any,
) -> PasReport:
    found = tuple(a_trial(seed, **how) for seed in range(trials))
    after = None if overflow else 2.5
    return PasReport(
        recipe=PasRecipe(trials=trials, shots=len(shots)),
        blocks=found[0].grid.blocks,
        skipped=Skipped(skipped, 900),
        trials=found,
        control=judged(9, 16, 4),
        free_text=FreeText((2.25, after), (0.9, after and 0.8), sample),
        shots=Shots(len(shots), 0.5, shots) if shots else None,
        seconds=12.3,
    )


def holds(one: Estimate) -> bool:
    return one.low <= one.value <= one.high
