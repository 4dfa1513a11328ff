"""Law 5: a reused position is what recomputing would give, across plans, chats, caches and saved states."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from edgesteer import SteeredLlama, SteeringOverflow
from edgesteer.errors import EdgesteerWarning, StateError
from edgesteer.plan import SteeringPlan
from edgesteer.runtime.kv import KvRecord, KvSpan
from edgesteer.scope import scope_bits
from tests.runtime.support import OPTIONS, logits, plain, psr, steered, tokens_of, vector

Model = Callable[[str], Path]


# -- the record -----------------------------------------------------------------------------------------------


def test_a_prefix_is_reusable_up_to_the_first_position_made_otherwise() -> None:
    kv, ids = KvRecord(8), np.arange(6, dtype=np.intc)
    kv.note(0, np.array([0, 0, 7, 7, 7, 7], np.uint64), 6)
    wanted = np.array([0, 0, 7, 7, 9, 7], np.uint64)
    assert kv.reusable(ids, ids, wanted) == 4
    assert kv.reusable(ids, ids, None) == 2
    assert kv.reusable(ids[:3], ids, wanted) == 3
    assert kv.reusable(ids, np.array([0, 1, 2, 9], np.intc), wanted) == 3
    assert kv.reusable(ids[:0], ids, wanted) == 0


def test_kept_positions_count_but_for_the_prompts_last() -> None:
    kv, ids = KvRecord(8), np.arange(6, dtype=np.intc)
    kv.note(0, 7, 6)
    kv.kept = 6
    assert kv.reusable(ids, ids, None) == 5
    assert kv.reusable(ids, np.arange(8, dtype=np.intc), None) == 6
    kv.note(3, 0)  # computed anew: kept no longer
    assert kv.kept == 3
    assert kv.spans(6) == [KvSpan(0, 3, 7, True), KvSpan(3, 4, 0, False), KvSpan(4, 6, 7, False)]
    kv.forget()
    assert kv.spans(2) == [KvSpan(0, 2, 0, False)]
    assert kv.spans(0) == []


def test_positions_outside_the_context_are_not_recorded() -> None:
    kv = KvRecord(4)
    kv.note(3, 5, 2)
    kv.note(-1, 5)
    assert not kv.applied.any()


# -- sequences of operations --------------------------------------------------------------------------------


class Reuse(RuleBasedStateMachine):
    """Random sequences of everything that touches the context. After each generation, every position is
    replayed in a context that has never held anything else, with the batches and plans that the record
    says it was computed with; its logits must be the same bits."""

    path: Path
    llm: SteeredLlama
    fresh: SteeredLlama
    plans: list[SteeringPlan]
    texts: list[list[int]]

    @initialize()
    def begin(self) -> None:
        self.llm.cache = None
        self.llm.clear_steering()
        self.llm.reset()
        self.history: list[int] = []
        self.batches: list[tuple[int, list[int], SteeringPlan]] = []  # start, tokens, plan: as decoded
        self.saved: list[Any] = []
        original = llama_cpp.Llama.eval
        machine = self

        def watched(llm: Any, tokens: Any) -> None:
            start, plan = llm.n_tokens, llm.steering
            original(llm, tokens)
            machine.batches = [b for b in machine.batches if b[0] < start]
            machine.batches = [(s, t[: start - s], p) for s, t, p in machine.batches]
            machine.batches.append((start, list(tokens), plan))

        self.llm._watched_eval = watched  # type: ignore[attr-defined]

    @rule(plan=st.integers(0, 4), keep=st.sampled_from([False, False, False, True]))
    def steer(self, plan: int, keep: bool) -> None:
        self.llm.steer(self.plans[plan], keep_kv=keep)

    @rule(strength=st.sampled_from([0.0, 0.5, 2.0]))
    def dial(self, strength: float) -> None:
        self.llm.steer(self.llm.steering.with_strength(strength))

    @rule(text=st.integers(0, 2), n=st.integers(1, 4), change=st.one_of(st.none(), st.integers(0, 4)))
    def generate(self, text: int, n: int, change: int | None) -> None:
        self._generate(self.texts[text], n, change)

    @precondition(lambda self: 0 < len(self.history) < 90)
    @rule(text=st.integers(0, 2), n=st.integers(1, 3))
    def go_on(self, text: int, n: int) -> None:
        """A chat: the next prompt begins with all that was said."""
        self._generate(self.history + self.texts[text][:5], n, None)

    def _generate(self, prompt: list[int], n: int, change: int | None) -> None:
        out: list[int] = []
        for token in self.llm.generate(prompt, temp=0):
            out.append(token)
            if len(out) == 1 and change is not None:
                self.llm.steer(self.plans[change])
            if len(out) == n:
                break
        self.history = prompt + out
        self._check(len(prompt))

    def _check(self, prompt_len: int) -> None:
        llm, n = self.llm, self.llm.n_tokens
        ids = llm.input_ids[:n]
        bits = scope_bits(ids, prompt_len, llm._session.turns)
        newest = llm._session.kv.applied[:n]
        if not llm._session.kv.kept:  # all that is reused is as this plan, or the stream's, would make it
            allowed = [p.applied(bits) for p in [*self.plans, llm.steering]]
            assert (np.array(allowed) == newest).any(axis=0).all()

    @rule()
    def save(self) -> None:
        self.saved.append(copy.deepcopy(self.llm.save_state()))

    @precondition(lambda self: self.saved)
    @rule(which=st.integers(0, 5))
    def load(self, which: int) -> None:
        self.llm.load_state(pickle.loads(pickle.dumps(self.saved[which % len(self.saved)])))

    @rule()
    def reset(self) -> None:
        self.llm.reset()

    @rule()
    def overflow(self) -> None:
        before = self.llm.steering
        self.llm.steer(self.plans[2].with_strength(1e38))
        with pytest.raises(SteeringOverflow):
            self.llm.eval(self.texts[0][:4])
        assert self.llm.n_tokens == 0
        self.llm.steer(before)

    @rule(text=st.integers(0, 2), plan=st.integers(0, 4))
    def same_as_fresh(self, text: int, plan: int) -> None:
        """The logits behind a prompt: those of a context that holds nothing else, with equal batches."""
        prompt = self.texts[text]
        self.llm.steer(self.plans[plan])
        self.fresh.steer(self.plans[plan])
        next(self.llm.generate(prompt, temp=0))
        got = self.llm.scores[len(prompt) - 1].copy()
        reused = self._first_evaluated(prompt)
        self.fresh.reset()
        for start, stop in reused:
            self.fresh.eval(prompt[start:stop], len(prompt))
        assert np.array_equal(self.fresh.scores[len(prompt) - 1], got)

    def _first_evaluated(self, prompt: list[int]) -> list[tuple[int, int]]:
        raise NotImplementedError
