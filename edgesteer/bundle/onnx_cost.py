"""What a gate's graph would cost to run: element types and shapes, followed from node to node.

Each operator is harmless, but a file of a few KB can broadcast a row and a column into gigabytes, and ONNX
Runtime crashes when the least integer is divided by -1. Nothing is computed here: an unknown shape counts as
the largest possible one, and graphs that are wrong in other ways are left for ONNX Runtime to refuse.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from edgesteer.bundle.onnx_format import Message, WireError, packed_integers

MAX_WORK = {1: 2**24, 512: 2**27}
"""Tokens -> the most elements that all nodes together may write in one run; a product counts more, see
`_work`. A gate with 64 hidden units at a width of 576 needs a 300th of each, one with 512 at 8192 a third."""

_FLOAT, _INT64 = 1, 7
_FLOATS = (_FLOAT, 10, 11, 16)  # float32, float16, float64, bfloat16
_MAX_CONSTANT = 64  # numbers in a shape or in axes
_MAX_RANK = 16

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Value:
    """What is known of a tensor: element type, shape (or None), largest size, and small constants' values."""

    kind: int
    shape: Shape | None
    size: int
    numbers: tuple[int, ...] | None = None


def objections(graph: Message, n_embd: int) -> Iterator[tuple[str, str]]:
    """(found, expected) for values out of order or made twice, a division of integers, or too much work."""
    initializers = graph.get("initializer", [])
    if any(len(tensor.get("dims", [])) > _MAX_RANK for tensor in initializers):
        yield "an initializer of high rank", f"at most {_MAX_RANK} dimensions"
    if len({tensor.get("name", "") for tensor in initializers}) < len(initializers):
        yield "two initializers of one name", "unique names"
    for tokens, limit in MAX_WORK.items():
        values = {tensor.get("name", ""): _of_tensor(tensor) for tensor in initializers}
        values |= {"activation": _value(_FLOAT, (tokens, n_embd)), "layer": _value(_INT64, ())}
        made = {name for node in graph.get("node", []) for name in node.get("output", [])}
        work = 0
        for node in graph.get("node", []):
            yield from _in_node(node, values, made)
            result = _result(node, [values.get(name) for name in node.get("input", [])])
            work += _work(node, result, values)
            if work > limit:
                yield f"a graph that writes more than {limit} elements for {tokens} tokens", "a small network"
            if len(result.shape or ()) > _MAX_RANK:
                yield f"a result of rank {len(result.shape or ())}", f"at most {_MAX_RANK} dimensions"
            values |= dict.fromkeys(node.get("output", []), result)


def _in_node(node: Message, values: Mapping[str, _Value], made: set[str]) -> Iterator[tuple[str, str]]:
    operator, names = node.get("op_type", ""), node.get("input", [])
    if early := [name for name in names if name in made and name not in values]:
        yield f"'{early[0]}' read by {operator} before a node makes it", "nodes in the order of evaluation"
    if twice := [name for name in node.get("output", []) if name and name in values]:
        yield f"'{twice[0]}' made twice", "each value once"
    attributes = [attribute.get("name", "") for attribute in node.get("attribute", [])]
    if len(set(attributes)) < len(attributes):
        yield f"an attribute of {operator} twice", "unique attributes"
    if operator == "Div" and any(name in values and values[name].kind not in _FLOATS for name in names):
        yield "a division of integers", "of floating-point numbers"


