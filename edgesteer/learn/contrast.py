"""What each block's steering must add, measured on pairs of prompts with one reply: the training rows.

In:  a model; pairs; where the replies were sampled with them, the teacher's activations.
Out: Rows: per block the student's residual stream h, and delta = sign * (teacher - h), in scope.

The teacher reads the prompted prompt and the reply, the student the plain prompt and the reply. Rows are
aligned from the end: the prompt's last tokens in scope, then the reply but its last token, which predicts
nothing. What comes before them runs as it is, once for what several prompts begin with. Two kinds of h:

    local        at each block the student's h is recorded and then overwritten with the teacher's, so that
                 the next block sees a perfectly steered input: what this block must add, given that those
                 below have added theirs (the A-PSR objective of arXiv 2605.03907, local to the block)
    accumulated  the student runs as it is: all that the blocks up to here must have added (S-PSR)

Memory: beside Rows, a group of pairs takes up to about six times GROUP_BYTES (the teacher's activations,
stacked for a batch, what arrives there, and copies on the way), so less than 0.6 GB, or six times what one
pair takes where that is more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgesteer.errors import LearnError
from edgesteer.generate.chat import Chat
from edgesteer.generate.progress import Done
from edgesteer.learn.rows import RAM_BYTES, Rows
from edgesteer.runtime import Lanes, SteeredLlama
from edgesteer.runtime.turns import read_turns
from edgesteer.scope import BIT, Turns, scope_bits

F32 = npt.NDArray[np.float32]

KINDS = ("local", "accumulated")
SCOPES = ("response", "conversation")

# What the pairs of one group may hold of the residual stream.
GROUP_BYTES = 96 << 20


class Pair(Protocol):
    """What a pair must have: token ids, and +1 where the prompted reply is wanted, -1 where it is not."""

    @property
    def plain(self) -> Sequence[int]: ...
    @property
    def prompted(self) -> Sequence[int]: ...
    @property
    def reply(self) -> Sequence[int]: ...
    @property
    def sign(self) -> int: ...


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
    teacher: Sequence[F32 | None] | None = None,
    directory: Path | None = None,
    ram_bytes: int = RAM_BYTES,
    group_bytes: int = GROUP_BYTES,
    progress: Done = lambda fraction: None,
) -> Rows:
    """The rows of all pairs in order; close them. The model's own steering is set aside meanwhile.

    Args:
        scope: "response": the prompt's last token and the reply's but its last. "conversation": before those
            also what the two prompts end with alike, behind the plain one's system turn.
        blocks: None for `steered_blocks`.
        teacher: for each pair its activations, float32 [blocks, rows of the pair, n_embd]; None, or those of
            fewer rows, are computed.
        directory, ram_bytes: see `Rows.open`.
        group_bytes: what pairs that are read side by side may hold of the residual stream.
    Raises:
        LearnError: no pairs, empty prompts, no reply, an unknown kind or scope, `teacher` of another shape.
        InputError: a pair that the context cannot hold.
        OutputError: the disk has no room for the rows.
    """
    if kind not in KINDS:
        raise LearnError(f"kind {kind!r}: expected one of {', '.join(KINDS)}")
    llm = chat.llm
    blocks = steered_blocks(llm.model_info.n_layer) if blocks is None else blocks
    parts = _parts(llm, pairs, scope)
    rows = Rows.open(blocks, sum(part.n for part in parts), llm.n_embd(), directory, ram_bytes)
    try:
        with llm.steered([]):
            for group in _groups(chat, parts, len(blocks), group_bytes):
                progress(group[0].start / rows.n_rows)
                given = [None if teacher is None else teacher[part.index] for part in group]
                _fill(llm, rows, group, kind, given)
    except BaseException:
        rows.close()
        raise
    return rows


# -- which rows --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Part:
    """One pair's rows: start .. start + n of all; the last `behind` tokens of its prompts are in scope."""

    index: int
    pair: Pair
    behind: int
    start: int

    @property
    def n(self) -> int:
        return self.behind + len(self.pair.reply) - 1

    def before(self, prompt: Sequence[int]) -> list[int]:
        """The prompt up to its first token in scope, and that."""
        return list(prompt[: len(prompt) - self.behind + 1])

    def in_scope(self, prompt: Sequence[int]) -> list[int]:
        """The tokens whose rows are compared."""
        return [*prompt[len(prompt) - self.behind :], *self.pair.reply[:-1]]

    @property
    def longest(self) -> list[int]:
        return [*max(self.pair.plain, self.pair.prompted, key=len), *self.pair.reply[:-1]]


