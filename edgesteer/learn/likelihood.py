"""How well a steered model predicts prompted replies: the cheap judge of strengths and blocks.

In:  a model, a bundle, pairs. Out: mean negative log-likelihood of y' behind the plain prompt, in nats a token.

It needs no sampling: one pass over the replies, side by side. It is smooth in the strength with one minimum,
and overshooting costs likelihood as much as falling short does. It cannot say how much trait a coherence buys;
that is measured on replies (evaluate.dose).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgesteer.bundle import Bundle
from edgesteer.generate.chat import Chat
from edgesteer.generate.progress import Done
from edgesteer.learn.make import Maker, without
from edgesteer.learn.methods import BlockFit
from edgesteer.learn.pairs import Pair

GRID = (0.5, 1.0, 1.5, 2.25)

# A block group is left out where the likelihood loses less than this without it, nats a token.
_WORTH = 0.002
_GROUPS = 7


def steered_nll(chat: Chat, bundle: Bundle, strength: float, pairs: Sequence[Pair]) -> float:
    """Mean over all reply tokens of -log p(token) behind the plain prompt, steered; nats. Replies with the
    opposite's trait (sign -1) are read at the negative strength."""
    total: list[np.ndarray[tuple[int], np.dtype[np.float32]]] = []
    for sign in (1, -1):
        told = [(pair.plain, pair.reply) for pair in pairs if pair.sign == sign]
        if told:
            with chat.llm.steered(bundle, sign * strength):
                total += chat.log_probs(told)
    return float(-np.concatenate(total).mean())


def likeliest(
    chat: Chat, bundle: Bundle, pairs: Sequence[Pair], progress: Done = lambda fraction: None
) -> float:
    """The strength of least NLL: from the parabola through the best of GRID and its neighbours. Walks up the
    grid only while it pays."""
    losses: list[float] = []
    for strength in GRID:
        progress(len(losses) / len(GRID))
        losses.append(steered_nll(chat, bundle, strength, pairs))
        if len(losses) >= 3 and losses[-1] >= losses[-2]:
            break
    return round(lowest(GRID[: len(losses)], losses), 2)


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


def best_block(
    chat: Chat, make: Maker, fits: Mapping[int, BlockFit], pairs: Sequence[Pair], progress: Done
) -> int:
    """The single block whose steering best predicts the replies, at the better of two strengths."""
    found: dict[int, float] = {}
    for done, (block, fit) in enumerate(fits.items()):
        progress(done / len(fits))
        bundle = make.bundle({block: fit})
        found[block] = min(steered_nll(chat, bundle, strength, pairs) for strength in GRID[1::2])
    return min(found, key=lambda block: (found[block], block))


def droppable(
    chat: Chat,
    make: Maker,
    fits: Mapping[int, BlockFit],
    strength: float,
    pairs: Sequence[Pair],
    progress: Done,
) -> list[int]:
    """Blocks that the likelihood does not miss: groups of neighbours are left out one after another, the one
    that is missed least first, while what is left predicts the replies as well as all do."""
    groups = [list(g) for g in np.array_split(sorted(fits), min(_GROUPS, len(fits)))]
    base = steered_nll(chat, make.bundle(fits), strength, pairs)
    missed = []
    for i, group in enumerate(groups):
        progress(0.7 * i / len(groups))
        rest = without(fits, group)
        missed.append(steered_nll(chat, make.bundle(rest), strength, pairs) - base if rest else np.inf)
    dropped: list[int] = []
    for i in np.argsort(missed, kind="stable"):
        if missed[i] > _WORTH or len(dropped) + len(groups[i]) == len(fits):
            break
        trial = [*dropped, *groups[i]]
        progress(0.7 + 0.3 * len(dropped) / len(fits))
        if steered_nll(chat, make.bundle(without(fits, trial)), strength, pairs) - base > _WORTH:
            break
        dropped = trial
    return sorted(int(block) for block in dropped)
