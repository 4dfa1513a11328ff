"""The default strength: a little above the one at which the steered model best predicts the prompted replies.

In:  a model, a bundle, pairs that the fit has not seen. Out: a strength.

Fitted gates fall short of their targets (a regression shrinks, and blocks above see a student that lags), so 1
is too little. Mean log-likelihood of y' behind the plain prompt needs no sampling: it is smooth in the strength,
with one maximum, and overshooting costs likelihood as much as falling short does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgesteer.bundle import Bundle
from edgesteer.evaluate.chat import Chat
from edgesteer.learn.pairs import Pair

GRID = (0.75, 1.25, 1.75, 2.5)
STEP = 0.05

# Likelihood weighs every token of sampled replies; greedy replies need more to leave the plain wording. At 4/3
# of the likeliest strength they show the trait in 85 % of a development set's replies, at 1.2 in 60 %.
EMPHASIS = 4 / 3


def best_strength(
    chat: Chat,
    bundle: Bundle,
    pairs: Sequence[Pair],
    progress: Callable[[float], None] = lambda fraction: None,
) -> float:
    """EMPHASIS times the strength of least mean NLL of the pairs' replies, to 0.05: from the parabola through
    the best of GRID and its neighbours. Walks up the grid only while it pays."""
    losses: list[float] = []
    for strength in GRID:
        progress(len(losses) / len(GRID))
        losses.append(steered_nll(chat, bundle, strength, pairs))
        if len(losses) >= 3 and losses[-1] >= losses[-2]:
            break
    likeliest = lowest(GRID[: len(losses)], losses)
    return round(round(EMPHASIS * likeliest / STEP) * STEP, 2)


def steered_nll(chat: Chat, bundle: Bundle, strength: float, pairs: Sequence[Pair]) -> float:
    """Mean over all reply tokens of -log p(token) behind the plain prompt, steered; nats."""
    with chat.llm.steered(bundle, strength):
        log_probs = [chat.log_probs(pair.plain, pair.reply) for pair in pairs]
    return float(-np.concatenate(log_probs).mean())


def lowest(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Where a smooth function with one minimum is least, from samples at ascending xs.

    The vertex of the parabola through the least sample and its neighbours, kept within the samples' range.
    """
    middle = min(max(int(np.argmin(ys)), 1), len(xs) - 2)
    a, b, c = xs[middle - 1 : middle + 2]
    fa, fb, fc = ys[middle - 1 : middle + 2]
    left, right = (b - a) * (fb - fc), (b - c) * (fb - fa)
    if left - right == 0:
        return float(xs[int(np.argmin(ys))])
    vertex = b - 0.5 * ((b - a) * left - (b - c) * right) / (left - right)
    return float(min(max(vertex, xs[0]), xs[-1]))
