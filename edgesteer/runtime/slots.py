"""Control-vector slots: llama.cpp's own place for a constant direction per block.

In:  block -> vector, as the plan gives it.
Out: the context adds vector N to the output of block N, for every token, at no measurable cost.

Every call of llama_set_adapter_cvec makes the scheduler reserve again (2..4 ms on a small model,
hundreds at large contexts), so it only switches slots on and off. Once the sentinel has seen where the
slots' tensors are, other values are written straight into them.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterable, Iterator, Mapping

import llama_cpp.llama_cpp as llama_h
import numpy as np

from edgesteer.errors import SteeringUnavailable
from edgesteer.runtime import library
from edgesteer.runtime.tap import F32, Sources


class Slots:
    def __init__(self, context: int, n_layer: int, n_embd: int) -> None:
        self._context, self._n_layer, self._n_embd = context, n_layer, n_embd
        self._held: Mapping[int, F32] = {}
        self._tensors: dict[int, int] = {}  # block -> address of the slot's ggml_tensor, proven
        self.sources: Sources | None = None  # for the tap, while the tensors are looked for

    def set(self, vectors: Mapping[int, F32]) -> None:
        """Put these vectors, and nothing else, into the slots. float32 [n_embd] by block, 1..n_layer-1.

        Raises SteeringUnavailable where llama.cpp declines.
        """
        held = self._held
        if vectors and held and self._tensors.keys() >= vectors.keys() | held.keys():
            self._write(vectors, held.keys() - vectors.keys())
        elif vectors.keys() != held.keys() or not all(_same(held[n], v) for n, v in vectors.items()):
            self._switch(vectors)
        self._held = dict(vectors)

    def _switch(self, vectors: Mapping[int, F32]) -> None:
        if not vectors:
            self._call(None, 0)
            return
        # Row N-1 holds block N. All rows are sent: a shorter buffer would leave old rows in place.
        rows = np.zeros((self._n_layer - 1, self._n_embd), dtype=np.float32)
        for layer, vector in vectors.items():
            rows[layer - 1] = vector
        self._call(rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), rows.size)

    def _call(self, data: object, size: int) -> None:
        if llama_h.llama_set_adapter_cvec(self._context, data, size, self._n_embd, 1, self._n_layer - 1):
            raise SteeringUnavailable(
                f"llama.cpp declines a control vector of width {self._n_embd} for {self._n_layer} blocks"
            )

    def _write(self, vectors: Mapping[int, F32], dropped: Iterable[int]) -> None:
        llama_h.llama_synchronize(self._context)  # a GPU may still be reading them
        put, size = library.function("ggml_backend_tensor_set"), 4 * self._n_embd
        for layer, vector in vectors.items():
            put(self._tensors[layer], np.ascontiguousarray(vector, dtype=np.float32).ctypes.data, 0, size)
        zeros = np.zeros(self._n_embd, dtype=np.float32)
        for layer in dropped:
            put(self._tensors[layer], zeros.ctypes.data, 0, size)

    @contextlib.contextmanager
    def looked_for(self) -> Iterator[None]:
        """Around a decode with all slots filled: keep the tensors that hold what was put into them."""
        offset = library.second_source()
        if offset is not None:
            self.sources = Sources(np.zeros(self._n_layer, dtype=np.uint64), offset)
        try:
            yield
        finally:
            sources, self.sources = self.sources, None
        if sources is not None:
            found = {n: int(sources.found[n]) for n in self._held}
            self._tensors = {n: at for n, at in found.items() if at and self._holds(at, self._held[n])}

    def _holds(self, tensor: int, vector: F32) -> bool:
        size = 4 * self._n_embd
        if library.function("ggml_nbytes")(tensor) != size:
            return False
        got = np.empty(self._n_embd, dtype=np.float32)
        library.function("ggml_backend_tensor_get")(tensor, got.ctypes.data, 0, size)
        return _same(got, vector)


def _same(a: F32, b: F32) -> bool:
    """The same values: the sign of a zero changes no sum."""
    return bool(np.array_equal(a, b))
