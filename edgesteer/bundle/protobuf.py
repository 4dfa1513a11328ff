"""Knows the protobuf wire format, strictly: a schema names every field that may occur, the rest is refused.

In: bytes and a schema; out: a plain dict, or WireError. Strictness is the point: a general parser merges
repeated singular fields and skips unknown ones, so that a check could see another message than the runtime
that loads the file afterwards. Here every such ambiguity is an error.
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
    """Decode one message with those inside it. Absent fields are absent keys; a repeated field is a list.

    Raises:
        WireError: a malformed, unknown or doubled field, or one of another wire type than the schema's.
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
        return raw  # packed; nobody here asks for the values
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
