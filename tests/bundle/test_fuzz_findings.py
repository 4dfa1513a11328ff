"""What fuzzing (`make fuzz`) found to be read, or to be refused too late: each stays refused, and cheaply."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array

from edgesteer.bundle import build_gate, check_gate, encode_directions, gguf, load, read_model_info, verify
from edgesteer.bundle.agreement import sha256
from edgesteer.bundle.container import zip_bytes
from edgesteer.errors import ModelError
from tests.bundle.samples import (
    LAYERS,
    N_EMBD,
    directions,
    gate_weights,
    psr,
    refused,
    refused_file,
    saved,
    vector,
)

DIRECTIONS = sha256(encode_directions(directions(), "llama"))


def gate(nodes: list[onnx.NodeProto], *constants: tuple[str, np.ndarray], n_embd: int = N_EMBD) -> bytes:
    """A gate of these nodes; `one` is the index 1, and the last node makes `coefficient`."""
    inputs = [
        helper.make_tensor_value_info("activation", TensorProto.FLOAT, ["tokens", n_embd]),
        helper.make_tensor_value_info("layer", TensorProto.INT64, []),
    ]
    output = helper.make_tensor_value_info("coefficient", TensorProto.FLOAT, ["tokens"])
    initializers = [from_array(np.asarray(value), name) for name, value in (*constants, ("one", np.array(1)))]
    graph = helper.make_graph(nodes, "gate", inputs, [output], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    facts = {"edgesteer.format": "edgesteer/1", "edgesteer.layers": json.dumps(list(LAYERS))}
    helper.set_model_props(model, facts | {"edgesteer.directions_sha256": DIRECTIONS})
    return bytes(model.SerializeToString())


def node(operator: str, inputs: str, output: str = "coefficient", **attributes: int) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(), [output], **attributes)


COLUMN = node("Gather", "activation one", "column", axis=1)


def refused_gate(data: bytes, *parts: str) -> None:
    refused(lambda: check_gate(data, LAYERS, N_EMBD, DIRECTIONS), "gate.onnx", *parts)


# --- a small gate that takes gigabytes


@pytest.mark.parametrize(
    ("operator", "across"), [("Add", (1, -1)), ("Mul", (-1,)), ("MatMul", (1, -1)), ("Gemm", (1, -1))]
)
def test_a_row_and_a_column_that_make_a_plane(operator: str, across: tuple[int, ...]) -> None:
    long = np.zeros(20_000, np.float32)
    nodes = [COLUMN, node(operator, "down across", "plane"), node("Gather", "plane one", "line")]
    nodes += [node("Gather", "line one", "point"), node("Add", "column point")]
    refused_gate(
        gate(nodes, ("down", long.reshape(-1, 1)), ("across", long.reshape(across))), "more than", "elements"
    )


def test_a_plane_of_the_prompt_with_itself() -> None:
    """Harmless for one token, not for a prompt."""
    nodes = [node("Reshape", "activation flat", "line"), node("Reshape", "activation tall", "tall_one")]
    nodes += [node("Mul", "line tall_one", "plane"), node("Gather", "plane one")]
    data = gate(nodes, ("flat", np.array([-1])), ("tall", np.array([-1, 1])), n_embd=64)
    refused(lambda: check_gate(data, LAYERS, 64, DIRECTIONS), "elements for 512 tokens")


def test_a_size_that_is_hidden_behind_an_unknown_shape() -> None:
    """A shape that is computed is not known here; the largest that it could be counts."""
    nodes = [COLUMN, node("Add", "layer sizes", "shape"), node("Reshape", "long shape", "down")]
    nodes += [
        node("Add", "down long", "plane"),
        node("Gather", "plane one", "point"),
        node("Add", "column point"),
    ]
    refused_gate(
        gate(nodes, ("sizes", np.array([19_999, 0])), ("long", np.zeros(20_000, np.float32))), "elements"
    )


def test_a_product_of_wide_matrices() -> None:
    """Few elements, but minutes of multiplying."""
    nodes = [COLUMN, node("MatMul", "wide wide", "first"), node("MatMul", "first wide", "second")]
    nodes += [
        node("Gather", "second one", "line"),
        node("Gather", "line one", "point"),
        node("Add", "column point"),
    ]
    refused_gate(gate(nodes, ("wide", np.zeros((2_000, 2_000), np.float32))), "elements")


def test_dimensions_that_double_at_every_node() -> None:
    """Each holds one element; their ranks would exhaust the reader itself."""
    nodes = [COLUMN, node("Gather", "cell cell", "g0")]
    nodes += [node("Gather", f"g{i} g{i}", f"g{i + 1}") for i in range(60)]
    refused_gate(gate([*nodes, node("Add", "column g60")], ("cell", np.zeros((1, 1), np.int64))), "rank")
    deep = np.zeros((1,) * 60, np.float32)
    refused_gate(gate([COLUMN, node("Add", "column deep")], ("deep", deep)), "rank")


def test_real_gates_are_far_from_the_limits() -> None:
    rng = np.random.default_rng(0)
    shapes = ((8192, 128), (128, 1))
    layers = [(rng.standard_normal(s).astype(np.float32), np.zeros(s[1], np.float32)) for s in shapes]
    check_gate(build_gate({3: layers, 4: layers}, DIRECTIONS), [3, 4], 8192, DIRECTIONS)


@pytest.mark.parametrize("raw", [True, False], ids=["raw bytes", "packed"])
def test_a_shape_that_is_a_constant_is_followed(raw: bool) -> None:
    """Seen as an unknown shape, the product would count as the largest possible one."""
    wide = 4096
    nodes = [node("Reshape", "activation whole", "h"), node("MatMul", "h w", "s"), node("Squeeze", "s one")]
    data = gate(nodes, ("w", np.zeros((wide, 1), np.float32)), ("whole", np.array([-1, wide])), n_embd=wide)
    if not raw:
        model = onnx.ModelProto.FromString(data)
        (shape,) = (t for t in model.graph.initializer if t.name == "whole")
        shape.CopyFrom(helper.make_tensor("whole", TensorProto.INT64, [2], [-1, wide]))
        data = model.SerializeToString()
    check_gate(data, LAYERS, wide, DIRECTIONS)


# --- a gate that ends the process


def test_a_division_of_integers() -> None:
    """The least int64 by -1, behind values that only the run knows, is a fatal signal in ONNX Runtime
    1.31."""
    nodes = [COLUMN, node("Mul", "layer zero", "nothing"), node("Add", "nothing minus", "by")]
    nodes += [
        node("Div", "least by", "q"),
        node("Cast", "q", "f", to=TensorProto.FLOAT),
        node("Add", "column f"),
    ]
    constants = {"zero": 0, "minus": -1, "least": -(2**63)}
    refused_gate(
        gate(nodes, *((name, np.array(value)) for name, value in constants.items())), "division of integers"
    )


def test_a_division_of_floats_is_allowed() -> None:
    data = gate([COLUMN, node("Div", "column half")], ("half", np.array(0.5, np.float32)))
    check_gate(data, LAYERS, N_EMBD, DIRECTIONS)


# --- a graph that can be read in two ways


@pytest.mark.parametrize(
    ("nodes", "part"),
    [
        ([node("Add", "column one"), COLUMN], "before"),
        ([COLUMN, COLUMN, node("Relu", "column")], "twice"),
        ([COLUMN, node("Relu", "column", "one"), node("Relu", "column")], "twice"),
    ],
)
def test_values_out_of_order_or_made_twice(nodes: list[onnx.NodeProto], part: str) -> None:
    refused_gate(gate(nodes), part)


def test_an_attribute_twice_and_an_initializer_twice() -> None:
    double = node("Gather", "activation one", axis=1)
    double.attribute.append(helper.make_attribute("axis", 0))
    refused_gate(gate([double]), "attribute", "twice")
    zero = np.array(0)
    refused_gate(gate([node("Gather", "activation x", axis=1)], ("x", zero), ("x", zero)), "two initializers")


# --- quadratic time


def test_the_last_of_many_keys_is_a_duplicate(tmp_path: Path) -> None:
    members = dict(vector().members)
    many = ",".join(f'"{i}":0' for i in [*range(200_000), 199_999])
    manifest = members["manifest.json"][:-1] + b',"x-many":{' + many.encode() + b"}}"
    path = tmp_path / "bad.steer"
    path.write_bytes(zip_bytes({**members, "manifest.json": manifest}))
    refused_file(path, "duplicate key '199999'")


def test_what_edgesteer_writes_keeps_these_rules(tmp_path: Path) -> None:
    for bundle in (vector(), psr(), psr(gate=gate_weights(widths=(N_EMBD, 4, 1)))):
        path = tmp_path / f"{bundle.digest}.steer"
        assert load(saved(bundle, path)) == bundle
        assert verify(path)


@pytest.mark.parametrize(("n_embd", "n_layer"), [(0, 6), (8, 0)])
def test_a_model_without_width_or_blocks(tmp_path: Path, n_embd: int, n_layer: int) -> None:
    keys = {"general.architecture": "llama", "llama.embedding_length": n_embd, "llama.block_count": n_layer}
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf.encode(keys, []))
    with pytest.raises(
        ModelError, match=f"model.gguf: found embedding_length {n_embd} and block_count {n_layer}"
    ):
        read_model_info(path)


@pytest.mark.parametrize(("kind", "form"), [(5, "i"), (10, "Q"), (0, "B"), (7, "?")])
def test_an_alignment_that_is_no_u32(tmp_path: Path, kind: int, form: str) -> None:
    """Stock llama.cpp asserts the type, so the file would end its process."""
    data = gguf.encode({"general.alignment": 32}, [])
    at = data.index(b"general.alignment") + len(b"general.alignment")
    path = tmp_path / "vector.gguf"
    path.write_bytes(data[:at] + struct.pack("<I" + form, kind, 1 if form == "?" else 32) + data[at + 8 :])
    refused_file(path, "general.alignment of type", "u32")
