"""gate.onnx and gate.gguf: they compute relu(x W + b), and nothing outside the rules gets near a runtime."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgesteer.bundle import (
    Bundle,
    GateWeights,
    build_gate,
    check_gate,
    encode_directions,
    evaluate_gate,
    gate_weights_gguf,
    probe_gate,
    read_gate_gguf,
    verify,
)
from edgesteer.bundle import onnx_format as schema
from edgesteer.bundle.verify import gate_session as session
from edgesteer.errors import BundleError, MissingExtra
from tests.bundle.samples import (
    LAYERS,
    MODEL,
    N_EMBD,
    directions,
    gate_weights,
    psr,
    refused,
    relisted,
    saved,
    vector,
    write_members,
)

SHA = "0" * 64
SHAPES = [(N_EMBD, 1), (N_EMBD, 3, 1), (N_EMBD, 5, 4, 1)]
NETS = [gate_weights(layers, widths) for layers in ((3,), LAYERS, range(1, 6)) for widths in SHAPES]


def reference(x: np.ndarray, layers: Any) -> np.ndarray:
    wide = x.astype(np.float64)
    for weight, bias in layers:
        wide = np.maximum(wide @ weight + bias, 0)
    return wide[:, 0]


# --- what a gate computes


@pytest.mark.parametrize("weights", NETS)
@pytest.mark.parametrize("tokens", [1, 2, 17])
def test_the_graph_computes_the_network(weights: GateWeights, tokens: int) -> None:
    run = session(build_gate(weights, SHA))
    x = np.random.default_rng(2).standard_normal((tokens, N_EMBD), dtype=np.float32)
    for n in weights:
        got = run(x, n)
        assert got.shape == (tokens,)
        np.testing.assert_allclose(got, reference(x, weights[n]), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(evaluate_gate(weights[n], x), reference(x, weights[n]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weights", NETS)
def test_what_we_build_we_accept(weights: GateWeights) -> None:
    gate = build_gate(weights, SHA)
    assert gate == build_gate(weights, SHA)
    onnx.checker.check_model(onnx.load_from_string(gate), full_check=True)
    check_gate(gate, sorted(weights), N_EMBD, SHA)
    probe_gate(session(gate), sorted(weights), N_EMBD)


@pytest.mark.parametrize("weights", NETS)
def test_gate_gguf_holds_the_same_weights(weights: GateWeights) -> None:
    data = gate_weights_gguf(weights)
    read = read_gate_gguf(data, sorted(weights), N_EMBD)
    assert list(read) == sorted(weights)
    for n in weights:
        for (weight, bias), (read_weight, read_bias) in zip(weights[n], read[n], strict=True):
            np.testing.assert_array_equal(read_weight, weight)
            np.testing.assert_array_equal(read_bias, bias)
    assert gate_weights_gguf(read) == data


def test_gate_gguf_shapes_are_in_ggufs_order(tmp_path: Path) -> None:
    (tmp_path / "gate.gguf").write_bytes(gate_weights_gguf(gate_weights(widths=(N_EMBD, 3, 1))))
    reader = gguf.GGUFReader(tmp_path / "gate.gguf")
    shapes = {tensor.name: tensor.shape.tolist() for tensor in reader.tensors}
    assert shapes["gate.1.0.weight"] == [N_EMBD, 3]
    assert shapes["gate.1.0.bias"] == [3]
    assert reader.get_field("edgesteer.gate.activation").contents() == "relu"


def test_a_bundle_from_weights_has_both_gates_and_they_agree(tmp_path: Path) -> None:
    bundle = psr(gate=gate_weights(widths=(N_EMBD, 3, 1)))
    assert bundle.gate is not None
    assert bundle.gate_gguf is not None
    verify(saved(bundle, tmp_path / "a.steer"))
    other = {**bundle.members, "gate.gguf": gate_weights_gguf(gate_weights(widths=(N_EMBD, 3, 1), seed=8))}
    path = write_members(tmp_path / "b.steer", relisted(other))
    refused(lambda: verify(path), path, "gate.gguf")


def test_a_gate_may_come_as_a_finished_file() -> None:
    sha = vector().manifest["files"]["directions.gguf"]["sha256"]
    assert sha == hashlib.sha256(encode_directions(directions(), MODEL.architecture)).hexdigest()
    gate = build_gate(gate_weights(), sha)
    assert Bundle.build(name="t", directions=directions(), model=MODEL, gate=gate).gate == gate


@pytest.mark.parametrize(
    "weights",
    [
        {},
        {1: []},
        {1: [(np.zeros((8, 2), "f4"), np.zeros(2, "f4"))]},
        {1: [(np.zeros((8, 1), "f4"), np.zeros(2, "f4"))]},
        {1: [(np.zeros((8, 2), "f4"), np.zeros(2, "f4")), (np.zeros((3, 1), "f4"), np.zeros(1, "f4"))]},
        {1: [(np.zeros(8, "f4"), np.zeros(1, "f4"))]},
        {1: [(np.full((8, 1), np.nan, "f4"), np.zeros(1, "f4"))]},
        {**gate_weights((1,)), **gate_weights((2,), (9, 1))},
    ],
)
def test_weights_that_are_no_gate(weights: Any) -> None:
    refused(lambda: build_gate(weights, SHA), "gate")
    refused(lambda: gate_weights_gguf(weights), "gate")


def test_without_the_onnx_package_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtra, match="pip install"):
        build_gate(gate_weights(), SHA)


# --- what check_gate refuses


def gate_model(nodes: list[Any] | None = None, **changes: Any) -> onnx.ModelProto:
    """A valid gate for block 1 of width N_EMBD, unless `nodes` or `changes` make it something else."""
    inits = [
        numpy_helper.from_array(np.ones((1, N_EMBD), "f4"), "w"),
        numpy_helper.from_array(np.zeros(1, "i8"), "axes"),
    ]
    default = [
        helper.make_node("Gemm", ["w", "activation"], ["s"], transB=1),
        helper.make_node("Squeeze", ["s", "axes"], ["coefficient"]),
    ]
    graph = helper.make_graph(
        default if nodes is None else nodes,
        "gate",
        changes.get("inputs", [value("activation", 1, ["tokens", N_EMBD]), value("layer", 7, [])]),
        changes.get("outputs", [value("coefficient", 1, ["tokens"])]),
        inits,
    )
    model = helper.make_model(
        graph,
        opset_imports=changes.get("opsets", [helper.make_opsetid("", 17)]),
        ir_version=changes.get("ir_version", 10),
    )
    props = {"edgesteer.format": "edgesteer/1", "edgesteer.layers": "[1]", "edgesteer.directions_sha256": SHA}
    helper.set_model_props(model, changes.get("props", props))
    return model


value = helper.make_tensor_value_info


def check(model: onnx.ModelProto | bytes) -> None:
    check_gate(
        model if isinstance(model, bytes) else model.SerializeToString(),
        [1],
        N_EMBD,
        SHA,
        "x.steer: gate.onnx",
    )


def test_the_sample_is_valid() -> None:
    check(gate_model())
    onnx.checker.check_model(gate_model())


def _subgraph() -> Any:
    branch = helper.make_graph([], "branch", [], [])
    return [helper.make_node("Identity", ["activation"], ["y"], body=branch)]


def _functions() -> onnx.ModelProto:
    model = gate_model()
    function = helper.make_function("evil", "F", ["x"], ["y"], [], [helper.make_opsetid("", 17)])
    model.functions.append(function)
    return model


def _external(in_constant: bool) -> onnx.ModelProto:
    model = gate_model()
    tensor = model.graph.initializer[0]
    if in_constant:
        node = model.graph.node.add(op_type="Constant", output=["c"])
        node.attribute.append(helper.make_attribute("value", tensor))
        tensor = node.attribute[0].t
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return model


def _edited(edit: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    model = gate_model()
    edit(model)
    return model


BAD_GATES: dict[str, tuple[Callable[[], onnx.ModelProto | bytes], str]] = {
    "no bytes": (lambda: b"", "IR version 0"),
    "no protobuf": (lambda: b"\xff" * 20, "found"),
    "truncated": (lambda: gate_model().SerializeToString()[:-9], "found"),
    "two graphs": (lambda: gate_model().SerializeToString() + _only_graph(), "two fields 'graph'"),
    "unknown field": (lambda: gate_model().SerializeToString() + b"\xf8\x07\x01", "unknown field 127"),
    "operator": (
        lambda: gate_model([helper.make_node("Exp", ["activation"], ["coefficient"])]),
        "operator 'Exp'",
    ),
    "control flow": (
        lambda: gate_model([helper.make_node("If", ["layer"], ["coefficient"])]),
        "operator 'If'",
    ),
    "domain": (
        lambda: gate_model([helper.make_node("Gemm", ["a"], ["b"], domain="com.microsoft")]),
        "com.microsoft",
    ),
    "subgraph": (lambda: gate_model(_subgraph()), "subgraph"),
    "functions": (_functions, "functions"),
    "training": (lambda: _edited(lambda m: m.training_info.add()), "training info"),
    "external weights": (lambda: _external(False), "external data"),
    "external constant": (lambda: _external(True), "external data"),
    "sparse": (lambda: _edited(lambda m: m.graph.sparse_initializer.add()), "sparse"),
    "opset 18": (lambda: gate_model(opsets=[helper.make_opsetid("", 18)]), "version 17"),
    "two opsets": (
        lambda: gate_model(opsets=[helper.make_opsetid("", 17), helper.make_opsetid("x", 1)]),
        "opera",
    ),
    "IR 11": (lambda: gate_model(ir_version=11), "IR version 11"),
    "missing input": (lambda: gate_model(inputs=[value("activation", 1, ["tokens", N_EMBD])]), "layer int64"),
    "extra input": (
        lambda: gate_model(inputs=[*gate_model().graph.input, value("more", 1, [])]),
        "more",
    ),
    "width": (
        lambda: gate_model(inputs=[value("activation", 1, ["t", 9]), value("layer", 7, [])]),
        "['*', 9]",
    ),
    "open width": (
        lambda: gate_model(inputs=[value("activation", 1, ["t", "d"]), value("layer", 7, [])]),
        "inputs",
    ),
    "fixed tokens": (
        lambda: gate_model(inputs=[value("activation", 1, [1, N_EMBD]), value("layer", 7, [])]),
        "inputs",
    ),
    "half": (
        lambda: gate_model(inputs=[value("activation", 10, ["t", N_EMBD]), value("layer", 7, [])]),
        "type 10",
    ),
    "layer vector": (
        lambda: gate_model(inputs=[value("activation", 1, ["t", N_EMBD]), value("layer", 7, [1])]),
        "inputs",
    ),
    "layer rank": (
        lambda: gate_model(inputs=[value("activation", 1, ["t", N_EMBD]), value("layer", 7, None)]),
        "unknown rank",
    ),
    "output name": (lambda: gate_model(outputs=[value("y", 1, ["t"])]), "coefficient"),
    "output rank": (lambda: gate_model(outputs=[value("coefficient", 1, ["t", 1])]), "coefficient"),
    "two outputs": (lambda: gate_model(outputs=[value("coefficient", 1, ["t"])] * 2), "coefficient"),
    "input default": (
        lambda: _edited(lambda m: m.graph.initializer.append(numpy_helper.from_array(np.array(1), "layer"))),
        "initializer named like the input",
    ),
    "a flood of fields": (lambda: b"\x3a\xff\xff\x3f" + b"\x0a\x00" * 0x7FFFF + b"\x0a", "100000 fields"),
    "a flood of dimensions": (
        lambda: _edited(lambda m: m.graph.initializer[0].dims.extend([1] * 200_000)),
        "100000 fields",
    ),
    "no metadata": (lambda: gate_model(props={}), "edgesteer.format"),
    "other layers": (lambda: _prop("edgesteer.layers", "[1, 2]"), "edgesteer.layers"),
    "no JSON": (lambda: _prop("edgesteer.layers", "[" * 100_000), "edgesteer.layers"),
    "other directions": (lambda: _prop("edgesteer.directions_sha256", "1" * 64), "directions_sha256"),
    "other format": (lambda: _prop("edgesteer.format", "edgesteer/2"), "edgesteer.format"),
    "metadata twice": (
        lambda: _edited(lambda m: m.metadata_props.add(key="edgesteer.layers", value="[2]")),
        "twice",
    ),
}


def _only_graph() -> bytes:
    model = onnx.ModelProto()
    model.graph.CopyFrom(gate_model().graph)
    return model.SerializeToString()


def _prop(key: str, text: str) -> onnx.ModelProto:
    props = {"edgesteer.format": "edgesteer/1", "edgesteer.layers": "[1]", "edgesteer.directions_sha256": SHA}
    return gate_model(props={**props, key: text})


@pytest.mark.parametrize("case", BAD_GATES)
def test_a_gate_outside_the_rules(case: str) -> None:
    make, part = BAD_GATES[case]
    refused(lambda: check(make()), "x.steer: gate.onnx", part)


def test_a_gate_that_is_too_large() -> None:
    refused(lambda: check_gate(bytes(2**26 + 1), LAYERS, N_EMBD, SHA), "at most 67108864")


@settings(max_examples=400, deadline=None)
@given(at=st.floats(0, 1, exclude_max=True), patch=st.binary(max_size=6), cut=st.integers(0, 6))
def test_any_patch_is_accepted_or_refused(at: float, patch: bytes, cut: int) -> None:
    """Never another exception; and what is accepted is, to the onnx package too, within the rules."""
    whole = gate_model().SerializeToString()
    start = int(at * len(whole))
    data = whole[:start] + patch + whole[start + cut :]
    try:
        check(data)
    except BundleError as error:
        assert "\n" not in str(error)
    else:
        model = onnx.load_from_string(data)
        assert {node.op_type for node in model.graph.node} <= {"Gemm", "Squeeze"}
        assert not model.functions
        assert [entry.name for entry in model.graph.input] == ["activation", "layer"]


MESSAGES = [
    (schema.MODEL, onnx.ModelProto), (schema.GRAPH, onnx.GraphProto), (schema.NODE, onnx.NodeProto),
    (schema._ATTRIBUTE, onnx.AttributeProto), (schema._TENSOR, onnx.TensorProto), (schema.VALUE, onnx.ValueInfoProto),
    (schema._TYPE, onnx.TypeProto), (schema._TENSOR_TYPE, onnx.TypeProto.Tensor), (schema._SHAPE, onnx.TensorShapeProto),
    (schema._DIM, onnx.TensorShapeProto.Dimension), (schema._OPSET, onnx.OperatorSetIdProto),
    (schema._ENTRY, onnx.StringStringEntryProto),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "message"), MESSAGES, ids=lambda item: getattr(item, "__name__", ""))
def test_the_schema_is_onnxs_own(fields: Any, message: Any) -> None:
    """Every field number that we name exists in ONNX, with the same wire type and repetition."""
    numbers = {field.number: field for field in message.DESCRIPTOR.fields}
    for number, ours in fields.items():
        theirs = numbers[number]
        assert theirs.is_repeated == ours.many, ours
        assert theirs.type in TYPES[ours.kind] or (ours.kind == "bytes" and theirs.is_packed), ours


# protobuf's numbers of declared types: 2 float, 3 int64, 5 int32, 9 string, 11 message, 12 bytes, 14 enum.
TYPES = {"int": {3, 5, 14}, "float": {2}, "text": {9}, "bytes": {11, 12}, "message": {11}}


# --- probing


@pytest.mark.parametrize(
    ("run", "part"),
    [
        (lambda x, n: np.full(len(x), np.nan, np.float32), "NaN"),
        (lambda x, n: np.where(n == 2, np.inf, np.ones(len(x))).astype("f4"), "block 2"),
        (lambda x, n: np.zeros((len(x), 1), np.float32), "float32"),
        (lambda x, n: np.zeros(len(x)), "float64"),
        (lambda x, n: np.zeros(4, np.float32), "float32"),
    ],
)
def test_a_probe_that_fails(run: Any, part: str) -> None:
    refused(lambda: probe_gate(run, [1, 2], N_EMBD), "gate.onnx", part)


def test_verify_probes_the_gate_and_load_does_not_run_it(tmp_path: Path) -> None:
    """A gate within the rules that divides zero by zero; and one that ONNX Runtime will not even load."""
    sha = vector(directions=directions([1])).manifest["files"]["directions.gguf"]["sha256"]
    zero = [
        helper.make_node("Gather", ["activation", "layer"], ["c"], axis=1),
        helper.make_node("Mul", ["c", "axes_f"], ["z"]),
        helper.make_node("Div", ["z", "z"], ["coefficient"]),
        helper.make_node("Cast", ["axes"], ["axes_f"], to=1),
    ]
    for nodes, part in (
        ([zero[3], *zero[:3]], "NaN"),
        ([helper.make_node("Relu", ["gone"], ["coefficient"])], "ONNX"),
    ):
        model = gate_model(nodes)
        entries = {entry.key: entry for entry in model.metadata_props}
        entries["edgesteer.directions_sha256"].value = sha
        bundle = vector(directions=directions([1]), gate=model.SerializeToString())
        path = tmp_path / f"{part}.steer"
        saved(bundle, path)
        refused(lambda path=path: verify(path), path, "gate.onnx", part)


# --- gate.gguf


def _tensors(weights: GateWeights) -> dict[str, np.ndarray]:
    return {
        f"gate.{n}.{i}.{kind}": array.T
        for n, layers in weights.items()
        for i, pair in enumerate(layers)
        for kind, array in zip(("weight", "bias"), pair, strict=True)
    }


def _write(path: Path, tensors: dict[str, np.ndarray], activation: str | None = "relu") -> bytes:
    writer = gguf.GGUFWriter(path, "gate")
    if activation:
        writer.add_string("edgesteer.gate.activation", activation)
    for name, array in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@pytest.mark.parametrize("squeezed", [False, True])
def test_gate_gguf_of_another_writer(tmp_path: Path, squeezed: bool) -> None:
    """GGUF tools may drop the trailing dimension of 1."""
    weights = gate_weights()
    tensors = {k: v[0] if squeezed and v.ndim == 2 else v for k, v in _tensors(weights).items()}
    read = read_gate_gguf(_write(tmp_path / "g.gguf", tensors), LAYERS, N_EMBD)
    np.testing.assert_array_equal(read[4][0][0], weights[4][0][0])


GOOD = _tensors(gate_weights(widths=(N_EMBD, 3, 1)))


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"gate.1.0.scale": np.zeros(1, "f4")}, "gate.1.0.scale"),
        ({"gate.01.0.bias": np.zeros(1, "f4")}, "gate.01.0.bias"),
        ({"gate.3.0.weight": np.zeros((1, 8), "f4"), "gate.3.0.bias": np.zeros(1, "f4")}, "blocks"),
        ({"gate.1.0.weight": np.zeros((3, 7), "f4")}, "[7, 3]"),
        ({"gate.1.0.bias": np.zeros(2, "f4")}, "bias [2]"),
        ({"gate.1.1.weight": np.zeros((2, 3), "f4"), "gate.1.1.bias": np.zeros(2, "f4")}, "width 1"),
        ({"gate.1.0.weight": np.zeros((3, 8), "f2")}, "F32"),
        ({"gate.1.1.bias": np.full(1, np.nan, "f4")}, "NaN"),
        ({"gate.1.1.bias": None}, "gaps"),
        ({"gate.1.0.weight": None, "gate.1.0.bias": None}, "gaps"),
        ({"gate.1.3.weight": np.zeros((1, 1), "f4"), "gate.1.3.bias": np.zeros(1, "f4")}, "gaps"),
    ],
)
def test_gate_gguf_outside_the_rules(tmp_path: Path, changes: dict[str, Any], part: str) -> None:
    tensors = {name: array for name, array in {**GOOD, **changes}.items() if array is not None}
    data = _write(tmp_path / "g.gguf", tensors)
    refused(lambda: read_gate_gguf(data, LAYERS, N_EMBD), "gate.gguf", part)


@pytest.mark.parametrize("activation", ["tanh", None])
def test_gate_gguf_of_another_activation(tmp_path: Path, activation: str | None) -> None:
    data = _write(tmp_path / "g.gguf", GOOD, activation)
    refused(lambda: read_gate_gguf(data, LAYERS, N_EMBD), "edgesteer.gate.activation")


def test_the_layers_in_the_metadata_are_json() -> None:
    props = {
        entry.key: entry.value
        for entry in onnx.load_from_string(build_gate(gate_weights(), SHA)).metadata_props
    }
    assert json.loads(props["edgesteer.layers"]) == list(LAYERS)
