"""What each block's steering must add, from pairs of prompts and replies: the training rows.

In:  a model, pairs (a reply behind a plain and a prompted prompt), and where the replies were drawn with them
     the teacher's activations.
Out: Rows: per block the residual stream h of the student, and delta = sign * (teacher - h), in scope.

The teacher reads the prompted prompt and the reply, the student the plain prompt and the reply. Positions are
aligned from the end. Two kinds of h:

    local        at each block the student's h is written down and then overwritten with the teacher's, so that
                 the next block sees a perfectly steered input: what this block must add, given that those
                 below have added theirs (the A-PSR objective of arXiv 2605.03907, local to the block)
    accumulated  the student runs as it is: all that the blocks up to here must have added (S-PSR)

Positions outside the scope are the plain prompt's own. Memory: beside Rows, a group of pairs takes up to about
six times streams.GROUP_BYTES (the teacher's activations, stacked for a batch, what arrives there, and copies on
the way), so less than 0.6 GB, or six times what one pair takes where that is more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgesteer.bundle import Bundle, ModelInfo
from edgesteer.errors import LearnError
from edgesteer.generate.chat import Chat
from edgesteer.learn.make import Maker
from edgesteer.learn.methods import BlockFit
from edgesteer.learn.rows import Rows
from edgesteer.learn.streams import Pair, Part, groups_of, parts_of, streams
from edgesteer.runtime import SteeredLlama

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]

KINDS = ("local", "accumulated")

FitRows = Callable[[F32, F32, I32], BlockFit | None]
"""From h, delta and pair to a fit."""


def steered_blocks(n_layer: int) -> range:
    """All blocks but the first, which has no slot, and the last, which has nothing above it.

    Steering the last block only shifts logits: without it the KL divergence to the prompted model is the same
    to three digits, and capture need not compute a vocabulary's logits for every row.
    """
    return range(1, max(2, n_layer - 1))


def contrast_rows(
    chat: Chat,
    pairs: Sequence[Pair],
    *,
    kind: str = "local",
    scope: str = "response",
    blocks: Sequence[int] | None = None,
    seen: Sequence[F32 | None] | None = None,
    directory: Path | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Rows:
    """The rows of all pairs in order; close them. The model's steering is set aside.

    Args:
        scope: "response": the prompt's last token and the reply's but its last. "conversation": before those
            also what the two prompts end with alike, behind the plain one's system turn.
        blocks: None for `steered_blocks`.
        seen: for each pair the teacher's activations, float32 [blocks, rows of the pair, n_embd]; None, or
            those of fewer rows, are computed.
        directory: where rows that memory does not hold are spooled to.
    Raises:
        LearnError: no pairs, empty prompts, no reply, an unknown kind or scope, `seen` of another shape.
        OutputError: the disk has no room for the rows.
    """
    if kind not in KINDS:
        raise LearnError(f"kind {kind!r}: expected one of {', '.join(KINDS)}")
    llm = chat.llm
    blocks = steered_blocks(llm.model_info.n_layer) if blocks is None else blocks
    parts = parts_of(llm, pairs, scope)
    rows = Rows.open(blocks, sum(part.n for part in parts), llm.n_embd(), directory)
    try:
        with llm.steered([]):
            for part in parts:
                rows.pair[part.start : part.start + part.n] = part.index
            for group in groups_of(chat, parts, len(blocks)):
                progress(group[0].start / rows.n_rows)
                _fill(llm, rows, group, kind, [None if seen is None else seen[p.index] for p in group])
    except BaseException:
        rows.close()
        raise
    return rows


def refit_sequentially(
    chat: Chat,
    pairs: Sequence[Pair],
    fit: FitRows,
    *,
    scope: str = "response",
    blocks: Sequence[int] | None = None,
    seen: Sequence[F32 | None] | None = None,
    directory: Path | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
) -> dict[int, BlockFit]:
    """Fit block after block, each on the stream that the model steered in the blocks below gives it: a pass over
    all pairs for each block. Arguments and errors as in `contrast_rows`; pairs of sign -1 are steered with
    strength -1. Blocks where `fit` gives None stay unsteered."""
    fitted: dict[int, BlockFit] = {}
    options = {"scope": scope, "blocks": blocks, "seen": seen, "directory": directory}
    with contrast_rows(chat, pairs, kind="accumulated", **options) as rows:  # type: ignore[arg-type]
        parts = parts_of(chat.llm, pairs, scope)
        for done, block in enumerate(rows.blocks):
            progress(done / len(rows.blocks))
            h = _steered_stream(chat, parts, block, fitted, scope)
            signs = _signs(parts)[:, None]
            delta = rows.delta(block) + signs * (rows.h(block) - h)  # the teacher less this h
            if (one := fit(h, delta, rows.pair)) is not None:
                fitted[block] = one
    return fitted


# -- what is known of a row ------------------------------------------------------------------------------


def _signs(parts: Sequence[Part]) -> F32:
    """float32 [rows]."""
    return np.concatenate([np.full(part.n, part.pair.sign, dtype=np.float32) for part in parts])


# -- the passes ------------------------------------------------------------------------------------


def _fill(
    llm: SteeredLlama, rows: Rows, group: Sequence[Part], kind: str, seen: Sequence[F32 | None]
) -> None:
    teacher = _teacher(llm, rows.blocks, group, seen)
    student = streams(llm, rows.blocks, group, "plain", teacher if kind == "local" else None)
    for part, goal, h in zip(group, teacher, student, strict=True):
        for i, block in enumerate(rows.blocks):
            rows.put(block, part.start, h[i], np.float32(part.pair.sign) * (goal[i] - h[i]))


def _teacher(
    llm: SteeredLlama, blocks: Sequence[int], group: Sequence[Part], seen: Sequence[F32 | None]
) -> list[F32]:
    """The activations given, and for those that miss any, computed ones."""
    known = {
        p.index: s for p, s in zip(group, seen, strict=True) if s is not None and _covers(p, s, blocks, llm)
    }
    missing = [part for part in group if part.index not in known]
    if missing:
        computed = streams(llm, blocks, missing, "prompted", None)
        known |= {part.index: stream for part, stream in zip(missing, computed, strict=True)}
    return [known[part.index] for part in group]


def _covers(part: Part, seen: F32, blocks: Sequence[int], llm: SteeredLlama) -> bool:
    least = len(part.pair.reply)
    if (
        seen.ndim != 3
        or seen.shape[::2] != (len(blocks), llm.n_embd())
        or not least <= seen.shape[1] <= part.n
    ):
        expected = f"({len(blocks)}, {least} to {part.n}, {llm.n_embd()})"
        raise LearnError(f"pair {part.index}: activations of shape {seen.shape}, expected {expected}")
    return int(seen.shape[1]) == part.n


def _steered_stream(
    chat: Chat, parts: Sequence[Part], block: int, fitted: Mapping[int, BlockFit], scope: str
) -> F32:
    """float32 [rows, n_embd]: what arrives at a block where those fitted are steered."""
    out = np.empty((sum(part.n for part in parts), chat.llm.n_embd()), dtype=np.float32)
    bundle = bundle_of(fitted, chat.llm.model_info, scope) if fitted else None
    for sign in (1, -1):
        some = [part for part in parts if part.pair.sign == sign]
        with chat.llm.steered([] if bundle is None else [(bundle, float(sign))]):
            for group in groups_of(chat, some, 1) if some else ():
                for part, h in zip(group, streams(chat.llm, [block], group, "plain", None), strict=True):
                    out[part.start : part.start + part.n] = h[0]
    return out


def bundle_of(fitted: Mapping[int, BlockFit], model: ModelInfo, scope: str) -> Bundle:
    """The steering fitted so far, to be applied with strength 1 or -1."""
    return Maker(model, scope, "fitted", license="unspecified", description="").bundle(fitted)
