"""The checks that need an inference runtime: that the gate runs, and that gate.onnx and gate.gguf agree.

ONNX Runtime is imported when it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from edgesteer.bundle.bundle import Bundle
from edgesteer.bundle.container import StrPath
from edgesteer.bundle.gate import F32, evaluate_gate, probe_gate, read_gate_gguf
from edgesteer.bundle.refusal import refusal
from edgesteer.bundle.store import load
from edgesteer.errors import MissingExtra

Coefficients = Callable[[F32, int], F32]


def verify(path: StrPath) -> list[str]:
    """Make every check of the format, and run the gate in ONNX Runtime; one line for each check that passed.

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
        run = gate_session(bundle.gate, f"{path}: gate.onnx")
        probe_gate(run, bundle.layers, bundle.n_embd, f"{path}: gate.onnx")
        lines.append("gate.onnx: operators and shapes allowed, finite on the probe")
        lines += _compare_gates(bundle, run, str(path))
    if bundle.gate_ort is not None:
        lines.append("gate.ort: not looked into; use it only from an origin that you trust")
    if bundle.signature is not None:
        lines.append("signature.json: present; check it against a key that you trust")
    return lines


def gate_session(gate: bytes, where: str = "gate.onnx") -> Coefficients:
    """A gate.onnx in ONNX Runtime, as a function; it runs on one thread.

    It maps (activation float32 [rows, n_embd], block) to coefficients float32 [rows].

    Raises:
        BundleError: ONNX Runtime refuses the graph, now or when it runs.
        MissingExtra: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra(
            "onnxruntime: not installed; needed to run a gate; pip install onnxruntime"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    with refused_graph(where):
        session = onnxruntime.InferenceSession(gate, options, providers=["CPUExecutionProvider"])

    def run(activation: F32, layer: int) -> F32:
        rows = np.ascontiguousarray(activation, np.float32)
        with refused_graph(where):
            result: F32 = session.run(
                ["coefficient"], {"activation": rows, "layer": np.array(layer, np.int64)}
            )[0]
        return result

    return run


@contextmanager
def refused_graph(where: str) -> Iterator[None]:
    """ONNX Runtime's errors, which share no public base, as a BundleError."""
    try:
        yield
    except Exception as error:
        raise refusal(where, f"a graph that ONNX Runtime refuses ({error})", "one that runs") from None


def _compare_gates(bundle: Bundle, run: Coefficients, path: str) -> list[str]:
    """Refuse a gate.gguf that computes something else than gate.onnx, which is normative."""
    if bundle.gate_gguf is None:
        return []
    weights = read_gate_gguf(bundle.gate_gguf, bundle.layers, bundle.n_embd)
    rows = np.random.default_rng(1).standard_normal((4, bundle.n_embd), dtype=np.float32)
    for layer in bundle.layers:
        if not np.allclose(run(rows, layer), evaluate_gate(weights[layer], rows), rtol=1e-3, atol=1e-3):
            found = f"coefficients at block {layer} other than gate.onnx gives"
            raise refusal(
                f"{path}: gate.gguf", found, "the same function", "write both from the same weights"
            )
    return ["gate.gguf: the same function as gate.onnx"]
