"""What prompts left in a context, to begin from again without a decode.

In:  a context that holds the heads of a group of prompts and nothing else.
Out: the same context at another time, bit for bit.

A group is known as a whole: what a head leaves depends on what it was evaluated beside (batch shapes change the
arithmetic), and results must not depend on which groups came before. Memory: at most `limit` bytes, 23 kB a token of
SmolLM2-135M; what was not asked for longest goes first.
"""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from typing import Any

import llama_cpp.llama_cpp as llama_h

from edgesteer.errors import StateError

Group = tuple[tuple[int, ...], ...]

LIMIT = 256 << 20


class Heads:
    """Of one SteeredLlama; its owner sees to it that nothing steers them."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit, self._states = limit, OrderedDict[Group, Any]()

    def __contains__(self, group: Group) -> bool:
        return group in self._states

    def keep(self, ctx: Any, group: Group) -> bool:
        """What the context holds. False, and nothing is kept, where llama.cpp has no state to give or that is larger
        than the limit."""
        size = llama_h.llama_state_get_size(ctx)
        if not 0 < size <= self._limit:
            return False
        state = (ctypes.c_uint8 * size)()
        if llama_h.llama_state_get_data(ctx, state, size) != size:
            return False
        self._states[group] = state
        while sum(map(len, self._states.values())) > self._limit:
            self._states.popitem(last=False)
        return True

    def put(self, ctx: Any, group: Group) -> None:
        """Into an empty context what is kept of the group. Raises StateError where llama.cpp does not take it."""
        self._states.move_to_end(group)
        state = self._states[group]
        if (read := llama_h.llama_state_set_data(ctx, state, len(state))) != len(state):
            raise StateError(
                f"prompts kept: llama.cpp took {read} bytes back, expected {len(state)}; report this model"
            )
