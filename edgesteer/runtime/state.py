"""Saved states: llama_cpp's, with a stamp that says which model and which interventions made them.

In:  a LlamaState from anywhere - memory, a pickle, a cache directory of another version.
Out: the stamp put on at saving; at loading its check, before llama.cpp sees a byte.

A state without a stamp is a plain llama_cpp.Llama's, and so unsteered.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import llama_cpp

from edgesteer.errors import StateError
from edgesteer.runtime.kv import Hashes, KvRecord

VERSION = 2


@dataclass(frozen=True)
class Stamp:
    """model: see `ModelFacts.identity`; crc: CRC-32 of llama.cpp's bytes; applied: uint64 [n_tokens]; kept:
    as in KvRecord."""

    version: int
    model: str
    crc: int
    applied: Hashes
    kept: int


def stamp(state: Any, kv: KvRecord, model: str) -> None:
    """Put the stamp on a state that was just saved."""
    n = state.n_tokens
    state.edgesteer = Stamp(VERSION, model, zlib.crc32(state.llama_state), kv.applied[:n].copy(), kv.kept)


def checked(state: Any, model: str, n_ctx: int, scores_shape: tuple[int, ...]) -> Stamp | None:
    """The state's stamp, or None for a plain one.

    Raises StateError unless the state is whole and belongs to this model and a context like this one.
    """
    if not isinstance(state, llama_cpp.LlamaState):
        raise _refusal(f"a {type(state).__name__}", "a LlamaState from save_state()")
    n = state.n_tokens
    if not 0 <= n <= n_ctx:
        raise _refusal(f"{n} tokens", f"0 to {n_ctx}", "open the model with a larger n_ctx")
    if len(state.input_ids) < n or tuple(state.scores.shape[1:]) != scores_shape[1:]:
        raise _refusal("token ids or logits of another size", "those of this model and context")
    if len(state.scores) > scores_shape[0]:
        raise _refusal(
            f"logits of {len(state.scores)} rows",
            f"at most {scores_shape[0]}",
            "open it with the same n_batch",
        )
    if len(state.llama_state) != state.llama_state_size:
        raise _refusal(f"{len(state.llama_state)} bytes", f"{state.llama_state_size} (it is cut short)")
    mark = getattr(state, "edgesteer", None)
    if mark is not None:
        _check_stamp(mark, state, model)
    return mark


def _check_stamp(mark: Any, state: Any, model: str) -> None:
    version = getattr(mark, "version", None)
    if not isinstance(mark, Stamp) or version != VERSION:
        raise _refusal(f"a stamp of version {version!r}", f"version {VERSION}", "save it again")
    if mark.model != model:
        raise _refusal("a state of another model, LoRA or RoPE setting", "one of this model")
    if mark.crc != zlib.crc32(state.llama_state) or len(mark.applied) != state.n_tokens:
        raise _refusal("bytes that were changed since it was saved", "a state as save_state() made it")


def _refusal(found: str, expected: str, remedy: str = "evaluate the prompt again") -> StateError:
    return StateError(f"saved state: found {found}, expected {expected}; {remedy}")
