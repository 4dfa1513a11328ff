"""Knows how to ask a gate for its coefficients outside the runtime: NumPy for weights, ONNX Runtime for bytes.

In: a gate and activations float32 [rows, n_embd]. Out: float32 [rows].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesteer.bundle import GateWeights
from edgesteer.bundle.refusal import refusal

F32 = npt.NDArray[np.float32]
Ask = Callable[[int, F32], F32]
"""(block, activations) -> coefficients."""


def asking(gate: GateWeights | bytes) -> Ask:
    """The gate as a function. Raises BundleError for bytes that ONNX Runtime refuses."""
    return _onnx(gate) if isinstance(gate, bytes) else _weights(gate)


def _weights(gate: GateWeights) -> Ask:
    def ask(block: int, activation: F32) -> F32:
        signal = np.asarray(activation, np.float32)
        for weight, bias in gate[block]:
            signal = np.maximum(signal @ weight + bias, np.float32(0))
        return signal[:, 0]

    return ask


def _onnx(gate: bytes) -> Ask:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    with refused("gate.onnx"):
        session: Any = onnxruntime.InferenceSession(gate, options, providers=["CPUExecutionProvider"])

    def ask(block: int, activation: F32) -> F32:
        rows = np.ascontiguousarray(activation, np.float32)
        with refused("gate.onnx"):
            out: F32 = session.run(["coefficient"], {"activation": rows, "layer": np.array(block, np.int64)})[
                0
            ]
        return out

    return ask


@contextmanager
def refused(where: str) -> Iterator[None]:
    """ONNX Runtime's errors, which share no public base, as one clear line."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())
        raise refusal(where, reason, "a gate that ONNX Runtime runs", "convert the network again") from None
