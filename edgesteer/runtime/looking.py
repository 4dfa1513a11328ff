"""Looking inside a model while it runs: activations, teacher forcing, the steering map, norms.

In:  a SteeredLlama; tokens.
Out: what the tap saw: the residual stream after each block, plan included, and the coefficients.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import llama_cpp
import llama_cpp._internals as internals
import numpy as np

from edgesteer.errors import PlanError
from edgesteer.norms import NormReport, norm_report
from edgesteer.runtime.session import Recorded, Session
from edgesteer.runtime.tap import F32
from edgesteer.scope import scope_bits
from edgesteer.steering_map import SteeringMap

# Rows whose logits llama.cpp must hold at once when the last block is captured: with a vocabulary
# of 262144 each takes 1 MB.
_CAPTURE_ROWS = 64


class Looking(llama_cpp.Llama):
    """The third of SteeredLlama that reads; it changes no plan."""

    _session: Session

    def capture(
        self, tokens: Sequence[int], layers: Iterable[int] | None = None, *, prompt_len: int | None = None
    ) -> dict[int, F32]:
        """The residual stream after each block, plan included: {block: float32 [len(tokens), n_embd]}.

        Evaluates `tokens` from position 0, in chunks, and clears the KV. `prompt_len` as in `eval`.
        """
        return self._capture(tokens, layers, {}, prompt_len)

    def norms(self, tokens: Sequence[int], *, prompt_len: int | None = None) -> NormReport:
        """How large the intervention of the plan in force is against the residual stream, block by block.

        One pass over `tokens` as in `capture`, whose arguments and errors it shares; clears the KV.
        Raises PlanError also where no plan is in force. See `edgesteer.norms` for what is measured.
        """
        session, plan, tokens = self._session, self._session.plan, list(tokens)
        if not plan:
            raise PlanError(
                "norms: no plan is in force (strength 0 is none), expected one; call steer() first"
            )
        recorded: list[Recorded] = []
        session.recorders.append(recorded)
        try:
            seen = self._capture(tokens, plan.layers, {}, prompt_len)
        finally:
            session.recorders = [r for r in session.recorders if r is not recorded]
        strength = plan.row_strengths(session.bits[: len(tokens)])
        coefficients = np.concatenate([part.by_term for part in recorded], axis=1)
        return norm_report(plan.terms, strength, coefficients, seen)

    def forced(self, tokens: Sequence[int], activations: Mapping[int, F32]) -> dict[int, F32]:
        """Teacher forcing: at each block N given, record the rows that arrive, then put
        activations[N] (float32 [len(tokens), n_embd]) in their place, so that the next block sees
        those. Returns what arrived; clears the KV."""
        for layer, rows in activations.items():
            if rows.shape != (len(tokens), self._session.n_embd):
                expected = (len(tokens), self._session.n_embd)
                raise PlanError(f"block {layer}: activations have shape {rows.shape}, expected {expected}")
        return self._capture(tokens, activations, activations, None)

    def _capture(
        self,
        tokens: Sequence[int],
        layers: Iterable[int] | None,
        forced: Mapping[int, F32],
        prompt_len: int | None,
    ) -> dict[int, F32]:
        session, tokens = self._session, list(tokens)
        blocks = sorted(range(session.n_layer) if layers is None else set(layers))
        self._check_capture(tokens, blocks)
        out = {n: np.full((len(tokens), session.n_embd), np.nan, dtype=np.float32) for n in blocks}
        last = session.n_layer - 1 in out
        step = min(self.n_batch, _CAPTURE_ROWS) if last else self.n_batch
        self._empty()
        bits = scope_bits(tokens, len(tokens) if prompt_len is None else prompt_len, session.turns)
        session.laid_out(bits, 0, None)
        try:
            for i in range(0, len(tokens), step):
                part = slice(i, min(i + step, len(tokens)))
                self._batch.set_batch(tokens[part], i, logits_all=last)
                session.expected = len(tokens)
                given = {n: np.ascontiguousarray(a[part], dtype=np.float32) for n, a in forced.items()}
                self._exchange(self._batch, {n: a[part] for n, a in out.items()}, given)
        finally:
            session.expected = 0
            self._empty()
        return out

    def _check_capture(self, tokens: list[int], blocks: list[int]) -> None:
        if not tokens or len(tokens) > self.n_ctx():
            raise PlanError(f"capture: {len(tokens)} tokens, expected 1 to {self.n_ctx()} (n_ctx)")
        outside = [n for n in blocks if not 0 <= n < self._session.n_layer]
        if outside:
            raise PlanError(f"capture: block {outside[0]}, expected 0 to {self._session.n_layer - 1}")

    def _exchange(
        self, batch: internals.LlamaBatch, capture: Mapping[int, F32], replace: Mapping[int, F32]
    ) -> None:
        self._session.exchange = (capture, replace)
        try:
            self._ctx.decode(batch)
        finally:
            self._session.exchange = ({}, {})

    def _empty(self) -> None:
        self._ctx.kv_cache_clear()
        self.reset()  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def record(self) -> Iterator[SteeringMap]:
        """Record strength times coefficient for every token decoded inside the `with`.

            with llm.record() as steering_map:
                llm.create_chat_completion(...)
            print(steering_map.totals)

        The map is filled when the `with` ends.
        """
        recorded: list[Recorded] = []
        steering_map = SteeringMap.empty()
        self._session.recorders.append(recorded)
        try:
            yield steering_map
        finally:
            self._session.recorders = [r for r in self._session.recorders if r is not recorded]
            self._fill(steering_map, recorded)

    def _fill(self, steering_map: SteeringMap, recorded: list[Recorded]) -> None:
        rows: dict[int, tuple[int, Any]] = {}  # a position decoded twice counts once, as it is now
        for part in recorded:
            for token, position, values in zip(part.tokens, part.positions, part.coefficients, strict=True):
                rows[int(position)] = (int(token), values)
        positions = sorted(rows)
        tokens = [rows[p][0] for p in positions]
        layers = sorted({n for part in recorded for n in part.layers})
        values = np.array([rows[p][1] for p in positions], dtype=np.float32).reshape(
            len(rows), self._session.n_layer
        )
        pieces = [self.detokenize([t], special=True) for t in tokens]
        n_prompt = sum(p < self._session.prompt_end for p in positions)
        steering_map.fill(tokens, positions, pieces, layers, values[:, layers], n_prompt)
