"""The compiled tap and gate, called through ctypes. Mirrors native/tap.h and native/ort.h."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import llama_cpp.llama_cpp as llama_h
import numpy as np

from edgesteer.bundle import fold_layer
from edgesteer.errors import BundleError, TapError
from edgesteer.runtime import library
from edgesteer.runtime.tap import F32, Announcement, TapOperation, failure
from edgesteer.text import one_line

_ABI = 5
_p, _i32, _i64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64


class _Ggml(ctypes.Structure):
    _fields_ = tuple((name, _p) for name in library.TAP_FUNCTIONS)


class _Op(ctypes.Structure):
    _fields_ = (("layer", _i32), ("term", _i32), ("direction", _p), ("gate", _p), ("gate_self", _p))


class _Announcement(ctypes.Structure):
    _fields_ = (
        ("n_rows", _i32),
        ("wants_logits", _p),
        ("strength", _p),
        ("record", _p),
        ("capture", _p),
        ("replace", _p),
        ("source", _p),
        ("source_at", ctypes.c_uint64),
        ("overflowed", _p),
    )


class _Status(ctypes.Structure):
    _fields_ = (("code", _i32), ("layer", _i32), ("found", _i64), ("expected", _i64), ("op", _i32))


_GATE = ctypes.CFUNCTYPE(ctypes.c_int, _p, _i32, _p, _i32, _p)

_PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "es_abi": (ctypes.c_int, []),
    "es_tap_new": (_p, [ctypes.POINTER(_Ggml)]),
    "es_tap_free": (None, [_p]),
    "es_tap_model": (None, [_p, _i32, _i32]),
    "es_tap_plan": (ctypes.c_int, [_p, _p, _i32, _i32]),
    "es_tap_announce": (ctypes.c_int, [_p, ctypes.POINTER(_Announcement)]),
    "es_tap_finish": (ctypes.c_int, [_p, ctypes.POINTER(_Status)]),
    "es_ort_gate_new": (
        _p,
        [_p, ctypes.c_char_p, ctypes.c_size_t, _i32, _i32, ctypes.c_char_p, ctypes.c_size_t],
    ),
    "es_ort_gate_fold": (ctypes.c_int, [_p, _i32, ctypes.c_char_p, ctypes.c_size_t, _i32]),
    "es_ort_gate_unfold": (None, [_p, _i32]),
    "es_ort_gate_free": (None, [_p]),
    "es_ort_gate_run": (ctypes.c_int, [_p, _i32, _p, _i32, _p]),
    "es_ort_gate_error": (ctypes.c_char_p, [_p]),
    "es_gate_new": (_p, [_i32, _i32]),
    "es_gate_free": (None, [_p]),
    "es_gate_add": (ctypes.c_int, [_p, _i32, _i32, _p, _p]),
    "es_gate_run": (ctypes.c_int, [_p, _i32, _p, _i32, _p]),
}


@cache
def _library() -> ctypes.CDLL | None:
    """The extension, without running its Python part; None where it was not compiled."""
    spec = importlib.util.find_spec("edgesteer.runtime._native")
    if spec is None or spec.origin is None:
        return None
    try:
        lib = ctypes.CDLL(spec.origin)
    except OSError:
        return None
    if lib.es_abi() != _ABI or not all(hasattr(lib, name) for name in _PROTOTYPES):
        return None  # compiled from another version of the source
    for name, (result, arguments) in _PROTOTYPES.items():
        found = getattr(lib, name)
        found.restype, found.argtypes = result, arguments
    return lib


def available() -> bool:
    """Whether the tap was compiled, for this version of its Python side."""
    return _library() is not None


def _lib() -> ctypes.CDLL:
    lib = _library()
    assert lib is not None, "callers ask available() first"
    return lib


def _view(address: int, size: int) -> F32:
    return np.ctypeslib.as_array((ctypes.c_float * size).from_address(address))


class NativeTap:
    """The tap in C. Freed when the last reference goes; it must outlive the context."""

    name = "native"

    def __init__(self) -> None:
        table = _Ggml(*(library.address(name) for name in library.TAP_FUNCTIONS))
        self._lib = _lib()
        self._handle: int | None = self._lib.es_tap_new(ctypes.byref(table))
        if not self._handle:
            raise MemoryError("edgesteer tap")
        self._n_layer = self._n_embd = 0
        self._operations: Sequence[TapOperation] = ()
        self._alive: list[Any] = []  # what the C side points into: by plan, and by announcement
        self._batch: Announcement | None = None  # alive while the C side reads it
        self._status = _Status()
        self._status_pointer = ctypes.byref(self._status)
        self._callback = ctypes.cast(self._lib.es_tap_callback, llama_h.ggml_backend_sched_eval_callback)

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._lib.es_tap_free(self._handle)
            self._handle = None

    @property
    def callback(self) -> Any:
        return self._callback

    @property
    def user_data(self) -> int | None:
        return self._handle

    def model(self, n_layer: int, n_embd: int) -> None:
        self._n_layer, self._n_embd = n_layer, n_embd
        self._lib.es_tap_model(self._handle, n_layer, n_embd)
        self.plan((), 0)

    def plan(self, operations: Sequence[TapOperation], n_terms: int) -> None:
        alive: list[Any] = []
        ops = (_Op * max(len(operations), 1))()
        for op, what in zip(ops, operations, strict=False):
            direction = np.ascontiguousarray(what.direction, dtype=np.float32)
            alive.append(direction)
            op.layer, op.term, op.direction = what.layer, what.term, direction.ctypes.data
            if what.gate is not None:
                op.gate, op.gate_self = self._entry(what.gate, alive)
        code = self._lib.es_tap_plan(self._handle, ops, len(operations), n_terms)
        if code:
            raise failure(code, 0, 0, 0)
        self._operations, self._alive = operations, alive

    def _entry(self, gate: Any, alive: list[Any]) -> tuple[int, int | None]:
        """C function and self of a gate; one that lives in Python gets a trampoline."""
        alive.append(gate)
        if gate.c_function is not None:
            function, self_pointer = gate.c_function
            return function, self_pointer
        n_embd = self._n_embd

        def call(_self: int | None, layer: int, h: int, rows: int, out: int) -> int:
            try:
                activation = _view(h, rows * n_embd).reshape(rows, n_embd)
                _view(out, rows)[:] = gate.coefficient(layer, activation)
            except BaseException as error:  # a callback must not raise into C; Ctrl-C is latched too
                gate.raised = error
                return 1
            return 0

        trampoline = _GATE(call)
        alive.append(trampoline)
        return ctypes.cast(trampoline, _p).value or 0, None

    def _pointers(self, arrays: Any) -> Any:
        if not arrays:
            return None
        return (_p * self._n_layer)(
            *(arrays[n].ctypes.data if n in arrays else None for n in range(self._n_layer))
        )

    def announce(self, batch: Announcement) -> None:
        if batch.prepared is None:
            batch.prepared = self._prepared(batch)
        self._batch = batch
        code = self._lib.es_tap_announce(self._handle, batch.prepared[0])
        if code:
            raise failure(code, 0, 0, 0)

    def _prepared(self, batch: Announcement) -> tuple[Any, ...]:
        """A pointer to the C struct, and what it points into."""
        capture, replace = self._pointers(batch.capture), self._pointers(batch.replace)
        announcement = _Announcement(
            batch.rows,
            batch.wants_logits.ctypes.data,
            batch.strength.ctypes.data,
            None if batch.record is None else batch.record.ctypes.data,
            ctypes.cast(capture, _p) if capture else None,
            ctypes.cast(replace, _p) if replace else None,
            None if batch.sources is None else batch.sources.found.ctypes.data,
            0 if batch.sources is None else batch.sources.offset,
            batch.overflowed.ctypes.data,
        )
        return ctypes.byref(announcement), announcement, capture, replace

    def finish(self) -> None:
        self._batch = None
        status = self._status
        if not self._lib.es_tap_finish(self._handle, self._status_pointer):
            return
        gate = self._operations[status.op].gate if status.op >= 0 else None
        raised, detail = getattr(gate, "raised", None), gate.error() if gate is not None else ""
        if raised is not None and not isinstance(raised, Exception):
            raise raised
        raise failure(status.code, status.layer, status.found, status.expected, detail) from raised


_ort_lock = threading.Lock()


@cache
def _ort_api_base() -> int | None:
    """OrtApiBase of the libonnxruntime that the onnxruntime package carries, without importing it."""
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = os.path.join(next(iter(spec.submodule_search_locations)), "capi")
    names = {"win32": "onnxruntime.dll", "darwin": "libonnxruntime."}.get(sys.platform, "libonnxruntime.so")
    try:
        paths = sorted(os.path.join(folder, n) for n in os.listdir(folder) if n.startswith(names))
        base = ctypes.CDLL(paths[0]).OrtGetApiBase
    except (OSError, IndexError, AttributeError):
        return None
    base.restype = _p
    found: int | None = base()
    return found


class _CGate:
    """A gate whose arithmetic is a C function that fits es_gate_fn."""

    _handle: int | None
    _run: Any

    @property
    def c_function(self) -> tuple[int, int] | None:
        return ctypes.cast(self._run, _p).value or 0, self._handle or 0

    def coefficient(self, layer: int, activation: F32) -> F32:
        rows = np.ascontiguousarray(activation, dtype=np.float32)
        out = np.empty(len(rows), dtype=np.float32)
        if self._run(self._handle, layer, rows.ctypes.data, len(rows), out.ctypes.data):
            raise failure(4, layer, 0, 0, self.error())
        return out

    def error(self) -> str:
        return ""


class DenseGate(_CGate):
    """gate.gguf's linear layers and ReLU, evaluated by native/gate.c.

    weights: block -> [(W [n_in, k], b [k]), ...], as `bundle.read_gate_gguf` gives them.
    """

    def __init__(self, weights: Mapping[int, Sequence[tuple[F32, F32]]], n_layer: int, n_embd: int) -> None:
        self._lib = _lib()
        self._run = self._lib.es_gate_run
        self._handle = self._lib.es_gate_new(n_layer, n_embd)
        if not self._handle:
            raise MemoryError("edgesteer gate")
        for layer, chain in weights.items():
            for weight, bias in chain:
                units = np.ascontiguousarray(weight.T, dtype=np.float32)
                shift = np.ascontiguousarray(bias, dtype=np.float32)
                if self._lib.es_gate_add(
                    self._handle, layer, len(shift), units.ctypes.data, shift.ctypes.data
                ):
                    raise MemoryError("edgesteer gate")

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._lib.es_gate_free(self._handle)
            self._handle = None

    def error(self) -> str:
        return "gate.gguf has no weights for this block"


# Folding copies the model once a block: worth it for the gates of a PSR, not for a network of megabytes.
_FOLD_AT_MOST = 16 << 20


class OrtGate(_CGate):
    """gate.onnx in ONNX Runtime, called from C: warm, single-threaded sessions, one for each block.

    With the block index a constant, a call costs 2 us less than one session with table look-ups
    (4 against 6 to 7 us with warm caches); each takes 0.9 ms to open. A gate too large to copy so often
    keeps to one session.
    """

    def __init__(self, model: bytes, layers: Sequence[int], size: tuple[int, int], what: str) -> None:
        """size: (n_layer, n_embd)."""
        n_layer, n_embd = size
        self._lib = _lib()
        self._run = self._lib.es_ort_gate_run
        error = ctypes.create_string_buffer(512)
        with _ort_lock:
            self._handle: int | None = self._lib.es_ort_gate_new(
                _ort_api_base(), model, len(model), n_layer, n_embd, error, len(error)
            )
        if not self._handle:
            reason = one_line(error.value.decode("utf-8", "replace"), None)
            raise BundleError(
                f"{what}: ONNX Runtime refuses gate.onnx: {reason}; convert or learn the bundle again"
            )
        if len(model) * len(layers) <= _FOLD_AT_MOST:
            self._fold(model, layers, n_embd)

    def _fold(self, model: bytes, layers: Sequence[int], n_embd: int) -> None:
        """Give each block its own session, and take it back unless it gives the very same coefficients."""
        noise = np.random.default_rng(0).standard_normal((3, n_embd), dtype=np.float32)
        for layer in layers:
            wanted = self.coefficient(layer, noise)
            folded = fold_layer(model, layer)
            shape = ("rows", "row", "column").index(folded.shape)
            if self._lib.es_ort_gate_fold(self._handle, layer, folded.model, len(folded.model), shape):
                continue
            try:
                same = np.allclose(self.coefficient(layer, noise), wanted, rtol=1e-5, atol=1e-5)
            except TapError:
                same = False
            if not same:
                self._lib.es_ort_gate_unfold(self._handle, layer)

    @staticmethod
    def available() -> bool:
        return available() and _ort_api_base() is not None

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._lib.es_ort_gate_free(self._handle)
            self._handle = None

    def error(self) -> str:
        text: bytes = self._lib.es_ort_gate_error(self._handle)
        return one_line(text.decode("utf-8", "replace"), None)
