"""SteeredLlama: llama_cpp.Llama with a steering plan.

In:  any argument of llama_cpp.Llama; bundles, strengths, scopes.
Out: the same methods, their results steered; without a plan bit for bit those of llama_cpp.Llama.

It owns the order of things: the tap exists before the context, the sentinel runs before the first
plan, scope bits are laid out before an eval, KV that another intervention made is not reused.
"""

from __future__ import annotations

import atexit
import contextlib
import inspect
import os
import warnings
import weakref
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import llama_cpp
import llama_cpp._internals as internals
import llama_cpp.llama_cpp as llama_h
import numpy as np

from edgesteer.bundle import Bundle, ModelInfo, check_model, load, read_model_info
from edgesteer.errors import EdgesteerWarning, ModelError, PlanError, SteeringOverflow, SteeringUnavailable
from edgesteer.plan import SteeringPlan
from edgesteer.runtime import library, sentinel
from edgesteer.runtime.gates import check_engine
from edgesteer.runtime.session import Recorded, Session
from edgesteer.runtime.tap import F32, make_tap
from edgesteer.runtime.turns import read_turns
from edgesteer.scope import BIT, Bits, Tokens, next_bits, scope_bits
from edgesteer.steering_map import SteeringMap

Source = str | os.PathLike[str] | Bundle

_KNOWN = frozenset(inspect.signature(llama_cpp.Llama.__init__).parameters) - {"self", "kwargs"}
_GENERATE = inspect.signature(llama_cpp.Llama.generate)

# Rows whose logits llama.cpp must hold at once when the last block is captured: with a vocabulary
# of 262144 each takes 1 MB.
_CAPTURE_ROWS = 64


_open: weakref.WeakSet[SteeredLlama] = weakref.WeakSet()


@atexit.register
def _close_open() -> None:
    """Free contexts while llama_cpp is still whole: at the interpreter's end its __del__ would fail loudly."""
    for llm in list(_open):
        llm.close()


class SteeredContext(internals.LlamaContext):
    """llama_cpp's context with its decode announced to the session, which it keeps alive."""

    session: Session

    def decode(self, batch: internals.LlamaBatch) -> None:
        self.session.decode(batch, super().decode)


