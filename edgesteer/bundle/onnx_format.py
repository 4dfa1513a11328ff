"""The encoding of gate.onnx: strict protobuf, and the fields of onnx.proto that a gate may use.

A general parser merges repeated singular fields and skips unknown ones, so a check could see another message
than the runtime that loads the file afterwards. Here every such ambiguity is an error: a schema names every
field that may occur, and all others are refused. Forbidden or irrelevant sub-messages stay opaque bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5
_MAX_FIELDS = 100_000
_KINDS = {"int": _VARINT, "bytes": _LEN, "text": _LEN, "message": _LEN, "float": _I32}

Value = int | memoryview
Message = dict[str, Any]


class WireError(ValueError):
    """The bytes are not a message of the schema; the text says what was found."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field that may occur: kind `int`, `float`, `bytes`, `text` or `message`; `many` if it is repeated."""

    name: str
    kind: str
    many: bool = False
    schema: Mapping[int, Field] | None = None


Schema = Mapping[int, Field]


def decode(data: bytes | memoryview, schema: Schema) -> Message:
    """Decode a message and those inside it. Absent fields are absent keys; a repeated field is a list.

    Raises:
        WireError: a malformed, unknown or doubled field, or one whose wire type is not the schema's.
    """
    return _decode(memoryview(data), schema, _Budget())


def packed_integers(data: memoryview) -> list[int]:
    """The values of a packed field of signed integers, which a schema may keep as bytes.

    Raises:
        WireError: not such a field.
    """
    return _packed(data, _Budget())


class _Budget:
    """Counts the fields of a whole file: 64 MiB could hold tens of millions, real gates have hundreds."""

    spent = 0

    def spend(self) -> None:
        self.spent += 1
        if self.spent > _MAX_FIELDS:
            raise WireError(f"more than {_MAX_FIELDS} fields")


def _decode(data: memoryview, schema: Schema, budget: _Budget) -> Message:
    message: Message = {}
    for number, wire, raw in fields(data):
        budget.spend()
        field = schema.get(number)
        if field is None:
            raise WireError(f"an unknown field {number}")
        value = _convert(field, wire, raw, budget)
        if field.many:
            message.setdefault(field.name, []).extend(value if isinstance(value, list) else [value])
        elif field.name in message:
            raise WireError(f"two fields '{field.name}' where one may be")
        else:
            message[field.name] = value
    return message


def _convert(field: Field, wire: int, raw: Value, budget: _Budget) -> Any:
    if field.kind == "int" and field.many and wire == _LEN and isinstance(raw, memoryview):
        return _packed(raw, budget)
    if field.kind == "float" and field.many and wire == _LEN:
        return raw  # packed; the values are not needed here
    if wire != _KINDS[field.kind]:
        raise WireError(f"field '{field.name}' of wire type {wire}")
    if isinstance(raw, int):
        return raw - (1 << 64) if field.kind == "int" and raw >> 63 else raw
    if field.kind == "text":
        return _text(field.name, raw)
    return _decode(raw, field.schema, budget) if field.schema is not None else raw


def _text(name: str, raw: memoryview) -> str:
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError:
        raise WireError(f"a '{name}' that is not UTF-8") from None


def _packed(raw: memoryview, budget: _Budget) -> list[int]:
    values, at = [], 0
    while at < len(raw):
        value, at = _varint(raw, at)
        values.append(value - (1 << 64) if value >> 63 else value)
        budget.spend()
    return values


def fields(data: memoryview) -> Iterator[tuple[int, int, Value]]:
    """(number, wire type, value) of each field; groups, which ONNX never used, are refused."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        value: Value
        if tag & 7 == _VARINT:
            value, at = _varint(data, at)
        else:
            size, at = _size(data, at, tag & 7)
            value, at = data[at : at + size], at + size
            if at > len(data):
                raise WireError("an end in the middle of a field")
        yield tag >> 3, tag & 7, value


def _size(data: memoryview, at: int, wire: int) -> tuple[int, int]:
    if wire == _LEN:
        return _varint(data, at)
    if wire in (_I32, _I64):
        return (4 if wire == _I32 else 8), at
    raise WireError(f"a field of wire type {wire}")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise WireError("an end in the middle of a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, at
    raise WireError("a number of more than 64 bits")


def append_field(out: bytearray, number: int, wire: int, value: Value | bytes) -> None:
    """Write one field: the inverse of `fields`."""
    _append_varint(out, number << 3 | wire)
    if isinstance(value, int):
        _append_varint(out, value)
        return
    if wire == _LEN:
        _append_varint(out, len(value))
    out += value


def _append_varint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


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