def _work(node: Message, result: _Value, values: Mapping[str, _Value]) -> int:
    """Elements written; an element of a product counts once more per 64 terms of its sum."""
    if node.get("op_type") not in ("MatMul", "Gemm"):
        return result.size
    sizes = [values[name].size for name in node.get("input", [])[:2] if name in values]
    rows_or_columns = max(1, math.isqrt(math.prod(sizes) // max(1, result.size)))
    return result.size * (1 + rows_or_columns // 64)  # (m k)(k n) / (m n) = k squared


def _value(kind: int, shape: Shape | None, size: int | None = None) -> _Value:
    if shape is not None and min(shape, default=0) < 0:
        return _Value(kind, None, math.prod(abs(dim) for dim in shape))
    return _Value(kind, shape, math.prod(shape or ()) if size is None else size)


def _of_tensor(tensor: Message) -> _Value:
    kind, dims = tensor.get("data_type", 0), tuple(tensor.get("dims", []))
    value = _value(kind, dims)
    if kind != _INT64 or value.size > _MAX_CONSTANT or value.shape is None:
        return value
    return _Value(kind, dims, value.size, _numbers(tensor, value.size))


def _numbers(tensor: Message, count: int) -> tuple[int, ...] | None:
    """The integers of a small int64 tensor, from raw bytes or a packed field; None if not `count` of them."""
    raw, packed = tensor.get("raw_data", b""), tensor.get("int64_data", [])
    try:
        if not packed:
            return struct.unpack(f"<{count}q", raw)
        numbers = tuple(n for part in packed for n in packed_integers(part))
    except (struct.error, WireError):
        return None
    return numbers if len(numbers) == count else None


def _result(node: Message, inputs: Sequence[_Value | None]) -> _Value:
    """What is known of a node's output."""
    operator = node.get("op_type", "")
    attributes = {attribute.get("name", ""): attribute for attribute in node.get("attribute", [])}
    if operator == "Constant":
        return _constant(attributes)
    known = [value or _value(0, None, 1) for value in inputs]
    first = known[0] if known else _value(0, None, 1)
    kind = attributes["to"].get("i", 0) if operator == "Cast" and "to" in attributes else first.kind
    if operator == "DequantizeLinear":
        kind = known[1].kind if len(known) > 1 else _FLOAT
    try:
        return _value(kind, *_shape(operator, attributes, known))
    except (IndexError, TypeError, ValueError, ZeroDivisionError):
        return _value(kind, None, math.prod(max(1, value.size) for value in known))


def _constant(attributes: Mapping[str, Message]) -> _Value:
    for name, attribute in attributes.items():
        if name == "value":
            return _of_tensor(attribute.get("t", {}))
        if name == "value_ints":
            numbers = tuple(attribute.get("ints", []))
            return _Value(_INT64, (len(numbers),), len(numbers), numbers[:_MAX_CONSTANT])
        if name == "value_floats":
            return _value(_FLOAT, (sum(len(part) // 4 for part in attribute.get("floats", [])),))
    return _value(_INT64 if "value_int" in attributes else _FLOAT, ())


def _shape(operator: str, attributes: Mapping[str, Message], known: list[_Value]) -> tuple[Any, ...]:
    """(shape,), or (None, largest size) if the shape is unknown; raises if the inputs do not fit."""
    first = known[0]
    shapes = [_known(value) for value in known] if operator not in _REARRANGE else []
    if operator in ("Add", "Mul", "Div"):
        return (_broadcast(shapes[0], shapes[1]),)
    if operator == "MatMul":
        return (_matmul(shapes[0], shapes[1]),)
    if operator == "Gemm":
        a, b = (
            s[::-1] if attributes.get(t, {}).get("i", 0) else s
            for s, t in zip(shapes, ("transA", "transB"), strict=False)
        )
        return ((a[0], b[1]),)
    if operator == "Gather":
        axis = _place(attributes.get("axis", {}).get("i", 0), len(shapes[0]))
        return (shapes[0][:axis] + shapes[1] + shapes[0][axis + 1 :],)
    if operator in _REARRANGE:
        return _rearranged(operator, attributes, known), first.size
    return (first.shape, first.size)


_REARRANGE = ("Reshape", "Squeeze", "Unsqueeze")


def _known(value: _Value) -> Shape:
    if value.shape is None:
        raise ValueError
    return value.shape


def _place(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ValueError
    return axis % rank


def _broadcast(a: Shape, b: Shape) -> Shape:
    return tuple(max(pair) for pair in zip_longest(a[::-1], b[::-1], fillvalue=1))[::-1]


def _matmul(a: Shape, b: Shape) -> Shape:
    left, right = ((1, *a) if len(a) == 1 else a), ((*b, 1) if len(b) == 1 else b)
    rows = left[-2:-1] if len(a) > 1 else ()
    columns = right[-1:] if len(b) > 1 else ()
    return _broadcast(left[:-2], right[:-2]) + rows + columns


def _rearranged(operator: str, attributes: Mapping[str, Message], known: list[_Value]) -> Shape | None:
    """The shape of the same elements rearranged; None if it depends on more than constants."""
    value, numbers = known[0], known[1].numbers if len(known) > 1 else ()
    if value.shape is None or numbers is None:
        return None
    if operator == "Reshape":
        return _reshaped(value, numbers, bool(attributes.get("allowzero", {}).get("i", 0)))
    if operator == "Squeeze":
        gone = [_place(n, len(value.shape)) for n in numbers] if len(known) > 1 else None
        return tuple(
            dim for i, dim in enumerate(value.shape) if (i not in gone if gone is not None else dim != 1)
        )
    rank, shape = len(value.shape) + len(numbers), list(value.shape)
    for place in sorted(_place(n, rank) for n in numbers):
        shape.insert(place, 1)
    return tuple(shape)


def _reshaped(value: _Value, numbers: Sequence[int], zeros: bool) -> Shape | None:
    assert value.shape is not None
    dims = [value.shape[i] if n == 0 and not zeros else n for i, n in enumerate(numbers)]
    if dims.count(-1) == 1:
        dims[dims.index(-1)] = value.size // math.prod(dim for dim in dims if dim != -1)
    fits = min(dims, default=0) >= 0 and math.prod(dims) == value.size
    return tuple(dims) if fits else None
