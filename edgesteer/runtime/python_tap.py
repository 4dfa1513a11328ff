"""The tap in Python: the same protocol and arithmetic as native/tap.c, 10 to 20 % slower per token.

llama.cpp asks about every node of its graph, and here each ask enters Python.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as llama_h
import numpy as np

from edgesteer.errors import SteeringOverflow
from edgesteer.runtime import library
from edgesteer.runtime.tap import F32, Announcement, TapOperation, failure

# As in native/tap.c: what a later block adds might make Inf of it, and its norm NaN.
_TOO_LARGE = np.float32(2.0**120)

_L_OUT = re.compile(rb"l_out-([0-9]+)\Z")


class PythonTap:
    name = "python"
    user_data = None

    def __init__(self) -> None:
        self._get = library.function("ggml_backend_tensor_get")
        self._set = library.function("ggml_backend_tensor_set")
        self._name = library.function("ggml_get_name")
        self._nrows = library.function("ggml_nrows")
        self._callback = llama_h.ggml_backend_sched_eval_callback(self._called)
        self._n_layer = self._n_embd = 0
        self._blocks: dict[int, list[TapOperation]] = {}
        self._batch: Announcement | None = None
        self._start = self._rows = 0
        self._error: BaseException | None = None

    @property
    def callback(self) -> Any:
        return self._callback

    def model(self, n_layer: int, n_embd: int) -> None:
        self._n_layer, self._n_embd = n_layer, n_embd

    def plan(self, operations: Sequence[TapOperation], n_terms: int) -> None:
        self._blocks = {}
        for op in operations:
            self._blocks.setdefault(op.layer, []).append(op)

    def announce(self, batch: Announcement) -> None:
        self._batch, self._error = batch, None
        self._start = self._rows = 0

    def finish(self) -> None:
        batch, error = self._batch, self._error
        self._batch = self._error = None
        if error is not None:
            raise error
        if batch is not None and self._start + self._rows != batch.rows:
            raise failure(2, 0, self._start + self._rows, batch.rows)

    def _called(self, tensor: int, ask: bool, _user: int | None) -> bool:
        if self._batch is None and not self._blocks:
            return not ask
        try:
            match = _L_OUT.match(self._name(tensor))
            if match is None or int(match[1]) >= self._n_layer:
                return not ask
            if ask:
                return self._sound() and self._wanted(tensor, int(match[1]))
            self._visit(tensor, int(match[1]))
        except BaseException as error:  # ctypes would print and forget it; Ctrl-C included
            if self._sound():
                self._error = error
        return not ask

    def _sound(self) -> bool:
        """Whether the tap may go on in this decode: an overflow concerns its own row alone."""
        return self._error is None or isinstance(self._error, SteeringOverflow)

    def _wanted(self, tensor: int, layer: int) -> bool:
        batch = self._batch
        if batch is None:
            raise failure(1, layer, 0, 0)
        if batch.sources is not None:
            at = ctypes.c_uint64.from_address(tensor + batch.sources.offset)
            batch.sources.found[layer] = at.value
        if layer == 0:
            self._start += self._rows
            self._rows = self._nrows(tensor)
            if self._start + self._rows > batch.rows:
                raise failure(2, 0, self._start + self._rows, batch.rows)
        if self._rows == 0:
            return False
        if layer in batch.capture or layer in batch.replace:
            return True
        here = slice(self._start, self._start + self._rows)
        return any(batch.strength[op.term, here].any() for op in self._blocks.get(layer, ()))

    def _row_ids(self, layer: int, rows: int) -> Any:
        assert self._batch is not None
        ids = np.arange(self._start, self._start + self._rows)
        if rows == len(ids):
            return ids
        ids = ids[self._batch.wants_logits[ids] != 0]
        if rows != len(ids):
            raise failure(2, layer, rows, self._rows)
        return ids

    def _visit(self, tensor: int, layer: int) -> None:
        batch, n = self._batch, self._n_embd
        assert batch is not None
        rows = self._nrows(tensor)
        ids = self._row_ids(layer, rows)
        if rows == 0:
            return
        elements = library.function("ggml_nelements")(tensor)
        contiguous = library.function("ggml_is_contiguous")(tensor)
        if elements != rows * n or library.function("ggml_nbytes")(tensor) != elements * 4 or not contiguous:
            raise failure(3, layer, elements, rows * n)
        h = np.empty((rows, n), dtype=np.float32)
        self._get(tensor, h.ctypes.data, 0, h.nbytes)
        changed = self._steer(h, ids, layer)
        if layer in batch.capture:
            batch.capture[layer][ids] = h
        if layer in batch.replace:
            h, changed = np.ascontiguousarray(batch.replace[layer][ids], dtype=np.float32), True
        if changed:
            self._set(tensor, h.ctypes.data, 0, h.nbytes)

    def _steer(self, h: F32, ids: Any, layer: int) -> bool:
        batch = self._batch
        assert batch is not None
        unsteered, changed = h.copy(), False
        for op in self._blocks.get(layer, ()):
            strength = batch.strength[op.term, ids]
            acting = np.flatnonzero((strength != 0) & (batch.overflowed[ids] == 0))
            if not acting.size:
                continue
            coefficient = np.ones(len(acting), np.float32)
            if op.gate is not None:
                coefficient = op.gate.coefficient(layer, unsteered)[acting]  # over all rows, as the C tap
            if batch.record is not None:
                batch.record[op.term, ids[acting], layer] = coefficient
            with np.errstate(over="ignore", invalid="ignore"):  # an overflow is reported below
                amount = strength[acting] * coefficient
                moved = amount != 0
                h[acting[moved]] += amount[moved][:, None] * op.direction
            changed = changed or bool(moved.any())
        self._leave_out_overflows(h, unsteered, ids, layer)
        return changed

    def _leave_out_overflows(self, h: F32, unsteered: F32, ids: Any, layer: int) -> None:
        """Rows that steering made Inf, NaN, or so large that a later sum may be, stay as they came in."""
        assert self._batch is not None
        touched = (h != unsteered).any(axis=1)
        with np.errstate(invalid="ignore"):
            bad = np.flatnonzero(touched & ~(np.abs(h) < _TOO_LARGE).all(axis=1))
        for r in bad:
            h[r] = unsteered[r]
            self._batch.overflowed[ids[r]] = 1
            if self._error is None:
                self._error = failure(5, layer, int(ids[r]), 0)
