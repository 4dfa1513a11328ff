"""The record of what steered each position: a reused position must be what recomputing would give.

In:  for every decode its positions and the hash of the intervention applied at each.
Out: how long a prefix of a new prompt may be reused, and the record itself, for people.

Token ids alone do not tell: the KV of the same token under another plan holds other numbers. Positions
before a scope begins carry the hash 0, so an unsteered system prompt survives a change of plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class KvSpan:
    """Positions start..stop-1. applied: the intervention's hash, 0 for none; kept: by `keep_kv`, so it is
    reused whatever the plan wants there."""

    start: int
    stop: int
    applied: int
    kept: bool


class KvRecord:
    """applied: uint64 [n_ctx]. Positions below `kept` are reused on their tokens alone."""

    def __init__(self, n_ctx: int) -> None:
        self.applied: Hashes = np.zeros(n_ctx, dtype=np.uint64)
        self.kept = 0

    def note(self, first: int, applied: Hashes | int, n: int = 1) -> None:
        """Positions first..first+n-1 have just been computed. Those outside the context are not kept."""
        if first >= 0 and first + n <= len(self.applied):
            self.applied[first : first + n] = applied
            self.kept = min(self.kept, first)

    def forget(self) -> None:
        self.applied[:] = 0
        self.kept = 0

    def reusable(
        self, held: npt.NDArray[np.intc], tokens: npt.NDArray[np.intc], wanted: Hashes | None
    ) -> int:
        """How many leading positions hold these tokens, computed as they are wanted (None: unsteered)."""
        n = min(len(held), len(tokens))
        applied = self.applied[:n]
        as_wanted = applied == (0 if wanted is None else wanted[:n])
        # The prompt's last position is where a new plan begins to speak: it is not kept.
        as_wanted[: min(self.kept, len(tokens) - 1)] = True
        same = (held[:n] == tokens[:n]) & as_wanted
        return n if same.all() else int(np.argmin(same))

    def spans(self, n: int) -> list[KvSpan]:
        """The first n positions, in pieces of one intervention."""
        marks = np.flatnonzero(np.diff(self.applied[:n])) + 1
        kept = min(self.kept, n)
        edges = sorted({0, n, kept, *marks.tolist()}) if n else []
        return [KvSpan(a, b, int(self.applied[a]), b <= kept) for a, b in pairwise(edges)]
