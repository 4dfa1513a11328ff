"""Gates: gate.onnx made callable, in C where the tap is compiled, else through Python.

In:  a bundle's gate.onnx, already checked against FORMAT's rules on the protobuf.
Out: a Gate (see runtime.tap) that has answered a probe with finite numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgesteer.bundle import Bundle
from edgesteer.bundle.gate import probe_gate
from edgesteer.errors import BundleError
from edgesteer.runtime.native import OrtGate
from edgesteer.runtime.tap import F32, Gate


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
            reason = " ".join(str(error).split())
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


def make_gate(bundle: Bundle, n_layer: int) -> Gate:
    """A probed gate for `bundle`, which has gate.onnx. Raises BundleError if ONNX Runtime refuses
    it or if a probe yields a number that is not finite."""
    assert bundle.gate is not None
    what = bundle.source or bundle.name
    gate: Gate
    if OrtGate.available():
        gate = OrtGate(bundle.gate, n_layer, bundle.n_embd, what)
    else:
        gate = PythonOrtGate(bundle.gate, what)
    try:
        probe_gate(lambda h, layer: gate.coefficient(layer, h), bundle.layers, bundle.n_embd)
    except BundleError as error:
        raise BundleError(f"{what}: {error}") from None
    return gate
