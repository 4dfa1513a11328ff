"""Whether a trait will learn well, from the first replies, before minutes are spent on it.

In:  pairs. Out: a Forecast.

Steering adds multiples of one direction to a block. So a trait should learn well where the prompt changes the
residual stream in the same direction whatever is asked (arXiv 2605.16362).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgesteer.generate.progress import Done, no_progress
from edgesteer.learn.contrast import contrast_rows, steered_blocks
from edgesteer.learn.pairs import Pair
from edgesteer.learn.ridge import F32, F64
from edgesteer.learn.task import Task

N_FORECAST = 16
"""The first questions, whose replies are looked at."""

# Tokens of each reply that are looked at: with more, it takes longer and says the same.
_TOKENS = 24

# With fewer replies the mean is worth nothing.
_MIN_REPLIES = 4

_WELL = 0.5


@dataclass(frozen=True, slots=True)
class Forecast:
    """similarity: mean cosine between the differences that the prompt makes to two questions, -1..1.
    well: whether the trait is expected to learn well.
    """

    similarity: float
    well: bool


def forecast(task: Task, pairs: Sequence[Pair], progress: Done = no_progress) -> Forecast | None:
    """The forecast from the pairs that have a reply with the trait's sign; None if those are too few."""
    pairs = [replace(p, reply=p.reply[:_TOKENS]) for p in pairs if p.sign > 0 and p.reply]
    if len(pairs) < _MIN_REPLIES:
        return None
    found = similarity(differences(task, pairs, progress))
    return Forecast(round(found, 4), found >= _WELL)


def differences(task: Task, pairs: Sequence[Pair], progress: Done = no_progress) -> F64:
    """What the prompt adds to the residual stream, mean over each reply: float64 [blocks, pairs, n_embd], of
    the middle third of the blocks."""
    blocks = steered_blocks(task.chat.llm.model_info.n_layer)
    middle = blocks[len(blocks) // 3 : max(len(blocks) // 3 + 1, 2 * len(blocks) // 3)]
    ends = list(itertools.accumulate(len(pair.reply) for pair in pairs))
    with contrast_rows(task.chat, pairs, kind="accumulated", blocks=middle, progress=progress) as rows:
        return np.array([_means(delta, ends) for _, _, delta in rows.each()])


def _means(delta: F32, ends: Sequence[int]) -> list[F64]:
    """The mean of each pair's rows."""
    return [part.mean(axis=0, dtype=np.float64) for part in np.split(delta, ends[:-1])]


def similarity(differences: F64) -> float:
    """Mean over the blocks of the mean cosine between two pairs' differences, [blocks, pairs, n_embd]. A zero
    difference is like no other. Raises ValueError for fewer than two pairs."""
    n = differences.shape[1]
    if n < 2:
        raise ValueError(f"{n} differences, expected at least two")
    norms = np.linalg.norm(differences, axis=-1, keepdims=True)
    unit = np.divide(differences, norms, out=np.zeros_like(differences), where=norms > 0)
    # |sum of unit vectors|^2 = their own squares + twice each pair's cosine
    total = (unit.sum(axis=1) ** 2).sum(axis=-1) - (unit**2).sum(axis=(1, 2))
    return float((total / (n * (n - 1))).mean())
