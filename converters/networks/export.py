"""Turn Torch modules into a gate: weights for chains of ReLU layers, else the bytes of one gate.onnx.

Torch's older exporter writes opset 17 by itself; the newer one needs onnxscript and begins at opset 18. The
older one traces: it follows one branch and warns about it. Then torch.export, which is symbolic, shows
whether the branch depends on the data. A module for all blocks is traced once per block with `layer` fixed.
The result is checked with onnx.checker, against the format's rules, and against Torch on random activations.
"""

from __future__ import annotations

import copy
import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesteer.bundle import GateWeights, check_gate
from edgesteer.bundle.refusal import refusal
from edgesteer_converters.extras import missing, need_onnx
from edgesteer_converters.networks.block_graph import block_graph
from edgesteer_converters.networks.merge import layers_of, merge
from edgesteer_converters.networks.relu_chain import relu_chain
from edgesteer_converters.parity import require, same_coefficients

try:
    import torch
    from torch import nn
except ImportError as error:
    raise missing("torch", "convert a module") from error

F32 = npt.NDArray[np.float32]
_REMEDY = "write it without branches on values, with linear layers and plain activations"
_TOKENS = 5  # rows of the trace: unlike any size in a network
_ROWS = 16


def export_gate(modules: Any, layers: Sequence[int], n_embd: int, where: str = "gate") -> GateWeights | bytes:
    """The gate of these modules.

    Args:
        modules: block -> nn.Module, each activation float32 [tokens, n_embd] -> coefficient [tokens] or
            [tokens, 1]; or one module for all blocks, which may take the block as a second argument.
        layers: the blocks.
        n_embd: width of the residual stream.
    Raises:
        BundleError: no module for a block, blocks of unequal architecture, control flow, an operation outside
            the format, NaN, a result of another shape, or ONNX Runtime disagrees with Torch.
        MissingExtra: torch or onnx is not installed.
    """
    blocks = torch_blocks(modules, layers, n_embd, where)
    graphs = {n: block_graph(_trace(block), block.where) for n, block in blocks.items()}
    chains = {n: relu_chain(graph) for n, graph in graphs.items()}
    weights = {n: chain for n, chain in chains.items() if chain is not None}
    gate = weights if len(weights) == len(graphs) else _merged(graphs, blocks, n_embd)
    rows = np.random.default_rng(0).standard_normal((_ROWS, n_embd)).astype(np.float32)
    require(
        same_coefficients(lambda n, h: blocks[n].coefficients(h), gate, dict.fromkeys(blocks, rows)), where
    )
    return gate


def torch_blocks(modules: Any, layers: Sequence[int], n_embd: int, where: str = "gate") -> dict[int, Block]:
    """Block -> its module, as the network of that block alone."""
    chosen = dict(modules) if isinstance(modules, Mapping) else dict.fromkeys(layers, modules)
    if not layers or sorted(chosen) != sorted(layers):
        found = f"modules for the blocks {sorted(chosen)}, directions for {sorted(layers)}"
        raise refusal(
            where, found, "a module and a direction for every block", "pass both for the same blocks"
        )
    return {n: Block(chosen[n], n, n_embd, where) for n in sorted(chosen)}


def _merged(graphs: Mapping[int, Any], blocks: Mapping[int, Block], n_embd: int) -> bytes:
    shapes = {block.flat for block in blocks.values()}
    if len(shapes) > 1:
        raise refusal(
            "gate", "results [tokens] and [tokens, 1]", "one shape in all blocks", "correct the networks"
        )
    gate = merge(graphs, n_embd, flat=shapes.pop())
    need_onnx().checker.check_model(gate, full_check=True)
    check_gate(gate, layers_of(gate), n_embd, "0" * 64, "gate")
    return gate