def _parts(llm: SteeredLlama, pairs: Sequence[Pair], scope: str) -> list[_Part]:
    """The pairs that have a reply. Raises LearnError where there is none."""
    if scope not in SCOPES:
        raise LearnError(f"scope {scope!r}: expected one of {', '.join(SCOPES)}")
    parts: list[_Part] = []
    start, turns = 0, read_turns(llm)
    for index, pair in enumerate(pairs):
        if not (len(pair.plain) and len(pair.prompted)) or pair.sign not in (-1, 1):
            raise LearnError(
                f"pair {index}: an empty prompt, or sign {pair.sign}; expected tokens, and 1 or -1"
            )
        if len(pair.reply):
            parts.append(_Part(index, pair, _behind(turns, pair) if scope == "conversation" else 1, start))
            start += parts[-1].n
    if not parts:
        raise LearnError(f"no reply in {len(pairs)} pairs, expected at least one; give more questions")
    return parts


def _behind(turns: Turns, pair: Pair) -> int:
    """How many tokens at the plain prompt's end are in scope `conversation` and end the other prompt too."""
    bits = scope_bits(list(pair.plain), len(pair.plain), turns)
    in_scope = int(np.count_nonzero(bits & BIT["conversation"]))
    ends = zip(reversed(pair.plain), reversed(pair.prompted), strict=False)
    alike = next((i for i, (a, b) in enumerate(ends) if a != b), min(len(pair.plain), len(pair.prompted)))
    return max(1, min(in_scope, alike))


def _groups(chat: Chat, parts: Sequence[_Part], n_blocks: int, group_bytes: int) -> Iterator[list[_Part]]:
    """Pairs that fit side by side, and whose activations do."""
    one = 4 * n_blocks * chat.llm.n_embd() * max(part.n for part in parts)
    for group in chat.groups([part.longest for part in parts], 0, max(1, group_bytes // one)):
        yield [parts[i] for i in group]


# -- the passes --------------------------------------------------------------------------------------


def _fill(
    llm: SteeredLlama, rows: Rows, group: Sequence[_Part], kind: str, given: Sequence[F32 | None]
) -> None:
    teacher = _teacher(llm, rows.blocks, group, given)
    student = _streams(llm, rows.blocks, group, "plain", teacher if kind == "local" else None)
    for part, goal, h in zip(group, teacher, student, strict=True):
        for i, block in enumerate(rows.blocks):
            rows.put(block, part.start, h[i], np.float32(part.pair.sign) * (goal[i] - h[i]))


def _teacher(
    llm: SteeredLlama, blocks: Sequence[int], group: Sequence[_Part], given: Sequence[F32 | None]
) -> list[F32]:
    """The activations given, and for those that miss any, computed ones."""
    known = {
        part.index: stream
        for part, stream in zip(group, given, strict=True)
        if stream is not None and _covers(part, stream, blocks, llm)
    }
    missing = [part for part in group if part.index not in known]
    if missing:
        computed = _streams(llm, blocks, missing, "prompted", None)
        known |= {part.index: stream for part, stream in zip(missing, computed, strict=True)}
    return [known[part.index] for part in group]


def _covers(part: _Part, stream: F32, blocks: Sequence[int], llm: SteeredLlama) -> bool:
    """Whether it has all of the pair's rows. Raises LearnError where it cannot be that pair's at all."""
    least, shape = len(part.pair.reply), stream.shape
    if len(shape) != 3 or shape[::2] != (len(blocks), llm.n_embd()) or not least <= shape[1] <= part.n:
        expected = f"({len(blocks)}, {least} to {part.n}, {llm.n_embd()})"
        raise LearnError(f"pair {part.index}: activations of shape {shape}, expected {expected}")
    return bool(shape[1] == part.n)


def _streams(
    llm: SteeredLlama, blocks: Sequence[int], group: Sequence[_Part], side: str, forced: Sequence[F32] | None
) -> list[F32]:
    """The residual stream at each pair's rows, float32 [blocks, rows, n_embd], read side by side.

    side: "plain" or "prompted". forced: what each block's output there is overwritten with, once it is
    recorded.
    """
    prompts: list[Sequence[int]] = [getattr(part.pair, side) for part in group]
    before = [part.before(prompt) for part, prompt in zip(group, prompts, strict=True)]
    with Lanes(llm, before, blocks, min(map(len, before)) - 1) as lanes:
        tokens = {i: part.in_scope(prompts[i]) for i, part in enumerate(group)}
        lanes.run(tokens, forced=None if forced is None else dict(enumerate(forced)))
        return [lanes.seen(i)[:, -part.n :] for i, part in enumerate(group)]
