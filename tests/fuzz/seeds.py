"""What the mutations start from: one valid file of every kind, small, the same in every run.

Out: bundles as members, bare control vectors and model headers as bytes.
"""

from __future__ import annotations

import json
import struct
from functools import cache

import numpy as np

from edgesteer.bundle import StrengthRange, encode_directions, gguf
from edgesteer.bundle.agreement import sha256
from tests.bundle.samples import LAYERS, N_EMBD, directions, gate_weights, psr, vector
from tests.fuzz.of_gguf import Key, put_together, take_apart

Members = dict[str, bytes]


@cache
def bundles() -> dict[str, Members]:
    """Name -> members."""
    one = {2: directions()[2]}
    made = {
        "vector": vector(turns={"open": [1, 2], "close": [3]}, extra={"x-note": [1, {"a": None}]}),
        "psr": psr(evaluation={"trait": 0.5}, strength=StrengthRange(0.5, -1.0, 3.0)),
        "psr, one block": vector(directions=one, gate=gate_weights([2])),
        "psr, two layers": psr(gate=gate_weights(widths=(N_EMBD, 4, 1)), gate_ort=b"ort"),
        "psr, every operator": psr(gate=every_operator()),
    }
    members = {name: dict(bundle.members) for name, bundle in made.items()}
    signature = {"algorithm": "ed25519", "public_key": "AA==", "signature": "AA=="}
    members["signed"] = {**members["vector"], "signature.json": json.dumps(signature).encode()}
    return members


@cache
def control_vectors() -> dict[str, bytes]:
    """Bare control vectors, ours and one with keys of every type."""
    ours = encode_directions(directions(), "llama")
    return {"bare": ours, "bare, many keys": _with_every_type(ours)}


@cache
def models() -> dict[str, bytes]:
    """Headers of model files: little more than what `read_model_info` asks for."""
    keys: dict[str, str | int] = {
        "general.architecture": "llama", "general.name": "Tiny", "general.file_type": 3,
        "llama.embedding_length": N_EMBD, "llama.block_count": 6, "split.count": 1,
    }  # fmt: skip
    norm = np.linspace(0, 1, N_EMBD, dtype=np.float32)
    tensors = [(f"blk.{n}.attn_norm.weight", norm + np.float32(n)) for n in range(6)]
    tensors.append(("token_embd.weight", np.zeros((4, N_EMBD), np.float32)))
    plain = gguf.encode(keys, tensors)
    return {"model": plain, "model, many keys": _with_every_type(plain)}


def _with_every_type(data: bytes) -> bytes:
    parts = take_apart(data)
    for kind, form in {
        0: "B",
        1: "b",
        2: "H",
        3: "h",
        4: "I",
        5: "i",
        6: "f",
        7: "?",
        10: "Q",
        11: "q",
        12: "d",
    }.items():
        parts.keys.append(Key(b"scalar.%d" % kind, kind, struct.pack("<" + form, 1)))
        parts.keys.append(Key(b"array.%d" % kind, 9, struct.pack("<IQ" + 3 * form, kind, 3, 1, 1, 1)))
    words = b"".join(struct.pack("<Q", len(word)) + word for word in (b"<s>", b"", b"\xff\xfe"))
    parts.keys.append(Key(b"words", 9, struct.pack("<IQ", 8, 3) + words))
    return put_together(parts)


def every_operator() -> bytes:
    """A gate with operators and attributes that edgesteer's own gates do not use."""
    import onnx
    from onnx import TensorProto, helper
    from onnx.numpy_helper import from_array

    value = from_array(np.float32(0.5), "half")
    nodes = [
        helper.make_node("Identity", ["activation"], ["h"]),
        helper.make_node("DequantizeLinear", ["w8", "scale", "zero_point"], ["w"], axis=1),
        helper.make_node("MatMul", ["h", "w"], ["a"]),
        helper.make_node("Cast", ["layer"], ["n"], to=TensorProto.FLOAT),
        helper.make_node("Constant", [], ["half"], value=value),
        helper.make_node("Constant", [], ["axes"], value_ints=[0]),
        helper.make_node("Unsqueeze", ["n", "axes"], ["n1"]),
        helper.make_node("Mul", ["n1", "half"], ["n2"]),
        helper.make_node("Add", ["a", "n2"], ["b"]),
        helper.make_node("LeakyRelu", ["b"], ["c"], alpha=0.1),
        helper.make_node("Div", ["c", "two"], ["d"]),
        helper.make_node("Erf", ["d"], ["e"]),
        helper.make_node("Sigmoid", ["e"], ["f"]),
        helper.make_node("Tanh", ["f"], ["g"]),
        helper.make_node("Gemm", ["g", "v", "bias"], ["i"], alpha=0.5, beta=2.0, transB=1),
        helper.make_node("Relu", ["i"], ["j"]),
        helper.make_node("Reshape", ["j", "shape"], ["k"]),
        helper.make_node("Gather", ["k", "first"], ["l"], axis=1),
        helper.make_node("Squeeze", ["l", "one"], ["coefficient"]),
    ]
    rng = np.random.default_rng(3)
    initializers = [
        from_array(rng.integers(-9, 9, (N_EMBD, 3)).astype(np.int8), "w8"),
        from_array(np.full(3, 0.1, np.float32), "scale"),
        from_array(np.zeros(3, np.int8), "zero_point"),
        from_array(np.float32(2), "two"),
        from_array(rng.standard_normal((1, 3)).astype(np.float32), "v"),
        helper.make_tensor("bias", TensorProto.FLOAT, [1], [0.25]),
        helper.make_tensor("shape", TensorProto.INT64, [2], [-1, 1]),
        from_array(np.array([0], np.int64), "first"),
        from_array(np.array([1], np.int64), "one"),
    ]
    inputs = [
        helper.make_tensor_value_info("activation", TensorProto.FLOAT, ["tokens", N_EMBD]),
        helper.make_tensor_value_info("layer", TensorProto.INT64, []),
    ]
    outputs = [helper.make_tensor_value_info("coefficient", TensorProto.FLOAT, ["tokens"])]
    graph = helper.make_graph(nodes, "gate", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    facts = {
        "edgesteer.format": "edgesteer/1",
        "edgesteer.layers": json.dumps(list(LAYERS)),
        "edgesteer.directions_sha256": sha256(encode_directions(directions(), "llama")),
    }
    helper.set_model_props(model, facts)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))
