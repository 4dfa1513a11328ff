"""The rules that a gate.onnx must follow, checked on its bytes before any runtime loads it.

Needs neither the onnx package nor ONNX Runtime, and executes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from edgesteer.bundle import onnx_cost
from edgesteer.bundle.onnx_format import MODEL, Message, WireError, decode
from edgesteer.bundle.refusal import refusal

MAX_GATE_BYTES = 64 * 2**20
OPSET, MAX_IR_VERSION = 17, 10
OPERATORS = frozenset(
    ["Gather", "MatMul", "Gemm", "Add", "Mul", "Relu", "LeakyRelu", "Sigmoid", "Tanh", "Erf", "Div",
     "Squeeze", "Unsqueeze", "Reshape", "Cast", "Constant", "Identity", "DequantizeLinear"]
)  # fmt: skip
_FLOAT, _INT64 = 1, 7
_PLAIN = (1, 2, 3, 4, 6, 7, 8)  # attribute types: float, int, string, tensor; lists of the first three
_REBUILD = "build the gate again with edgesteer"


def check_gate(
    data: bytes, layers: Sequence[int], n_embd: int, directions_sha256: str, where: str = "gate.onnx"
) -> None:
    """Refuse a gate.onnx that breaks the format's rules.

    Args:
        data: the file's bytes.
        layers: the steered blocks, ascending; must equal the gate's own list.
        n_embd: width of the residual stream, the gate's second input dimension.
        directions_sha256: hex SHA-256 of the directions.gguf that the gate was made for.
        where: how messages name the file.
    Raises:
        BundleError: naming the first rule broken.
    """
    if len(data) > MAX_GATE_BYTES:
        raise refusal(where, f"{len(data)} bytes", f"at most {MAX_GATE_BYTES}", "use a smaller gate")
    try:
        model = decode(data, MODEL)
    except WireError as error:
        raise refusal(where, str(error), "an ONNX model of the plain kind that edgesteer/1 allows") from None
    expected = {
        "edgesteer.format": "edgesteer/1",
        "edgesteer.layers": list(layers),
        "edgesteer.directions_sha256": directions_sha256,
    }
    for found, wanted in chain(_in_model(model), _in_graph(model.get("graph", {}), n_embd)):
        raise refusal(where, found, wanted, _REBUILD)
    for found, wanted in _in_metadata(model.get("metadata", []), expected):
        raise refusal(where, found, wanted, "take gate and directions from one bundle")


# Each of these yields (found, expected) for every rule that is broken; `check_gate` raises the first.
_Objections = Iterator[tuple[str, str]]


def _in_model(model: Message) -> _Objections:
    version = model.get("ir_version", 0)
    if not 1 <= version <= MAX_IR_VERSION:
        yield f"ONNX IR version {version}", f"1 to {MAX_IR_VERSION}"
    opsets = [(o.get("domain", ""), o.get("version", 0)) for o in model.get("opset", [])]
    if opsets not in ([("", OPSET)], [("ai.onnx", OPSET)]):
        yield f"operator sets {opsets}", f"only the default domain, version {OPSET}"
    for part in ("functions", "training_info"):
        if part in model:
            yield f"{part.replace('_', ' ')} in the model", "none"
    if "graph" not in model:
        yield "no graph", "one graph"


def _in_graph(graph: Message, n_embd: int) -> _Objections:
    if "sparse_initializer" in graph:
        yield "a sparse initializer", "dense ones"
    for node in graph.get("node", []):
        yield from _in_node(node)
    for tensor in graph.get("initializer", []):
        yield from _in_tensor(tensor)
    inputs, outputs = _signature(graph.get("input", [])), _signature(graph.get("output", []))
    wanted = {"activation": (_FLOAT, ["*", n_embd]), "layer": (_INT64, [])}
    if inputs != wanted or len(graph.get("input", [])) != 2:
        yield f"inputs {_as_text(inputs)}", _as_text(wanted)
    if outputs != {"coefficient": (_FLOAT, ["*"])} or len(graph.get("output", [])) != 1:
        yield f"outputs {_as_text(outputs)}", "coefficient float32 [tokens]"
    for name in {t.get("name", "") for t in graph.get("initializer", [])} & inputs.keys():
        yield f"an initializer named like the input '{name}'", "inputs without default values"
    yield from onnx_cost.objections(graph, n_embd)


def _in_node(node: Message) -> _Objections:
    operator, domain = node.get("op_type", ""), node.get("domain", "")
    if domain not in ("", "ai.onnx") or operator not in OPERATORS:
        yield (
            f"operator '{domain + '.' if domain else ''}{operator}'",
            f"one of {', '.join(sorted(OPERATORS))}",
        )
    for attribute in node.get("attribute", []):
        if "subgraph" in attribute or "subgraphs" in attribute or attribute.get("type", 1) not in _PLAIN:
            yield f"a subgraph or unknown kind of attribute in '{operator}'", "plain attributes"
        yield from _in_tensor(attribute.get("t", {}))


def _in_tensor(tensor: Message) -> _Objections:
    if tensor.get("external_data") or tensor.get("data_location", 0):
        yield f"external data for '{tensor.get('name', '')}'", "all weights inside the file"


def _in_metadata(entries: list[Message], expected: Mapping[str, object]) -> _Objections:
    found = {entry.get("key", ""): entry.get("value", "") for entry in entries}
    if len(found) < len(entries):
        yield "a metadata key twice", "unique keys"
    for key, value in expected.items():
        text = found.get(key)
        if text is None or (_json(text) if isinstance(value, list) else text) != value:
            yield f"{key} = {text}", str(value)


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _signature(values: list[Message]) -> dict[str, tuple[int, list[object] | None]]:
    """Name -> (element type, dimensions); a dimension that is not fixed is "*", an unknown rank is None."""
    return {value.get("name", ""): _type_of(value.get("type", {}).get("tensor", {})) for value in values}


def _type_of(tensor: Message) -> tuple[int, list[object] | None]:
    if "shape" not in tensor:
        return tensor.get("elem_type", 0), None
    return tensor.get("elem_type", 0), [dim.get("value", "*") for dim in tensor["shape"].get("dim", [])]


def _as_text(signature: Mapping[str, tuple[int, Sequence[object] | None]]) -> str:
    names = {_FLOAT: "float32", _INT64: "int64"}
    return ", ".join(
        f"{name} {names.get(kind, f'type {kind}')} {'of unknown rank' if dims is None else dims}"
        for name, (kind, dims) in signature.items()
    )