class Block(nn.Module):  # type: ignore[misc]
    """A module as the network of one block: activation -> coefficient, [tokens] or [tokens, 1]."""

    def __init__(self, module: Any, layer: int, n_embd: int, where: str = "gate") -> None:
        super().__init__()
        self.where, self.n_embd = f"{where}, block {layer}", n_embd
        self.module = _own(module, self.where)
        self.layer = self._layer_argument(layer)
        self.flat = self._shape() == (_TOKENS,)

    def train(self, mode: bool = True) -> Block:
        return self  # `_own` has set evaluation mode, and an exported program refuses to change its mode

    def forward(self, activation: torch.Tensor) -> Any:
        return self.module(activation, *self.layer)

    def coefficients(self, activation: F32) -> F32:
        """Torch's coefficients [rows] for activations [rows, n_embd]."""
        with torch.no_grad():
            out = self(torch.from_numpy(np.ascontiguousarray(activation, np.float32)))
        values: F32 = out.reshape(len(activation)).numpy()
        return values

    def sample(self) -> torch.Tensor:
        return torch.randn(_TOKENS, self.n_embd, generator=torch.Generator().manual_seed(0))

    def _layer_argument(self, layer: int) -> tuple[Any, ...]:
        """The block, an int or an int64 scalar, as arguments for the module; () if it takes none."""
        if not _takes_layer(self.module):
            return ()
        try:
            with torch.no_grad():
                self.module(self.sample(), layer)
        except (TypeError, RuntimeError, AttributeError, NotImplementedError):
            return (torch.tensor(layer),)
        return (layer,)

    def _shape(self) -> tuple[int, ...]:
        expected = f"float32 [{_TOKENS}] or [{_TOKENS}, 1] for activations [{_TOKENS}, {self.n_embd}]"
        try:
            with torch.no_grad():
                out = self(self.sample())
        except Exception as error:  # whatever a user's module raises
            raise refusal(self.where, _first_line(error), expected, "correct the network") from None
        if not isinstance(out, torch.Tensor) or out.dtype != torch.float32:
            found = f"a result of {getattr(out, 'dtype', type(out).__name__)}"
            raise refusal(self.where, found, expected, "correct the network")
        if tuple(out.shape) not in ((_TOKENS,), (_TOKENS, 1)):
            raise refusal(self.where, f"a result {list(out.shape)}", expected, "end in width 1")
        return tuple(out.shape)


def _own(module: Any, where: str) -> Any:
    """A float32 copy on the CPU in evaluation mode; the user's module stays as it is."""
    if isinstance(module, torch.export.ExportedProgram):
        module = module.module(check_guards=False)
    if isinstance(module, torch.jit.ScriptModule):
        expected = "an nn.Module or a torch.export program"
        raise refusal(where, "a TorchScript module", expected, "pass the module that it was made of")
    if not isinstance(module, nn.Module):
        raise refusal(where, f"a {type(module).__name__}", "an nn.Module", "pass the module itself")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, on copying an exported program
        module = copy.deepcopy(module).to("cpu", torch.float32)
    try:
        return module.eval()
    except NotImplementedError:  # an exported program's module cannot change its mode
        return module


def _takes_layer(module: Any) -> bool:
    """Whether `forward` takes a block besides the activation."""
    if isinstance(module, torch.fx.GraphModule):
        return len([node for node in module.graph.nodes if node.op == "placeholder"]) > 1
    given = list(inspect.signature(module.forward).parameters.values())
    plain = [p for p in given if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return any(bool(p.default is p.empty) or p.name == "layer" for p in plain[1:])


def _trace(block: Block) -> Any:
    """The onnx.ModelProto of a block's network, opset 17.

    Raises:
        BundleError: the network branches on values, or has an operation that ONNX cannot express.
    """
    onnx, buffer = need_onnx(), io.BytesIO()
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        try:
            torch.onnx.export(
                block, (block.sample(),), buffer, opset_version=17, dynamo=False, verbose=False,
                input_names=["activation"], output_names=["coefficient"],
                dynamic_axes={"activation": {0: "tokens"}, "coefficient": {0: "tokens"}},
            )  # fmt: skip
        except Exception as error:  # the exporter's errors share no base
            raise refusal(
                block.where, _first_line(error), "a network that torch.onnx can write", _REMEDY
            ) from None
    hidden = [str(w.message) for w in caught if issubclass(w.category, torch.jit.TracerWarning)]
    if hidden:
        _check_branches(block, hidden[0])
    return onnx.load_from_string(buffer.getvalue())


def _check_branches(block: Block, warning: str) -> None:
    """Refuse a network whose Python code branches on values or on the number of tokens."""
    tokens = torch.export.Dim("tokens", min=2, max=2**20)
    try:
        with _silence():
            torch.export.export(block, (block.sample(),), dynamic_shapes=({0: tokens},), strict=False)
    except Exception:  # torch.export's errors share no base
        found = "control flow that depends on values" if "Python" in warning else _first_line(warning)
        raise refusal(block.where, found, "the same steps for all activations", _REMEDY) from None


@contextmanager
def _silence() -> Iterator[None]:
    """Suppress the graph that torch.export prints when it fails; the refusal needs one line."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        before, logging.root.manager.disable = logging.root.manager.disable, logging.CRITICAL
        try:
            yield
        finally:
            logging.root.manager.disable = before


def _first_line(error: object) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kind = f"{type(error).__name__}: " if isinstance(error, Exception) else ""
    return f"{kind}{lines[0] if lines else 'no message'}"