class SteeredLlama(llama_cpp.Llama):
    """A llama_cpp.Llama that can be steered.

        llm = SteeredLlama("model.gguf", n_ctx=2048, n_threads=4)
        llm.steer("pirate.steer", strength=1.2)

    Takes every argument of llama_cpp.Llama and has its methods; `verbose` is False by default.
    gate_engine: "onnxruntime" evaluates gate.onnx; "native" evaluates gate.gguf, the same weights, in
    the tap itself: faster, and for linear layers and ReLU only.

    Raises TypeError for an unknown argument (llama_cpp swallows them), ModelError for a file that
    llama.cpp cannot load, SteeringUnavailable for a llama.cpp that lacks what the tap needs.
    """

    def __init__(
        self, model_path: str | os.PathLike[str], *, gate_engine: str = "onnxruntime", **kwargs: Any
    ) -> None:
        unknown = sorted(set(kwargs) - _KNOWN)
        if unknown:
            raise TypeError(f"SteeredLlama() got an unexpected argument {unknown[0]!r}; see llama_cpp.Llama")
        self.gate_engine = check_engine(gate_engine)
        path = os.fspath(model_path)
        library.check_model_file(path)
        self._tap = make_tap()
        with (
            library.held_log() if not kwargs.setdefault("verbose", False) else contextlib.nullcontext() as log
        ):
            try:
                super().__init__(path, **kwargs)
            except (ValueError, RuntimeError) as error:
                found = (log.reason() if log else "") or str(error)
                raise ModelError(
                    f"{path}: llama.cpp cannot load it: {found}; check file and arguments"
                ) from None
        self._open_session()

    def _open_session(self) -> None:
        n_layer = llama_h.llama_model_n_layer(self.model)
        n_embd = llama_h.llama_model_n_embd(self.model)
        self._tap.model(n_layer, n_embd)
        size = (self.n_ctx(), n_layer, n_embd)
        self._session = Session(self._tap, self._ctx.ctx, size, self.n_vocab(), read_turns(self), self.gate_engine)
        self._ctx.__class__ = SteeredContext
        self._ctx.session = self._session  # type: ignore[attr-defined]
        self._prompt_len: int | None = None
        self._generation = 0
        self._info: ModelInfo | None = None
        _open.add(self)

    @property
    def context_params(self) -> Any:
        return self.__dict__["context_params"]

    @context_params.setter
    def context_params(self, params: Any) -> None:
        # Llama.__init__ fills this in before it creates the context, which copies the callback.
        params.cb_eval = self._tap.callback
        params.cb_eval_user_data = self._tap.user_data
        self.__dict__["context_params"] = params

    def close(self) -> None:
        if "_stack" in self.__dict__:  # absent where the model file was refused
            super().close()

    # -- the plan -------------------------------------------------------------------------------

    @property
    def steering(self) -> SteeringPlan:
        """The plan in force; immutable, with a `fingerprint`. False where nothing is steered."""
        return self._session.plan

    @property
    def model_info(self) -> ModelInfo:
        """The facts that bundles are matched against."""
        if self._info is None:
            self._info = read_model_info(self.model_path)
        return self._info

    def steer(
        self,
        source: Source | SteeringPlan | Iterable[Source | tuple[Source, float]],
        strength: float | None = None,
        *,
        scope: str | None = None,
    ) -> None:
        """Replace the plan.

        source: a path, a Bundle, a plan, or a list of them or of (source, strength) pairs.
        strength: multiplies the coefficient; None takes each bundle's default. 0 is no intervention.
        scope: "all", "conversation" or "response"; None takes each bundle's own.

        Raises BundleError, PlanError, IncompatibleError or SteeringUnavailable, and then leaves the
        plan as it was.
        """
        plan = source if isinstance(source, SteeringPlan) else self._plan_of(source, strength, scope)
        self._set_plan(plan)

    def clear_steering(self) -> None:
        """Remove the plan. What follows is bit for bit what llama_cpp.Llama gives."""
        self._set_plan(SteeringPlan())

    @contextlib.contextmanager
    def steered(
        self,
        source: Source | SteeringPlan | Iterable[Source | tuple[Source, float]],
        strength: float | None = None,
        *,
        scope: str | None = None,
    ) -> Iterator[SteeredLlama]:
        """`steer` for the length of a `with`; the previous plan returns, also after an exception."""
        before = self.steering
        self.steer(source, strength, scope=scope)
        try:
            yield self
        finally:
            self._set_plan(before)

    def _plan_of(self, source: Any, strength: float | None, scope: str | None) -> SteeringPlan:
        single = isinstance(source, (str, os.PathLike, Bundle))
        items = []
        for item in [source] if single else source:
            what, own = item if isinstance(item, tuple) else (item, None)
            bundle = what if isinstance(what, Bundle) else load(what)
            items.append((bundle, strength if own is None else own, scope))
        for bundle, _, _ in items:
            self._check(bundle)
        return SteeringPlan.of(items)

    def _check(self, bundle: Bundle) -> None:
        warning = check_model(bundle, self.model_info)
        if warning:
            warnings.warn(warning, EdgesteerWarning, stacklevel=5)

    def _set_plan(self, plan: SteeringPlan) -> None:
        if plan and plan.content != self.steering.content:
            proven = self.steerable()
            tapped = {op.layer for op in plan.operations}
            proven.require(self.model_info.architecture, tapped, set(plan.slots))
        self._session.set_plan(plan)

    def steerable(self) -> sentinel.Steerable:
        """The blocks that can be steered, proven once per context by injecting and looking (40 ms)."""
        if self._session.steerable is None:
            with self.steered(SteeringPlan()), self._one_token() as one_token:
                self._session.steerable = sentinel.prove(
                    one_token, self._session.slots, self._session.n_layer, self._session.n_embd
                )
        return self._session.steerable

    @contextlib.contextmanager
    def _one_token(self) -> Iterator[sentinel.OneToken]:
        """A decode of one token behind what the context holds, which is kept where it can be."""
        memory = llama_h.llama_get_memory(self.ctx)
        if not memory or self.n_vocab() == 0:
            raise SteeringUnavailable(
                f"{self.model_path}: this model has no memory of earlier tokens (an encoder), expected a decoder; "
                "it cannot be steered"
            )
        if self._is_recurrent or self._is_hybrid or self.n_tokens >= self.n_ctx():
            self.reset()
            self._session.forget()
        batch = internals.LlamaBatch(n_tokens=1, embd=0, n_seq_max=1, verbose=False)

        def one_token(capture: Mapping[int, F32], replace: Mapping[int, F32]) -> F32:
            self._clear_from(self.n_tokens)
            batch.set_batch([0], self.n_tokens, logits_all=True)
            self._exchange(batch, capture, replace)
            logits = llama_h.llama_get_logits_ith(self.ctx, -1)
            if not logits:
                return np.zeros(1, dtype=np.float32)
            return np.ctypeslib.as_array(logits, (self.n_vocab(),)).copy()

        try:
            yield one_token
        finally:
            self._clear_from(self.n_tokens)
            self._requires_eval = True
            batch.close()

    def _clear_from(self, position: int) -> None:
        if not self._ctx.kv_cache_seq_rm(-1, position, -1):
            self._ctx.kv_cache_clear()

    # -- llama_cpp's paths ----------------------------------------------------------------------

    def eval(self, tokens: Sequence[int], prompt_len: int | None = None) -> None:
        """Evaluate tokens behind those already evaluated.

        prompt_len: tokens of the prompt, counted from position 0; scope `response` begins at its
        last. By default a call's last token ends a prompt: the last of several, or a single one.

        Raises SteeringOverflow (the context is then empty), TapError (it is as before), or ValueError
        for more tokens than the context holds.
        """
        tokens = list(tokens)
        end = self.n_tokens + len(tokens)
        session = self._session
        if end > len(self.input_ids):
            raise ValueError(f"Requested tokens ({end}) exceed context window of {len(self.input_ids)}")
        if not tokens or not (session.plan or session.recorders):
            session.forget_bits(self.n_tokens)
        else:
            self._lay_out(tokens, self._prompt_len if prompt_len is None else prompt_len)
            session.expected = end
        try:
            super().eval(tokens)
        except SteeringOverflow:
            self.n_tokens = 0
            self._requires_eval = True
            raise
        finally:
            session.expected = 0

    def _lay_out(self, tokens: list[int], prompt_len: int | None) -> None:
        """Write down the scope bits of `tokens`, which follow what the context holds."""
        start, session = self.n_tokens, self._session
        self.input_ids[start : start + len(tokens)] = tokens  # eval does so too, later
        ids = self.input_ids[: start + len(tokens)]
        known = min(session.known(prompt_len), start)
        before = int(session.bits[known - 1]) if known else 0
        if prompt_len is None:  # a prompt of its own: what came before opens no response
            before = before & BIT["conversation"] if known == start else 0
            session.laid_out(self._bits(ids, start, len(ids), before), start, None)
        else:
            session.laid_out(self._bits(ids, known, prompt_len, before), known, prompt_len)

    def _bits(self, ids: Tokens, start: int, prompt_len: int, before: int) -> Bits | int:
        if len(ids) == start + 1 and before & BIT["conversation"]:
            return next_bits(ids, prompt_len, self._session.turns, before)
        return scope_bits(ids, prompt_len, self._session.turns, start, before)

    def generate(self, tokens: Sequence[int], *args: Any, **kwargs: Any) -> Generator[int, Any, None]:
        """llama_cpp.Llama.generate; scopes are counted from this prompt, and KV is reused only
        where the same intervention made it."""
        tokens = list(tokens)
        call = _GENERATE.bind(self, tokens, *args, **kwargs)
        reset = call.arguments.get("reset", True)
        if reset:
            self._drop_other_kv(tokens)
        self._prompt_len = self._session.prompt_end = len(tokens) + (0 if reset else self.n_tokens)
        self._session.laid_out(np.zeros(0, dtype=np.uint8), 0, None)
        self._generation += 1
        mine = self._generation
        try:
            yield from super().generate(tokens, *args, **kwargs)
        finally:
            if mine == self._generation:  # an abandoned generator may end after the next has begun
                self._prompt_len = None

    def _drop_other_kv(self, tokens: list[int]) -> None:
        """Shorten the reusable prefix to the positions whose applied intervention is the one wanted."""
        n = min(self.n_tokens, len(tokens))
        if n == 0:
            return
        wanted = np.zeros(n, dtype=np.uint64)
        if self.steering:
            wanted = self.steering.applied(scope_bits(tokens, len(tokens), self._session.turns)[:n])
        same = (self.input_ids[:n] == np.asarray(tokens[:n])) & (self._session.applied[:n] == wanted)
        kept = n if same.all() else int(np.argmin(same))
        if kept < n:
            self.n_tokens = kept
            self._requires_eval = True

    def reset(self) -> None:
        super().reset()  # type: ignore[no-untyped-call]

    def save_state(self) -> Any:
        state: Any = super().save_state()
        state.edgesteer_applied = self._session.applied.copy()
        return state

    def load_state(self, state: Any) -> None:
        super().load_state(state)
        applied = getattr(state, "edgesteer_applied", None)  # a plain Llama's state is unsteered
        self._session.applied[:] = 0 if applied is None else applied

    # -- looking inside -------------------------------------------------------------------------

    def capture(
        self, tokens: Sequence[int], layers: Iterable[int] | None = None, *, prompt_len: int | None = None
    ) -> dict[int, F32]:
        """The residual stream after each block, plan included: {block: float32 [len(tokens), n_embd]}.

        Evaluates `tokens` from position 0, in chunks, and clears the KV. `prompt_len` as in `eval`.
        """
        return self._capture(tokens, layers, {}, prompt_len)

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
        self.reset()

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
