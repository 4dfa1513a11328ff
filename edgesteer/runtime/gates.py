"""Gates: a bundle's coefficient model made callable, in C where the tap is compiled, else through Python.

In:  a bundle's gate.onnx, already checked against FORMAT's rules on the protobuf, for the engine
     "onnxruntime"; its gate.gguf, the same weights, for the engine "native", which needs no library.
Out: a Gate (see runtime.tap) that has answered a probe with finite numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgesteer.bundle import Bundle, evaluate_gate, probe_gate, read_gate_gguf
from edgesteer.errors import BundleError, PlanError
from edgesteer.runtime.native import DenseGate, OrtGate, available
from edgesteer.runtime.tap import F32, Gate
from edgesteer.text import one_line


class PythonOrtGate:
    """gate.onnx in ONNX Runtime through its Python package; one warm, single-threaded session."""

    c_function = None

    def __init__(self, model: bytes, what: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._layers: dict[int, Any] = {}
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own classes share no public base
            reason = one_line(error, None)
            raise BundleError(
                f"{what}: ONNX Runtime refuses gate.onnx: {reason}; learn the bundle again"
            ) from None

    def coefficient(self, layer: int, activation: F32) -> F32:
        index = self._layers.setdefault(layer, np.array(layer, dtype=np.int64))
        rows = np.ascontiguousarray(activation, dtype=np.float32)
        out: F32 = self._session.run(["coefficient"], {"activation": rows, "layer": index})[0]
        return out

    def error(self) -> str:
        return str(getattr(self, "raised", ""))


class NumpyGate:
    """gate.gguf's linear layers and ReLU in NumPy, where the extension was not compiled."""

    c_function = None

    def __init__(self, weights: Mapping[int, Sequence[tuple[F32, F32]]]) -> None:
        self._weights = weights

    def coefficient(self, layer: int, activation: F32) -> F32:
        return evaluate_gate(self._weights[layer], activation)

    def error(self) -> str:
        return str(getattr(self, "raised", ""))


ENGINES = ("onnxruntime", "native")


def check_engine(engine: str) -> str:
    if engine not in ENGINES:
        raise PlanError(f"gate_engine is {engine!r}, expected one of {', '.join(ENGINES)}")
    return engine


def make_gate(bundle: Bundle, n_layer: int, engine: str = "onnxruntime") -> Gate:
    """A probed gate for `bundle`, which has gate.onnx. Raises BundleError if the engine refuses it,
    if a probe yields a number that is not finite, or if "native" finds no gate.gguf."""
    what = bundle.source or bundle.name
    gate = (_native_gate if engine == "native" else _ort_gate)(bundle, n_layer, what)
    try:
        probe_gate(lambda h, layer: gate.coefficient(layer, h), bundle.layers, bundle.n_embd)
    except BundleError as error:
        raise BundleError(f"{what}: {error}") from None
    return gate


def _ort_gate(bundle: Bundle, n_layer: int, what: str) -> Gate:
    assert bundle.gate is not None
    if OrtGate.available():
        return OrtGate(bundle.gate, bundle.layers, (n_layer, bundle.n_embd), what)
    return PythonOrtGate(bundle.gate, what)


def _native_gate(bundle: Bundle, n_layer: int, what: str) -> Gate:
    if bundle.gate_gguf is None:
        raise BundleError(
            f"{what}: found no gate.gguf, expected one for gate_engine='native'; "
            "use gate_engine='onnxruntime'"
        )
    weights = read_gate_gguf(bundle.gate_gguf, bundle.layers, bundle.n_embd, f"{what}: gate.gguf")
    return DenseGate(weights, n_layer, bundle.n_embd) if available() else NumpyGate(weights)
