"""Knows the checks that need an inference runtime: does the gate run, and do both gates say the same?

In: a path; out: a line per thing that held, or BundleError. ONNX Runtime is imported when called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesteer.bundle.bundle import Bundle
from edgesteer.bundle.gate import probe_gate, read_gate_gguf
from edgesteer.bundle.refusal import refusal
from edgesteer.bundle.store import StrPath, load
from edgesteer.errors import MissingExtra


def verify(path: StrPath) -> list[str]:
    """Every check of the format, the gate's probe in ONNX Runtime included; one line per thing that held.

    Raises:
        BundleError: a rule of the format is broken.
        MissingExtra: the bundle has a gate and onnxruntime is not installed.
    """
    bundle = load(path)
    lines = [f"{len(bundle.layers)} directions of width {bundle.n_embd}: finite"]
    if not bundle.members:
        return [f"bare control vector, architecture hint {bundle.architecture_hint!r}", *lines]
    lines.insert(0, f"manifest: {bundle.manifest['format']}, kind {bundle.kind}, scope {bundle.scope}")
    lines.insert(1, f"members: {', '.join(bundle.members)}; sizes and SHA-256 as in the manifest")
    if bundle.gate is not None:
        run = _session(bundle.gate, f"{path}: gate.onnx")
        probe_gate(run, bundle.layers, bundle.n_embd, f"{path}: gate.onnx")
        lines.append("gate.onnx: operators and shapes allowed, finite on the probe")
        lines += _compare_gates(bundle, run, str(path))
    if bundle.gate_ort is not None:
        lines.append("gate.ort: not looked into; use it only from an origin that you trust")
    if bundle.signature is not None:
        lines.append("signature.json: present; check it against a key that you trust")
    return lines


_Run = Callable[[npt.NDArray[np.float32], int], npt.NDArray[np.float32]]


def _session(gate: bytes, where: str) -> _Run:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra(
            "onnxruntime: not installed; needed to check a gate; pip install onnxruntime"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = _guarded(
        lambda: onnxruntime.InferenceSession(gate, options, providers=["CPUExecutionProvider"]), where
    )

    def run(activation: npt.NDArray[np.float32], layer: int) -> npt.NDArray[np.float32]:
        feed = {"activation": activation, "layer": np.array(layer, np.int64)}
        result: npt.NDArray[np.float32] = _guarded(lambda: session.run(["coefficient"], feed), where)[0]
        return result

    return run


def _guarded(action: Callable[[], Any], where: str) -> Any:
    try:
        return action()
    except (
        Exception
    ) as error:  # ONNX Runtime's own exception types, and whatever else a hostile graph provokes
        raise refusal(where, f"a graph that ONNX Runtime refuses ({error})", "one that runs") from None


def _compare_gates(bundle: Bundle, run: _Run, path: str) -> list[str]:
    """gate.onnx is normative: where gate.gguf says otherwise, hosts would steer differently."""
    if bundle.gate_gguf is None:
        return []
    weights = read_gate_gguf(bundle.gate_gguf, bundle.layers, bundle.n_embd)
    rows = np.random.default_rng(1).standard_normal((4, bundle.n_embd), dtype=np.float32)
    for layer in bundle.layers:
        expected = run(rows, layer)
        if not np.allclose(expected, _relu_network(rows, weights[layer]), rtol=1e-3, atol=1e-3):
            found = f"coefficients at block {layer} other than gate.onnx gives"
            raise refusal(
                f"{path}: gate.gguf", found, "the same function", "write both from the same weights"
            )
    return ["gate.gguf: the same function as gate.onnx"]


def _relu_network(
    rows: npt.NDArray[np.float32], layers: Sequence[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]
) -> npt.NDArray[np.float32]:
    for weight, bias in layers:
        rows = np.maximum(rows @ weight + bias, 0)
    return rows[:, 0]
