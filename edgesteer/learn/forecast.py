"""Whether a trait will learn well, from the first replies, before minutes are spent on it.

In:  pairs. Out: a Forecast.

Steering adds multiples of one direction to a block. So a trait should learn well where the prompt changes the
residual stream in the same direction whatever is asked (arXiv 2605.16362).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

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

# SmolLM2-135M, whole replies: similarity, and how much of the prompted replies' gain in likelihood the closed
# form reached on other questions: pirate 0.70, 79 %; rhymes 0.56, 80 %; gloomy 0.54, 55 %; cheerful 0.53,
# 43 %; sea 0.37, 16 %; but cats in every answer 0.34, 59 % (of a small gain): a low one may be wrong.
# Of the others in docs/results.md, Shakespeare has 0.74 and short 0.46. With _TOKENS it is about 0.03 less.
_WELL = 0.4


@dataclass(frozen=True, slots=True)
class Forecast:
    """similarity: mean cosine between the differences that the prompt makes to two questions, -1..1.
    well: whether the trait is expected to learn well.
    """

    similarity: float
    well: bool


def late_blocks(task: Task) -> range:
    """The last third of the blocks that can be steered, which the forecast looks at: in earlier ones all
    differences are alike, whatever the trait."""
    blocks = steered_blocks(task.chat.llm.model_info.n_layer)
    return blocks[2 * len(blocks) // 3 :]


def forecast(
    task: Task,
    pairs: Sequence[Pair],
    teacher: Mapping[int, F32] | None = None,
    layers: Sequence[int] = (),
) -> Forecast | None:
    """The forecast from the pairs that have a reply with the trait's sign; None if those are too few.

    teacher: index of a pair -> the residual stream behind its prompted prompt, of the blocks `layers`, among
        which are the late ones: float32 [layers, reply, n_embd]. It is computed for pairs that are missing.
    """
    used = [i for i, pair in enumerate(pairs) if pair.sign > 0 and pair.reply]
    if len(used) < _MIN_REPLIES:
        return None
    short = [replace(pairs[i], reply=pairs[i].reply[:_TOKENS]) for i in used]
    late, known = [list(layers).index(n) for n in late_blocks(task) if n in layers], teacher or {}
    streams = [known[i][late, :_TOKENS] if i in known else None for i in used]
    found = similarity(differences(task, short, streams))
    return Forecast(round(found, 4), found >= _WELL)


def differences(task: Task, pairs: Sequence[Pair], teacher: Sequence[F32 | None] | None = None) -> F64:
    """What the prompt adds to the residual stream of the late blocks, mean over each reply: float64
    [blocks, pairs, n_embd]. teacher: see `contrast_rows`."""
    ends = list(itertools.accumulate(len(pair.reply) for pair in pairs))
    blocks = late_blocks(task)
    with contrast_rows(task.chat, pairs, kind="accumulated", blocks=blocks, teacher=teacher) as rows:
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
