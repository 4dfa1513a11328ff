"""Teacher-forced local deltas: what each block's steering must add, given that the blocks below are steered.

In:  a model and contrast pairs.
Out: per block the residual stream h of the student and delta = teacher - h, at the positions in scope.

The teacher reads x'y'. The student reads xy'; at each block its h is written down and then overwritten with the
teacher's activation, so that the next block sees a perfectly steered input. So one pass gives every block its
target (the A-PSR objective of arXiv 2605.03907, local to the block), and the student starts from the plain
prompt's own activations, which lie outside the scope. Positions are aligned from the end of the sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgesteer.learn.pairs import Pair
from edgesteer.runtime import SteeredLlama

F32 = npt.NDArray[np.float32]

# Bounds what is held in memory; with more rows than fit, every pair gives evenly spaced positions.
MAX_BYTES = 640 << 20


@dataclass(frozen=True, slots=True)
class Contrast:
    """One pair's h and delta: float32 [blocks, positions, n_embd]; `steered_blocks` in order."""

    h: F32
    delta: F32


def steered_blocks(n_layer: int) -> range:
    """All blocks but the first, which has no slot, and the last, which has nothing above it.

    Steering the last block only shifts logits: without it the KL divergence to the prompted model is the same
    to three digits, and capture need not compute a vocabulary's logits for every row.
    """
    return range(1, max(2, n_layer - 1))


def contrast_pairs(
    llm: SteeredLlama, pairs: Sequence[Pair], progress: Callable[[float], None] = lambda fraction: None
) -> list[Contrast]:
    """The contrast of each pair, in order; the model's steering is set aside."""
    blocks = steered_blocks(llm.model_info.n_layer)
    room = MAX_BYTES // (2 * 4 * len(blocks) * llm.model_info.n_embd)
    most = max(1, room // len(pairs))
    contrasts = []
    with llm.steered([]):
        for done, pair in enumerate(pairs):
            progress(done / len(pairs))
            contrasts.append(contrast(llm, pair, blocks, spaced(pair.n_positions, most)))
    return contrasts


def contrast(llm: SteeredLlama, pair: Pair, blocks: Sequence[int], keep: npt.NDArray[np.intp]) -> Contrast:
    """Teacher, plain and student passes of one pair; `keep` picks positions in scope."""
    n = pair.n_positions
    teacher = llm.capture(pair.prompted + pair.reply, blocks)
    plain = llm.capture(pair.plain, blocks)
    goal = {b: np.concatenate([plain[b][:-1], teacher[b][-n:]]) for b in blocks}
    seen = llm.forced(pair.plain + pair.reply, goal)
    h = np.stack([seen[b][-n:][keep] for b in blocks])
    return Contrast(h, np.stack([goal[b][-n:][keep] for b in blocks]) - h)


def spaced(n: int, most: int) -> npt.NDArray[np.intp]:
    """At most `most` of the indices 0 .. n-1, evenly spaced, the first always among them."""
    return np.arange(n) if n <= most else (np.arange(most) * n) // most
