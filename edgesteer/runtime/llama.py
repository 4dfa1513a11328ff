"""SteeredLlama: llama_cpp.Llama with a steering plan.

In:  any argument of llama_cpp.Llama; bundles, strengths, scopes.
Out: the same methods, their results steered; without a plan bit for bit those of llama_cpp.Llama.

It owns the order of things: the tap exists before the context, the sentinel runs before the first
plan, scope bits are laid out before an eval, KV that another intervention made is not reused. After an
error the context is as it was before the call, or empty.
"""

from __future__ import annotations

import atexit
import contextlib
import inspect
import os
import warnings
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jinja2
import llama_cpp
import llama_cpp._internals as internals
import llama_cpp.llama_cpp as llama_h
import numpy as np
from llama_cpp.llama_tokenizer import LlamaTokenizer

from edgesteer.bundle import Bundle, ModelInfo, check_model, load, read_model_info
from edgesteer.errors import (
    EdgesteerWarning,
    ModelError,
    SteeringOverflow,
    SteeringUnavailable,
)
from edgesteer.plan import SteeringPlan, beyond_range
from edgesteer.runtime import library, sentinel
from edgesteer.runtime.gates import check_engine
from edgesteer.runtime.heads import Heads
from edgesteer.runtime.keeping import Keeping
from edgesteer.runtime.looking import Looking
from edgesteer.runtime.session import Session
from edgesteer.runtime.sharing import SharedModel, context_options, opening
from edgesteer.runtime.tap import F32, make_tap
from edgesteer.runtime.turns import read_turns
from edgesteer.scope import BIT, Bits, Tokens, next_bits, scope_bits

Source = str | os.PathLike[str] | Bundle

_KNOWN = frozenset(inspect.signature(llama_cpp.Llama.__init__).parameters) - {"self", "kwargs"}
_GENERATE = inspect.signature(llama_cpp.Llama.generate)

_open: weakref.WeakSet[SteeredLlama] = weakref.WeakSet()


@atexit.register
def _close_open() -> None:
    """Free contexts while llama_cpp is still whole: at the interpreter's end its __del__ would fail loudly."""
    for llm in list(_open):
        llm.close()


def _check_sequences(n: int, n_batch: int, n_ctx: int) -> int:
    """n_ctx: 0 for the model's own. llama.cpp would end the process where a batch has no room for all."""
    most = llama_h.llama_max_parallel_sequences()
    if not 1 <= n <= most:
        raise ValueError(f"n_seq_max {n}: expected 1 to {most}, what this llama.cpp was built for")
    room = min(n_batch, n_ctx or n_batch)
    if n > max(1, room):
        raise ValueError(f"n_seq_max {n}: expected at most n_batch and n_ctx ({room}); give a larger context")
    return n


def _size(given: Mapping[str, Any], name: str) -> int:
    """The number given, or llama_cpp's default; what is no number is llama_cpp's to refuse."""
    default: int = inspect.signature(llama_cpp.Llama.__init__).parameters[name].default
    value = given.get(name, default)
    return value if isinstance(value, int) else default


class SteeredContext(internals.LlamaContext):
    """llama_cpp's context with its decode announced to the session, which it keeps alive."""

    session: Session

    def decode(self, batch: internals.LlamaBatch) -> None:
        self.session.decode(batch, super().decode)


