"""Knows the part of onnx.proto that a gate may use: field numbers and types, for `protobuf.decode`.

Sub-messages that are forbidden or irrelevant stay opaque bytes. A field that is not here makes a gate
invalid.
"""

from __future__ import annotations

from edgesteer.bundle.protobuf import Field

_ENTRY = {1: Field("key", "text"), 2: Field("value", "text")}
_METADATA = Field("metadata", "message", many=True, schema=_ENTRY)
_TENSOR = {
    1: Field("dims", "int", many=True),
    2: Field("data_type", "int"),
    4: Field("float_data", "bytes", many=True),
    5: Field("int32_data", "bytes", many=True),
    7: Field("int64_data", "bytes", many=True),
    8: Field("name", "text"),
    9: Field("raw_data", "bytes"),
    10: Field("double_data", "bytes", many=True),
    11: Field("uint64_data", "bytes", many=True),
    12: Field("doc_string", "text"),
    13: Field("external_data", "bytes", many=True),
    14: Field("data_location", "int"),
    16: _METADATA,
}
_ATTRIBUTE = {
    1: Field("name", "text"),
    2: Field("f", "float"),
    3: Field("i", "int"),
    4: Field("s", "bytes"),
    5: Field("t", "message", schema=_TENSOR),
    6: Field("subgraph", "bytes"),
    7: Field("floats", "float", many=True),
    8: Field("ints", "int", many=True),
    9: Field("strings", "bytes", many=True),
    11: Field("subgraphs", "bytes", many=True),
    13: Field("doc_string", "text"),
    20: Field("type", "int"),
}
NODE = {
    1: Field("input", "text", many=True),
    2: Field("output", "text", many=True),
    3: Field("name", "text"),
    4: Field("op_type", "text"),
    5: Field("attribute", "message", many=True, schema=_ATTRIBUTE),
    6: Field("doc_string", "text"),
    7: Field("domain", "text"),
    9: _METADATA,
}
_DIM = {1: Field("value", "int"), 2: Field("param", "text"), 3: Field("denotation", "text")}
_SHAPE = {1: Field("dim", "message", many=True, schema=_DIM)}
_TENSOR_TYPE = {1: Field("elem_type", "int"), 2: Field("shape", "message", schema=_SHAPE)}
_TYPE = {1: Field("tensor", "message", schema=_TENSOR_TYPE), 6: Field("denotation", "text")}
VALUE = {
    1: Field("name", "text"),
    2: Field("type", "message", schema=_TYPE),
    3: Field("doc_string", "text"),
    4: _METADATA,
}
GRAPH = {
    1: Field("node", "message", many=True, schema=NODE),
    2: Field("name", "text"),
    5: Field("initializer", "message", many=True, schema=_TENSOR),
    10: Field("doc_string", "text"),
    11: Field("input", "message", many=True, schema=VALUE),
    12: Field("output", "message", many=True, schema=VALUE),
    13: Field("value_info", "bytes", many=True),
    15: Field("sparse_initializer", "bytes", many=True),
    16: _METADATA,
}
_OPSET = {1: Field("domain", "text"), 2: Field("version", "int")}
MODEL = {
    1: Field("ir_version", "int"),
    2: Field("producer_name", "text"),
    3: Field("producer_version", "text"),
    4: Field("domain", "text"),
    5: Field("model_version", "int"),
    6: Field("doc_string", "text"),
    7: Field("graph", "message", schema=GRAPH),
    8: Field("opset", "message", many=True, schema=_OPSET),
    14: _METADATA,
    20: Field("training_info", "bytes", many=True),
    25: Field("functions", "bytes", many=True),
}
