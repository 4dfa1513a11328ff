"""One block's network as a small graph: allowed operators, constants, one signal from start to end.

In:  an ONNX model with the input `activation` and one output.
Out: a BlockGraph with canonical names, so that two blocks of equal architecture differ in their constants
    alone.

Nodes that depend on constants alone are computed here. Nodes that allowed operators can express are rewritten
(Sub, Neg, a sum over the last axis); other forbidden ones are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgesteer.bundle.onnx_rules import OPERATORS
from edgesteer.bundle.refusal import refusal

Array = npt.NDArray[Any]
INPUT = "activation"
_WHOLE = np.iinfo(np.int64).max
_SAME = ("Identity", "Dropout")
_BRANCHES = ("If", "Loop", "Scan")


class Node(NamedTuple):
    operator: str
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BlockGraph:
    """A block's network. nodes: in the order of evaluation. constants: name -> value, a name for each use.

    output: the name of the last node's output.
    """

    nodes: tuple[Node, ...]
    constants: dict[str, Array]
    output: str

    def architecture(self) -> tuple[Any, ...]:
        """A value that is equal for two blocks if they differ in floating-point constants alone."""
        fixed = {
            name: (str(value.dtype), value.shape, () if value.dtype.kind == "f" else tuple(value.ravel()))
            for name, value in self.constants.items()
        }
        steps = tuple(
            (n.operator, n.inputs, n.output, repr(sorted(n.attributes.items()))) for n in self.nodes
        )
        return steps, tuple(sorted(fixed.items())), self.output


def block_graph(model: Any, where: str) -> BlockGraph:
    """The graph of an exported model.

    Args:
        model: an onnx.ModelProto, opset 17.
        where: how messages name the network.
    Raises:
        BundleError: an operator that a gate may not use, a NaN constant, or an unused activation.
    """
    import onnx
    from onnx import numpy_helper

    if any(node.op_type in _BRANCHES for node in model.graph.node):
        raise refusal(where, "control flow that depends on values", "the same steps for all activations",
                      "write it without branches and loops")  # fmt: skip
    model = onnx.shape_inference.infer_shapes(model)
    work = _Work(where, _shapes(model.graph))
    for tensor in model.graph.initializer:
        work.constants[tensor.name] = numpy_helper.to_array(tensor)
    for node in model.graph.node:
        work.take(node)
    return work.finish(model.graph.output[0].name)


def _shapes(graph: Any) -> dict[str, tuple[int, ...]]:
    """Name -> dimensions, with 0 for one that is not fixed."""
    known = [*graph.value_info, *graph.input, *graph.output]
    return {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in known}


class _Work:
    """Takes the exporter's nodes one by one, folds constant ones and keeps the others."""

    def __init__(self, where: str, shapes: dict[str, tuple[int, ...]]) -> None:
        self.where, self.shapes = where, shapes
        self.constants: dict[str, Array] = {}
        self.same: dict[str, str] = {}
        self.nodes: list[Node] = []

    def take(self, proto: Any) -> None:
        import onnx

        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
        inputs = tuple(self.same.get(name, name) for name in proto.input)
        if proto.op_type == "Constant":
            self.constants[proto.output[0]] = _constant(attributes)
        elif inputs and all(name in self.constants or not name for name in inputs):
            self.constants[proto.output[0]] = self._folded(proto, inputs)
        elif proto.op_type in _SAME or self._changes_nothing(proto.op_type, inputs, attributes):
            self.same[proto.output[0]] = inputs[0]
        else:
            self._keep(Node(proto.op_type, inputs, proto.output[0], attributes))

    def _folded(self, proto: Any, inputs: Sequence[str]) -> Array:
        from onnx.reference import ReferenceEvaluator

        feeds = {own: self.constants[name] for own, name in zip(proto.input, inputs, strict=True) if name}
        try:
            return np.asarray(ReferenceEvaluator(proto).run(None, feeds)[0])
        except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            raise self.refuse(f"operator '{proto.op_type}' on constants ({error})") from None

    def _changes_nothing(self, operator: str, inputs: Sequence[str], attributes: dict[str, Any]) -> bool:
        """Whether it is a Flatten of a flat value, or a Slice of everything, as exporters write `h[:, 0]`."""
        if operator == "Flatten":
            return attributes.get("axis", 1) == 1 and len(self.shapes.get(inputs[0], ())) == 2
        if operator != "Slice" or not all(name in self.constants for name in inputs[1:]):
            return False
        starts, ends, _, steps = [*(self.constants[name] for name in inputs[1:]), np.array([1])][:4]
        return bool((starts == 0).all() and (ends == _WHOLE).all() and (steps == 1).all())

    def _keep(self, node: Node) -> None:
        rewritten = self._rewritten(node)
        for each in rewritten:
            if each.operator not in OPERATORS or any(hasattr(v, "node") for v in each.attributes.values()):
                raise self.refuse(f"operator '{each.operator}'")
            self.nodes.append(each)

    def refuse(self, found: str) -> Exception:
        remedy = (
            "write the network with linear layers, ReLU, LeakyReLU, Sigmoid, Tanh or GELU, ending in width 1"
        )
        return refusal(self.where, found, f"one of {', '.join(sorted(OPERATORS))}", remedy)

    def _rewritten(self, node: Node) -> list[Node]:
        """The node in allowed operators; [node] if it already is one."""
        if node.operator == "Neg":
            return [Node("Mul", (node.inputs[0], self._new(node, np.array(-1, np.float32))), node.output, {})]
        if node.operator == "Sub":
            return self._difference(node)
        if node.operator == "ReduceSum":
            return self._sum(node)
        return [node]

    def _new(self, node: Node, value: Array) -> str:
        name = f"{node.output}/constant"
        self.constants[name] = value
        return name

    def _difference(self, node: Node) -> list[Node]:
        left, right = node.inputs
        if right in self.constants:
            return [Node("Add", (left, self._new(node, -self.constants[right])), node.output, {})]
        minus = f"{node.output}/minus"
        minus_one = self._new(node, np.array(-1, np.float32))
        return [Node("Mul", (right, minus_one), minus, {}), Node("Add", (left, minus), node.output, {})]

    def _sum(self, node: Node) -> list[Node]:
        """A sum over the last of two axes is a product with ones."""
        shape, axes = self.shapes.get(node.inputs[0], ()), self.constants.get((*node.inputs, "", "")[1])
        if len(shape) != 2 or not shape[1] or axes is None or axes.ravel().tolist() not in ([-1], [1]):
            return [node]
        kept = (1,) if node.attributes.get("keepdims", 1) else ()
        ones = self._new(node, np.ones((shape[1], *kept), np.float32))
        return [Node("MatMul", (node.inputs[0], ones), node.output, {})]

    def finish(self, output: str) -> BlockGraph:
        output = self.same.get(output, output)
        needed, used = {output}, []
        for node in reversed(self.nodes):
            if node.output in needed:
                needed |= set(node.inputs)
                used.append(node)
        if INPUT not in needed:
            raise refusal(self.where, "a coefficient that does not read the activation", "a network of h",
                          "convert a constant as a vector, without a gate")  # fmt: skip
        graph = _canonical(used[::-1], self.constants, output)
        for name, value in graph.constants.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise refusal(
                    self.where, f"NaN or infinity in constant {name}", "finite weights", "train again"
                )
        return graph


def _constant(attributes: dict[str, Any]) -> Array:
    from onnx import TensorProto, numpy_helper

    (value,) = attributes.values()
    return np.asarray(numpy_helper.to_array(value) if isinstance(value, TensorProto) else value)


def _canonical(nodes: Sequence[Node], constants: dict[str, Array], output: str) -> BlockGraph:
    """Rename values to v0, v1, ..., and give each use a constant of its own; exporters share equal ones."""
    names, kept = {INPUT: INPUT, "": ""}, {}
    renamed = []
    for i, node in enumerate(nodes):
        inputs = []
        for j, name in enumerate(node.inputs):
            own = names.get(name, f"c{i}.{j}")
            if name not in names:
                kept[own] = np.asarray(constants[name])
            inputs.append(own)
        names[node.output] = f"v{i}"
        renamed.append(Node(node.operator, tuple(inputs), f"v{i}", node.attributes))
    return BlockGraph(tuple(renamed), kept, names[output])
