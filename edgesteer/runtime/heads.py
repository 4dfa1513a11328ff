"""What prompts left in a context, to begin from again without a decode.

In:  a context that holds the heads of a group of prompts (all but their last tokens) and nothing else.
Out: the same context at another time, bit for bit.

Owned by the SteeredLlama whose context it is; `Lanes` sees to it that nothing steers what is kept. A group is
known as a whole: what a head leaves depends on what it was evaluated beside (batch shapes change the
arithmetic), and results must not depend on which groups came before. Memory: at most `limit` bytes, 23 kB a
token of SmolLM2-135M; what was not asked for longest goes first.
"""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from typing import Any

import llama_cpp.llama_cpp as llama_h

Group = tuple[tuple[int, ...], ...]

LIMIT = 256 << 20


class Heads:
    """States of one context, by group of heads."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit, self._states = limit, OrderedDict[Group, Any]()

    def __contains__(self, group: Group) -> bool:
        return group in self._states

    def keep(self, ctx: Any, group: Group) -> bool:
        """What the context holds. False, and nothing is kept, where llama.cpp has no state to give, or one
        that is larger than the limit."""
        size = llama_h.llama_state_get_size(ctx)
        if not 0 < size <= self._limit:
            return False
        while sum(map(len, self._states.values())) + size > self._limit:
            self._states.popitem(last=False)
        state = (ctypes.c_uint8 * size)()
        if llama_h.llama_state_get_data(ctx, state, size) != size:
            return False
        self._states[group] = state
        return True

    def put(self, ctx: Any, group: Group) -> bool:
        """Into an empty context what is kept of the group. False where llama.cpp does not take it: then
        nothing is kept any more, and the context must be emptied."""
        self._states.move_to_end(group)
        state = self._states[group]
        if llama_h.llama_state_set_data(ctx, state, len(state)) == len(state):
            return True
        self._states.clear()
        self._limit = 0
        return False
