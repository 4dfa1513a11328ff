"""Knows how modules become a gate: weights where they are chains of ReLU layers, else the bytes of one gate.onnx.

In: an nn.Module per block, or one for all blocks. Out: GateWeights or bytes, checked with onnx.checker, against the
format's rules, and against Torch on random activations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgesteer.bundle import GateWeights, check_gate
from edgesteer.bundle.refusal import refusal
from edgesteer_converters.extras import need_onnx
from edgesteer_converters.extras import need_torch as need_torch
from edgesteer_converters.networks.block_graph import block_graph
from edgesteer_converters.networks.merge import layers_of, merge
from edgesteer_converters.networks.relu_chain import relu_chain
from edgesteer_converters.parity import require, same_coefficients

if TYPE_CHECKING:
    from edgesteer_converters.networks.trace import Block

_ROWS = 16


def export_gate(modules: Any, layers: Sequence[int], n_embd: int, where: str = "gate") -> GateWeights | bytes:
    """The gate of these modules.

    Args:
        modules: block -> nn.Module, each activation float32 [tokens, n_embd] -> coefficient [tokens] or [tokens, 1];
            or one module for all blocks, which may take the block as a second argument.
        layers: the blocks.
        n_embd: width of the residual stream.
    Raises:
        BundleError: no module for a block, blocks of unequal architecture, control flow, an operation outside the
            format, NaN, a result of another shape, or ONNX Runtime disagrees with Torch.
        MissingExtra: torch or onnx is not installed.
    """
    blocks = torch_blocks(modules, layers, n_embd, where)
    from edgesteer_converters.networks.trace import trace

    graphs = {n: block_graph(trace(block), block.where) for n, block in blocks.items()}
    chains = {n: relu_chain(graph) for n, graph in graphs.items()}
    weights = {n: chain for n, chain in chains.items() if chain is not None}
    gate = weights if len(weights) == len(graphs) else _merged(graphs, blocks, n_embd)
    rows = np.random.default_rng(0).standard_normal((_ROWS, n_embd)).astype(np.float32)
    asked = {n: block.coefficients for n, block in blocks.items()}
    require(same_coefficients(asked, gate, dict.fromkeys(blocks, rows)), where)
    return gate


def torch_blocks(modules: Any, layers: Sequence[int], n_embd: int, where: str = "gate") -> dict[int, Block]:
    """Block -> its module as a network of that block alone."""
    need_torch("convert a module")
    from edgesteer_converters.networks.trace import Block

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
