"""Scopes: which tokens a bundle acts on. Pure.

In:  token ids, the prompt's length, the template's turn markers.
Out: one byte a token, a bit for each scope that the token is in.

    response      the last token of every opening of an assistant turn and of the prompt,
                  and every token from there up to and including the next end of generation
    conversation  from the last token of the system turn on; all tokens where there is none
    all           every token

A token's bits depend on the tokens up to it and on the prompt's length alone, so they can be
computed in pieces: `scope_bits(..., start, before)` continues where an earlier call ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SCOPES = ("all", "conversation", "response")
BIT = {"all": 1, "conversation": 2, "response": 4}

Bits = npt.NDArray[np.uint8]
Tokens = npt.NDArray[np.intc]


def _no_token_ends(_token: int) -> bool:
    return False


@dataclass(frozen=True)
class Turns:
    """The template's markers as token ids.

    opens:   the sequence H that opens an assistant turn; empty where there is no template.
    system:  the sequence that opens a system turn; empty where the template has no such turn.
    ends:    whether a token ends a generation (E).
    """

    opens: tuple[int, ...] = ()
    system: tuple[int, ...] = ()
    ends: Callable[[int], bool] = _no_token_ends


def _at(tokens: Tokens, i: int, marker: tuple[int, ...]) -> bool:
    return i >= 0 and i + len(marker) <= len(tokens) and tuple(tokens[i : i + len(marker)]) == marker


def _system_end(tokens: Tokens, turns: Turns) -> int:
    """Index of the system turn's last token; -1 without one; len(tokens) while it is still open."""
    k = len(turns.system)
    # A beginning-of-text token may stand before the first turn.
    at = next((i for i in (0, 1) if k and _at(tokens, i, turns.system)), None)
    if at is None:
        return -1
    return next((i for i in range(at + k, len(tokens)) if turns.ends(int(tokens[i]))), len(tokens))


def scope_bits(
    tokens: Sequence[int] | Tokens, prompt_len: int, turns: Turns, start: int = 0, before: int = 0
) -> Bits:
    """Bits of tokens[start:]: uint8 [len(tokens) - start].

    `before` is the byte of token start-1 (0 at the beginning, or to begin a new prompt there).
    """
    ids = np.asarray(tokens, dtype=np.intc)
    bits = np.full(len(ids) - start, BIT["all"], dtype=np.uint8)
    from_here = start if before & BIT["conversation"] else max(start, _system_end(ids, turns))
    bits[from_here - start :] |= BIT["conversation"]
    speaking = bool(before & BIT["response"])
    for i in range(start, len(ids)):
        speaking = _speaks(ids, i, prompt_len, turns, speaking)
        if speaking:
            bits[i - start] |= BIT["response"]
    return bits


def _speaks(ids: Tokens, i: int, prompt_len: int, turns: Turns, before: bool) -> bool:
    """Whether token i belongs to a response; `before`: whether the token in front of it does."""
    if i == prompt_len - 1 or (before and not turns.ends(int(ids[i - 1]))):
        return True
    k = len(turns.opens)
    return k > 0 and int(ids[i]) == turns.opens[-1] and _at(ids, i - k + 1, turns.opens)


def next_bits(ids: Tokens, prompt_len: int, turns: Turns, before: int) -> int:
    """The byte of the last of `ids`, where the token in front of it has `before` and a conversation has
    begun: what `scope_bits` gives for it, without an array."""
    bits = BIT["all"] | BIT["conversation"]
    if _speaks(ids, len(ids) - 1, prompt_len, turns, bool(before & BIT["response"])):
        bits |= BIT["response"]
    return bits
