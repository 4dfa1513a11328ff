"""Gate engines: ONNX Runtime from C, ONNX Runtime from Python, the tap's own, and NumPy say the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from edgesteer import Bundle, SteeredLlama
from edgesteer.bundle import fold_layer, read_gate_gguf
from edgesteer.errors import BundleError, PlanError, SteeringOverflow
from edgesteer.runtime import gates, native
from edgesteer.runtime.native import DenseGate, OrtGate
from tests.bundle import samples
from tests.runtime.support import OPTIONS, close, logits, psr, reference, steered, tokens_of, vector

Model = Callable[[str], Path]
F32 = np.ndarray[Any, np.dtype[np.float32]]


def _networks(n_embd: int, widths: list[int], blocks: list[int], seed: int) -> dict[int, Any]:
    rng = np.random.default_rng(seed)
    chain = [n_embd, *widths, 1]
    return {
        n: [
            ((rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32), rng.standard_normal(shape[1:]).astype(np.float32))
            for shape in zip(chain, chain[1:], strict=False)
        ]
        for n in blocks
    }  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(
    n_embd=st.integers(1, 70),
    widths=st.lists(st.integers(1, 40), max_size=2),
    blocks=st.sets(st.integers(1, 9), min_size=1, max_size=4),
    rows=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_every_engine_gives_the_coefficients_of_the_equation(
    n_embd: int, widths: list[int], blocks: set[int], rows: int, seed: int
) -> None:
    layers = sorted(blocks)
    weights = _networks(n_embd, widths, layers, seed)
    bundle = Bundle.build(
        name="g", directions={n: np.ones(n_embd, np.float32) for n in layers}, gate=weights,
        model=replace(samples.MODEL, n_embd=n_embd, n_layer=10),
    )  # fmt: skip
    assert bundle.gate is not None
    assert bundle.gate_gguf is not None
    read = read_gate_gguf(bundle.gate_gguf, layers, n_embd)
    engines = [
        OrtGate(bundle.gate, layers, (10, n_embd), "test"),
        gates.PythonOrtGate(bundle.gate, "test"),
        DenseGate(read, 10, n_embd),
        gates.NumpyGate(read),
    ]
    h = np.random.default_rng(seed + 1).standard_normal((rows, n_embd)).astype(np.float32)
    for n in layers:
        # reference() gives h + coefficient * direction: with a direction of ones, all columns tell.
        ones = np.ones(n_embd, np.float32)
        expected = (reference(h, np.ones(rows, np.float32), ones, weights[n]) - h)[:, 0]
        for gate in engines:
            got = gate.coefficient(n, h)
            assert (got.dtype, got.shape) == (np.float32, (rows,))
            assert np.abs(got - expected).max() < 1e-4, type(gate).__name__
            assert np.array_equal(gate.coefficient(n, h), got)  # row counts may have changed in between
            assert np.abs(gate.coefficient(n, h[:1]) - expected[:1]).max() < 1e-4


def test_a_native_gate_refuses_a_block_without_weights_and_keeps_nan() -> None:
    gate = DenseGate(_networks(8, [], [2], 0), 4, 8)
    with pytest.raises(
        Exception, match=r"block 1: the gate failed: gate\.gguf has no weights for this block"
    ):
        gate.coefficient(1, np.zeros((1, 8), np.float32))
    assert np.isnan(gate.coefficient(2, np.full((1, 8), np.nan, np.float32))).all()


@pytest.mark.parametrize("arch", ["llama", "gemma3"])
def test_the_native_engine_steers_like_onnxruntime(model: Model, arch: str) -> None:
    path = model(arch)
    expected_by = steered(path)
    llm = SteeredLlama(str(path), gate_engine="native", **OPTIONS)
    tokens = tokens_of(llm)
    for scope in ("all", "response"):
        bundle = psr(path, scope=scope)
        for each in (expected_by, llm):
            each.steer(bundle)
        assert close(logits(llm, tokens), logits(expected_by, tokens), 1e-5)
    llm.clear_steering()
    expected_by.clear_steering()
    assert np.array_equal(logits(llm, tokens), logits(expected_by, tokens))


def test_the_native_engine_needs_gate_gguf(model: Model) -> None:
    path = model("llama")
    bundle = psr(path)
    without = Bundle.build(name="g", directions=dict(bundle.directions), gate=bundle.gate, model=bundle.model)
    llm = SteeredLlama(str(path), gate_engine="native", **OPTIONS)
    llm.steer(vector(path))  # a vector has no gate, so any engine serves
    before = llm.steering
    with pytest.raises(BundleError, match=r"no gate\.gguf, expected one for gate_engine='native'"):
        llm.steer(without)
    assert llm.steering == before


def test_an_unknown_engine_is_refused_before_the_model_is_loaded() -> None:
    with pytest.raises(PlanError, match="gate_engine is 'torch', expected one of onnxruntime, native"):
        SteeredLlama("/nowhere.gguf", gate_engine="torch")


def test_an_overflow_in_the_native_engine_is_seen(model: Model) -> None:
    llm = SteeredLlama(str(model("llama")), gate_engine="native", **OPTIONS)
    plain = logits(llm, tokens_of(llm))
    llm.steer(psr(model("llama")), 1e38)
    with pytest.raises(SteeringOverflow):
        logits(llm, tokens_of(llm))
    llm.clear_steering()
    assert np.array_equal(logits(llm, tokens_of(llm)), plain)


def test_a_stale_extension_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_PROTOTYPES", {**native._PROTOTYPES, "es_from_tomorrow": (None, [])})
    assert native._library.__wrapped__() is None


# -- folding ------------------------------------------------------------------------------------------------


def _graph(closing: list[Any], *, extra: list[Any] | None = None) -> bytes:
    """|x w[layer]| by Gather and Gemm, with the closing nodes given; its last value is `coefficient`."""
    rng = np.random.default_rng(0)
    tables = [
        numpy_helper.from_array(rng.standard_normal((5, 6, 1)).astype(np.float32), "table"),
        numpy_helper.from_array(np.array([0], np.int64), "zero"),
        numpy_helper.from_array(np.array([1], np.int64), "one"),
        numpy_helper.from_array(np.array([-1], np.int64), "minus"),
    ]
    nodes = [
        onnx.helper.make_node("Gather", ["table", "layer"], ["w"]),
        onnx.helper.make_node("MatMul", ["activation", "w"], ["y"]),
        onnx.helper.make_node("Relu", ["y"], ["z"]),
        *closing,
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "gate",
        [
            onnx.helper.make_tensor_value_info("activation", TensorProto.FLOAT, ["tokens", 6]),
            onnx.helper.make_tensor_value_info("layer", TensorProto.INT64, []),
        ],
        [onnx.helper.make_tensor_value_info("coefficient", TensorProto.FLOAT, ["tokens"])],
        tables + (extra or []),
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


CLOSINGS = {
    "squeeze the last axis": [onnx.helper.make_node("Squeeze", ["z", "one"], ["coefficient"])],
    "squeeze axis -1": [onnx.helper.make_node("Squeeze", ["z", "minus"], ["coefficient"])],
    "squeeze without axes, which is another thing for one token": None,
    "reshape": [onnx.helper.make_node("Reshape", ["z", "minus"], ["coefficient"])],
    "squeeze, but z is used twice": [
        onnx.helper.make_node("Squeeze", ["z", "one"], ["s"]),
        onnx.helper.make_node("Squeeze", ["y", "one"], ["u"]),
        onnx.helper.make_node("Add", ["s", "u"], ["coefficient"]),
    ],
}


@pytest.mark.parametrize("name", [n for n, c in CLOSINGS.items() if c])
def test_a_folded_gate_gives_what_the_whole_one_gives(name: str) -> None:
    gate = _graph(CLOSINGS[name] or [])
    whole = gates.PythonOrtGate(gate, "test")
    folded = OrtGate(gate, [0, 3, 4], (5, 6), "test")
    for rows in (1, 4, 1):
        h = np.random.default_rng(rows).standard_normal((rows, 6)).astype(np.float32)
        for n in range(5):  # also those that were not folded
            assert np.allclose(folded.coefficient(n, h), whole.coefficient(n, h), atol=1e-6)


def test_folding_leaves_out_a_closing_squeeze_and_the_input_layer() -> None:
    folded = fold_layer(_graph(CLOSINGS["squeeze axis -1"] or []), 3)
    graph = onnx.load_from_string(folded.model).graph
    assert folded.shape == "column"
    assert [i.name for i in graph.input] == ["activation"]
    assert [node.op_type for node in graph.node] == ["Gather", "MatMul", "Relu"]
    layer = next(t for t in graph.initializer if t.name == "layer")
    assert numpy_helper.to_array(layer) == 3


def test_a_gate_too_large_to_fold_is_evaluated_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_FOLD_AT_MOST", 0)
    gate = _graph(CLOSINGS["reshape"] or [])
    h = np.ones((2, 6), np.float32)
    assert np.allclose(
        OrtGate(gate, [1], (5, 6), "test").coefficient(1, h),
        gates.PythonOrtGate(gate, "test").coefficient(1, h),
    )