class SteeredLlama(Looking, Keeping):
    """A llama_cpp.Llama that can be steered.

        llm = SteeredLlama("model.gguf", n_ctx=2048, n_threads=4)
        llm.steer("pirate.steer", strength=1.2)

    Takes every argument of llama_cpp.Llama and has its methods; `verbose` is False by default.
    n_seq_max: how many sequences the context can hold side by side, for `lanes`; they share n_ctx.
    gate_engine: "onnxruntime" evaluates gate.onnx; "native" evaluates gate.gguf, the same weights, in
    the tap itself: faster, and for linear layers and ReLU only.

    Raises TypeError for an unknown argument (llama_cpp swallows them), ModelError for a file that
    llama.cpp cannot load, SteeringUnavailable for a llama.cpp that lacks what the tap needs.
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        *,
        gate_engine: str = "onnxruntime",
        n_seq_max: int = 1,
        **kwargs: Any,
    ) -> None:
        unknown = sorted(set(kwargs) - _KNOWN)
        if unknown:
            raise TypeError(f"SteeredLlama() got an unexpected argument {unknown[0]!r}; see llama_cpp.Llama")
        self.gate_engine = check_engine(gate_engine)
        self.n_seq_max = _check_sequences(n_seq_max, *(_size(kwargs, name) for name in ("n_batch", "n_ctx")))
        path = os.fspath(model_path)
        library.check_model_file(path)
        self._tap = make_tap()
        with opening(kwargs.setdefault("verbose", False)) as log:
            try:
                super().__init__(path, **kwargs)
            except (ValueError, RuntimeError, MemoryError, jinja2.TemplateError) as error:
                found = log.reason() or str(error)
                raise ModelError(
                    f"{path}: llama.cpp cannot load it: {found}; check file and arguments"
                ) from None
            self._check_adapter(log.reason)
        self._open_session()

    def _check_adapter(self, reason: Callable[[], str]) -> None:
        """llama_cpp takes the null pointer of a refused LoRA for an adapter, and the next decode ends the process."""
        if self.lora_path is None or self._lora_adapter:
            return
        self._lora_adapter = None  # or closing would free it
        self.close()
        raise ModelError(
            f"{self.lora_path}: llama.cpp does not take this LoRA adapter: {reason() or 'no reason given'}; "
            "give one that was made for this model"
        )

    def _open_session(self) -> None:
        n_layer = llama_h.llama_model_n_layer(self.model)
        n_embd = llama_h.llama_model_n_embd(self.model)
        self._tap.model(n_layer, n_embd)
        size = (self.n_ctx(), n_layer, n_embd)
        self._session = Session(
            self._tap, self._ctx.ctx, size, self.n_vocab(), read_turns(self), self.gate_engine
        )
        self._ctx.__class__ = SteeredContext
        self._ctx.session = self._session  # type: ignore[attr-defined]
        self._heads = Heads()
        self._prompt_len: int | None = None
        self._generation = 0
        self._info: ModelInfo | None = None
        self._model_identity: str | None = None
        _open.add(self)

    @property
    def context_params(self) -> Any:
        return self.__dict__["context_params"]

    @context_params.setter
    def context_params(self, params: Any) -> None:
        # Llama.__init__ fills this in before it creates the context, which copies the callback.
        params.cb_eval = self._tap.callback
        params.cb_eval_user_data = self._tap.user_data
        if self.n_seq_max > 1:
            params.n_seq_max, params.kv_unified = self.n_seq_max, True
        self.__dict__["context_params"] = params

    @property
    def _model(self) -> SharedModel:
        model: SharedModel = self.__dict__["_model"]
        return model

    @_model.setter
    def _model(self, loaded: internals.LlamaModel) -> None:
        # For a sibling, Llama.__init__ has loaded the vocabulary alone; the weights are those in use.
        shared: SharedModel | None = self.__dict__.pop("_sibling_model", None)
        if shared is None:
            shared = SharedModel.of(loaded)
        else:
            loaded.close()
            self.model_params = shared.params
        self._stack.callback(shared.close)
        self.__dict__["_model"] = shared

    def sibling(self, **options: Any) -> SteeredLlama:
        """Another SteeredLlama on the same weights, loaded once: with its own context, plan and memory.

        options: those of llama_cpp.Llama that concern a context (n_ctx, n_batch, n_threads, ...), and
        gate_engine; the others are as they are here. Each may be used in a thread of its own. The
        weights stay until the last is closed.

        Raises TypeError for an option that concerns the model, ModelError where llama.cpp cannot make the
        context, or where this SteeredLlama is closed.
        """
        arguments = context_options(llama_cpp.Llama.__getstate__(self), options)
        arguments.setdefault("gate_engine", self.gate_engine)
        arguments.setdefault("n_seq_max", self.n_seq_max)
        if type(self.tokenizer_) is not LlamaTokenizer:  # one of one's own, which no state names
            arguments.setdefault("tokenizer", self.tokenizer_)
        other, model = type(self).__new__(type(self)), self._model.another()
        other.__dict__["_sibling_model"] = model
        try:
            other.__init__(**arguments)  # type: ignore[misc]
        except BaseException:
            other.close()
            model.close()  # type: ignore[no-untyped-call]  # where it was refused before it took the model over
            raise
        return other

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
        keep_kv: bool = False,
    ) -> None:
        """Replace the plan. In the middle of a stream it acts from the next token on.

        source: a path, a Bundle, a plan, or a list of them or of (source, strength) pairs. For a dial,
            llm.steer(llm.steering.with_strength(1.2)).
        strength: multiplies the coefficient; None takes each bundle's default. 0 is no intervention.
        scope: "all", "conversation" or "response"; None takes each bundle's own.
        keep_kv: what the context holds was computed under the plan before, and by default is computed
            anew where the new plan would have acted otherwise. True reuses it all the same: faster, and
            neither the old plan nor the new; `kv_record()` says where.

        Warns (EdgesteerWarning) of a strength outside the range in which a bundle was evaluated.
        Raises BundleError, PlanError, IncompatibleError or SteeringUnavailable, and then leaves the
        plan as it was.
        """
        plan = source if isinstance(source, SteeringPlan) else self._plan_of(source, strength, scope)
        for message in beyond_range(plan):
            warnings.warn(message, EdgesteerWarning, stacklevel=2)
        self._set_plan(plan, keep_kv)

    def clear_steering(self, *, keep_kv: bool = False) -> None:
        """Remove the plan. What follows is bit for bit what llama_cpp.Llama gives, unless keep_kv (see
        `steer`) keeps what the plan left in the context."""
        self._set_plan(SteeringPlan(), keep_kv)

    @contextlib.contextmanager
    def steered(
        self,
        source: Source | SteeringPlan | Iterable[Source | tuple[Source, float]],
        strength: float | None = None,
        *,
        scope: str | None = None,
        keep_kv: bool = False,
    ) -> Iterator[SteeredLlama]:
        """`steer` for the length of a `with`; the previous plan returns, also after an exception."""
        before = self.steering
        self.steer(source, strength, scope=scope, keep_kv=keep_kv)
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

    def _set_plan(self, plan: SteeringPlan, keep_kv: bool = False) -> None:
        if plan and plan.content != self.steering.content:
            proven = self.steerable()
            tapped = {op.layer for op in plan.operations}
            proven.require(self.model_info.architecture, tapped, set(plan.slots))
        self._session.set_plan(plan)
        self._session.kv.kept = self.n_tokens if keep_kv else 0

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
        # Where one token more cannot be taken back, or has no room, the context is put aside.
        aside = self.n_tokens and (self._cannot_rewind or self.n_tokens >= self.n_ctx())
        held = self.save_state() if aside else None
        if held or self._cannot_rewind:
            self._empty()
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
            if held:
                self.load_state(held)
            self._requires_eval = True
            batch.close()

    @property
    def _cannot_rewind(self) -> bool:
        """Recurrent memory holds one state, of the last token."""
        return bool(self._is_recurrent or self._is_hybrid)

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
            self._lost()
            raise
        except BaseException:
            if self._cannot_rewind:  # what the failed batch left in the memory cannot be taken out
                session.forget()
                self._lost()
            raise
        finally:
            session.expected = 0

    def embed(self, *args: Any, **kwargs: Any) -> Any:
        """llama_cpp.Llama.embed, each text steered as a prompt of its own."""
        try:
            return super().embed(*args, **kwargs)
        except BaseException:  # texts before the failing one have replaced what the context held
            self._empty()
            raise

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

    def __getstate__(self) -> dict[str, Any]:
        options = llama_cpp.Llama.__getstate__(self)
        own = {"gate_engine": self.gate_engine, "n_seq_max": self.n_seq_max}
        return {"options": options | own, "plan": self.steering}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The model opened anew under the same plan; what the context held is not pickled."""
        self.__init__(**state["options"])  # type: ignore[misc]
        self._set_plan(state["plan"])
