"""What a context holds, and what of it may be used again: KV reuse, prompt caches, saved states.

In:  the tokens of a prompt; caches and states that others keep.
Out: the prefix that the plan in force would have made the same; states stamped with the record of their
     KV, the model's identity and a checksum, and on the way back checked and refused, or not used.
"""

from __future__ import annotations

import copy
from typing import Any

import llama_cpp
import llama_cpp.llama_cpp as llama_h
import numpy as np

from edgesteer.errors import StateError
from edgesteer.runtime import cache
from edgesteer.runtime import state as saved
from edgesteer.runtime.kv import Hashes, KvSpan
from edgesteer.runtime.session import Session
from edgesteer.scope import scope_bits


class Keeping(llama_cpp.Llama):
    """The third of SteeredLlama that reuses what was computed; it changes no plan."""

    _session: Session
    _model_identity: str | None

    def _wanted(self, tokens: list[int]) -> Hashes:
        """uint64 [len(tokens)]: what this plan applies to a prompt of these tokens."""
        if not self._session.plan:
            return np.zeros(len(tokens), dtype=np.uint64)
        return self._session.plan.applied(scope_bits(tokens, len(tokens), self._session.turns))

    def _drop_other_kv(self, tokens: list[int]) -> None:
        """Shorten the reusable prefix to the positions whose applied intervention is the one wanted."""
        if not self.n_tokens or not tokens:
            return
        ids = np.asarray(tokens, dtype=np.intc)
        wanted = self._wanted(tokens) if self._session.plan else None
        same = self._session.kv.reusable(self.input_ids[: self.n_tokens], ids, wanted)
        kept = self._within_window(same)
        if kept < min(self.n_tokens, len(tokens)):
            self.n_tokens = kept
            self._requires_eval = True

    def _within_window(self, position: int) -> int:
        """`position`, or 0 where a sliding window has dropped what the next token there must see."""
        window = llama_h.llama_model_n_swa(self.model)
        memory = llama_h.llama_get_memory(self.ctx)
        if position >= self.n_tokens or not window or not memory:
            return position
        first = llama_h.llama_memory_seq_pos_min(memory, 0)
        return position if first <= max(0, position - window) else 0

    def kv_record(self) -> list[KvSpan]:
        """What steered the positions that the context holds, in spans of one intervention."""
        return self._session.kv.spans(self.n_tokens)

    @property
    def cache(self) -> Any:
        """A prompt cache, such as llama_cpp.LlamaRAMCache; entries made under another plan are not used."""
        return self.__dict__.get("cache")

    @cache.setter
    def cache(self, value: Any) -> None:
        self.__dict__["cache"] = cache.wrapped(value, self)

    def save_state(self) -> Any:
        """llama_cpp.Llama.save_state, with a record of what steered each position."""
        state: Any = super().save_state()
        saved.stamp(state, self._session.kv, self._identity())
        return state

    def load_state(self, state: Any) -> None:
        """llama_cpp.Llama.load_state. The plan stays as it is; what the state holds is reused where it was
        made under the same intervention.

        Raises StateError for what is no state, or damaged, or of another model; the context is then as it
        was, or empty if llama.cpp itself refused the bytes.
        """
        mark = self._check_state(state)
        state, n = copy.copy(state), state.n_tokens
        state.input_ids = np.concatenate([state.input_ids[:n], np.zeros(self.n_ctx() - n, dtype=np.intc)])
        state.input_ids = state.input_ids[: len(self.input_ids)]
        try:
            super().load_state(state)
        except (RuntimeError, ValueError) as error:
            self._session.forget()
            self._lost()
            raise StateError(
                f"saved state: llama.cpp refuses it ({error}); expected one of this model and these context "
                "options; evaluate the prompt again"
            ) from None
        kv = self._session.kv
        kv.forget()
        self._session.forget_bits(0)
        if mark is not None:
            kv.note(0, mark.applied, n)
            kv.kept = min(mark.kept, n)

    def _lost(self) -> None:
        """The context's memory was cleared."""
        self.n_tokens = 0
        self._requires_eval = True

    def _check_state(self, state: Any) -> saved.Stamp | None:
        return saved.checked(state, self._identity(), len(self.input_ids), self.scores.shape)

    def _identity(self) -> str:
        if self._model_identity is None:
            c = self.context_params
            rope = (c.rope_scaling_type, c.rope_freq_base, c.rope_freq_scale, c.yarn_ext_factor)
            lora = (self.lora_path, self.lora_scale if self.lora_path else None)
            self._model_identity = saved.model_identity(self.model_path, rope, lora)
        return self._model_identity
