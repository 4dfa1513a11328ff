"""Many pairs' residual streams, read side by side: which rows are compared, and one pass of either prompt.

In:  a model, pairs: one reply behind a plain and a prompted prompt.
Out: for each pair its place among the rows, and the residual stream at its rows.

Rows are counted from the end of the sequence: the prompt's last tokens in scope, then the reply but its last token,
which predicts nothing. What comes before them runs as it is, once for what several prompts begin with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgesteer.errors import LearnError
from edgesteer.generate.chat import Chat
from edgesteer.runtime import Lanes, SteeredLlama
from edgesteer.runtime.turns import read_turns
from edgesteer.scope import BIT, Turns, scope_bits

F32 = npt.NDArray[np.float32]

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


@dataclass(frozen=True, slots=True)
class Part:
    """One pair's place: rows start .. start + n; `behind` prompt tokens are in scope, the last among them."""

    index: int
    pair: Pair
    behind: int
    start: int

    @property
    def n(self) -> int:
        return self.behind + len(self.pair.reply) - 1

    def head(self, prompt: Sequence[int]) -> list[int]:
        """The prompt up to and with the first token in scope, the first that is fed."""
        return list(prompt[: len(prompt) - self.behind + 1])

    def fed(self, prompt: Sequence[int]) -> list[int]:
        """The tokens in scope: those of the prompt, and the reply's but its last, which predicts nothing."""
        return [*prompt[len(prompt) - self.behind :], *self.pair.reply[:-1]]

    @property
    def longest(self) -> list[int]:
        return [*max(self.pair.plain, self.pair.prompted, key=len), *self.pair.reply[:-1]]


def parts_of(llm: SteeredLlama, pairs: Sequence[Pair], scope: str) -> list[Part]:
    """The pairs that have a reply, each with its place. Raises LearnError where there is none."""
    if scope not in SCOPES:
        raise LearnError(f"scope {scope!r}: expected one of {', '.join(SCOPES)}")
    parts: list[Part] = []
    start, turns = 0, read_turns(llm)
    for index, pair in enumerate(pairs):
        if not (len(pair.plain) and len(pair.prompted)) or pair.sign not in (-1, 1):
            raise LearnError(
                f"pair {index}: an empty prompt, or sign {pair.sign}; expected tokens, and 1 or -1"
            )
        if len(pair.reply):
            parts.append(Part(index, pair, _behind(turns, pair) if scope == "conversation" else 1, start))
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


def groups_of(chat: Chat, parts: Sequence[Part], n_blocks: int) -> Iterator[list[Part]]:
    """Pairs that fit side by side, and whose activations do."""
    one = 4 * n_blocks * chat.llm.n_embd() * max(part.n for part in parts)
    for group in chat.groups([part.longest for part in parts], 0, max(1, GROUP_BYTES // one)):
        yield [parts[i] for i in group]


def streams(
    llm: SteeredLlama,
    blocks: Sequence[int],
    group: Sequence[Part],
    side: str,
    forced: Sequence[F32] | None,
) -> list[F32]:
    """The residual stream at each pair's rows, float32 [blocks, rows, n_embd], in one context side by side."""
    prompts: list[Sequence[int]] = [getattr(part.pair, side) for part in group]
    heads = [part.head(prompt) for part, prompt in zip(group, prompts, strict=True)]
    with Lanes(llm, heads, blocks, min(len(head) for head in heads) - 1) as lanes:
        fed = {i: part.fed(prompts[i]) for i, part in enumerate(group)}
        lanes.run(fed, forced=None if forced is None else dict(enumerate(forced)))
        return [lanes.seen(i)[:, -part.n :] for i, part in enumerate(group)]
