"""Control-vector slots: llama.cpp's own place for a constant direction per block.

In:  block -> vector, as the plan gives it.
Out: the context adds vector N to the output of block N, for every token, at no measurable cost.

Every call of llama_set_adapter_cvec makes the scheduler reserve again (2..4 ms on a small model),
so it is called only when what the slots hold changes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import llama_cpp.llama_cpp as llama_h
import numpy as np

from edgesteer.errors import SteeringUnavailable
from edgesteer.runtime.tap import F32


class Slots:
    def __init__(self, context: int, n_layer: int, n_embd: int) -> None:
        self._context, self._n_layer, self._n_embd = context, n_layer, n_embd
        self._held: Mapping[int, F32] = {}

    def set(self, vectors: Mapping[int, F32]) -> None:
        """Put these vectors, and nothing else, into the slots. float32 [n_embd] by block, 1..n_layer-1.

        Raises SteeringUnavailable where llama.cpp declines.
        """
        if self._same(vectors):
            return
        if vectors:
            # Row N-1 holds block N. All rows are sent: a shorter buffer would leave old rows in place.
            rows = np.zeros((self._n_layer - 1, self._n_embd), dtype=np.float32)
            for layer, vector in vectors.items():
                rows[layer - 1] = vector
            self._call(rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), rows.size)
        else:
            self._call(None, 0)
        self._held = dict(vectors)

    def _same(self, vectors: Mapping[int, F32]) -> bool:
        held = self._held
        return held.keys() == vectors.keys() and all(np.array_equal(held[n], vectors[n]) for n in held)

    def _call(self, data: object, size: int) -> None:
        if llama_h.llama_set_adapter_cvec(self._context, data, size, self._n_embd, 1, self._n_layer - 1):
            raise SteeringUnavailable(
                f"llama.cpp declines a control vector of width {self._n_embd} for {self._n_layer} blocks"
            )
