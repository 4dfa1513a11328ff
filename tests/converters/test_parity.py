"""Parity is measured per block, against Torch, and a miss is an error with figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgesteer.errors import BundleError
from edgesteer_converters.networks.export import export_gate, torch_blocks
from edgesteer_converters.parity import MAX_ABS, Parity, require, same_coefficients
from tests.converters.torch_gates import BLOCKS, WIDTH, activations, networks, relu_networks


def parity(network: Any, gate: Any, rows: Any) -> list[Parity]:
    blocks = torch_blocks(network, BLOCKS, WIDTH)
    found = same_coefficients(lambda n, h: blocks[n].coefficients(h), gate, rows)
    require(found, "gate")
    return found


@pytest.mark.parametrize(
    "modules", [relu_networks(), networks(nn.Tanh()), nn.Sequential(nn.Linear(WIDTH, 1), nn.Tanh())]
)
def test_a_gate_agrees_with_the_modules_it_was_made_of(modules: Any) -> None:
    gate = export_gate(modules, BLOCKS, WIDTH)
    found = parity(modules, gate, activations())
    assert [p.block for p in found] == list(BLOCKS)
    assert all(p.n == 40 and p.mean_abs <= p.max_abs <= MAX_ABS for p in found)


@pytest.mark.parametrize("modules", [relu_networks, lambda: networks(nn.Tanh())])
def test_a_difference_is_found_in_its_block(modules: Any) -> None:
    before, after = modules(), modules()
    gate = export_gate(before, BLOCKS, WIDTH)
    with torch.no_grad():
        after[2][2].bias += 0.5
        after[2][2].weight += 0.1
    with pytest.raises(
        BundleError, match=r"differ by up to \S+ \(mean \S+, 40 tokens, .*at block 2; expected at most 1e-05"
    ):
        parity(after, gate, activations())
    assert parity(after, gate, {1: activations()[1]})


def test_large_coefficients_are_judged_in_proportion() -> None:
    modules = networks(nn.Tanh())
    for module in modules.values():
        module[2].weight.data *= 3e4  # type: ignore[index, union-attr, operator]
    found = parity(modules, export_gate(modules, BLOCKS, WIDTH), activations())
    assert max(p.size for p in found) > 1e4


def test_nan_is_a_difference() -> None:
    rows = activations()
    rows[1][0, 0] = np.nan
    modules = networks(nn.Tanh())
    with pytest.raises(BundleError, match="differ by up to nan"):
        parity(modules, export_gate(modules, BLOCKS, WIDTH), rows)


def test_nothing_to_compare_is_refused() -> None:
    modules = networks(nn.Tanh())
    gate = export_gate(modules, BLOCKS, WIDTH)
    for rows in ({}, activations(rows=0)):
        with pytest.raises(BundleError, match="no activations"):
            parity(modules, gate, rows)
