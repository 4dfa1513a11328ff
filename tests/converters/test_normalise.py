"""Mean coefficient 1, and the same steering before and after."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgesteer.bundle import check_gate
from edgesteer.errors import BundleError
from edgesteer_converters.artifact import Artifact
from edgesteer_converters.networks.merge import layers_of
from edgesteer_converters.networks.normalise import mean_coefficients, normalise
from edgesteer_converters.networks.psr import from_modules
from edgesteer_converters.parity import coefficients_of
from tests.converters.torch_gates import BLOCKS, WIDTH, activations, directions, networks, relu_networks


def _with_bias(modules: dict[int, nn.Module], bias: float) -> dict[int, nn.Module]:
    for module in modules.values():
        module[2].bias.data.fill_(bias)  # type: ignore[index, union-attr]
    return modules


class Flat(nn.Module):
    """Gives [tokens], so that its graph does not end in a Squeeze."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(h @ self.weight)


KINDS: dict[str, Any] = {
    "relu": lambda: _with_bias(relu_networks(), 0.2),
    "tanh": lambda: _with_bias(networks(nn.Tanh(), last=nn.Sigmoid()), 0.2),
    "negative": lambda: _with_bias(networks(nn.Tanh()), -2.0),
    "flat": lambda: {n: Flat() for n in BLOCKS},
}


@pytest.mark.parametrize("kind", KINDS)
def test_normalising_changes_the_mean_and_nothing_that_steers(kind: str) -> None:
    before, rows = from_modules(KINDS[kind](), directions()), activations()
    after = normalise(before, rows)
    assert before.gate is not None
    assert after.gate is not None
    assert isinstance(before.gate, bytes) == isinstance(after.gate, bytes)
    for n in BLOCKS:
        assert abs(coefficients_of(after.gate)(n, rows[n]).astype(np.float64).mean() - 1) < 1e-5
        unseen = activations(seed=9)[n]
        old, new = (coefficients_of(a.gate)(n, unseen)[:, None] * a.directions[n] for a in (before, after))  # type: ignore[arg-type]
        assert np.abs(old - new).max() <= 4e-6 * np.abs(old).max()
    if isinstance(after.gate, bytes):
        check_gate(after.gate, BLOCKS, WIDTH, "0" * 64)


@pytest.mark.parametrize("kind", KINDS)
def test_normalising_twice_is_normalising_once(kind: str) -> None:
    rows = activations()
    once = normalise(from_modules(KINDS[kind](), directions()), rows)
    twice = normalise(once, rows)
    for n in BLOCKS:
        assert np.allclose(once.directions[n], twice.directions[n], rtol=1e-5)


@pytest.mark.parametrize("blocks", [BLOCKS, (2, 4)])
def test_a_block_that_never_opens_is_dropped(blocks: tuple[int, ...]) -> None:
    modules = _with_bias(relu_networks(blocks=blocks), 0.2)
    modules[2][2].bias.data.fill_(-1e3)  # type: ignore[index, union-attr]
    after = normalise(from_modules(modules, directions(blocks=blocks)), activations(blocks=blocks))
    left = [n for n in blocks if n != 2]
    assert list(after.directions) == list(after.gate) == left  # type: ignore[arg-type]
    assert after.facts["dropped_blocks"] == [2]


@pytest.mark.parametrize("blocks", [BLOCKS, (2, 4)])
def test_a_dropped_block_leaves_a_graph_that_serves_the_others(blocks: tuple[int, ...]) -> None:
    modules = networks(nn.GELU(), blocks=blocks)
    rows = activations(blocks=blocks)
    rows[2] = np.zeros_like(rows[2])
    for parameter in (modules[2][0].bias, modules[2][2].bias):  # type: ignore[index]
        parameter.data.zero_()  # gelu(0) = 0
    before = from_modules(modules, directions(blocks=blocks))
    after = normalise(before, rows)
    left = [n for n in blocks if n != 2]
    assert isinstance(after.gate, bytes)
    assert layers_of(after.gate) == list(after.directions) == left
    check_gate(after.gate, left, WIDTH, "0" * 64)
    assert len(after.gate) < len(before.gate) + 400  # type: ignore[arg-type]
    for n in left:
        old, new = (coefficients_of(a.gate)(n, rows[n])[:, None] * a.directions[n] for a in (before, after))  # type: ignore[arg-type]
        assert np.abs(old - new).max() <= 4e-6 * np.abs(old).max()


def test_coefficients_that_cancel_count_as_mean_zero() -> None:
    module = nn.Sequential(nn.Linear(WIDTH, 1, bias=False), nn.Tanh())
    rows = activations(blocks=(1, 2))
    rows = {1: np.concatenate([rows[1], -rows[1]]), 2: rows[2]}
    artifact = from_modules(module, directions(blocks=(1, 2)))
    assert mean_coefficients(artifact, rows)[1] == 0
    assert list(normalise(artifact, rows).directions) == [2]


def test_nothing_left_is_an_error() -> None:
    artifact = from_modules(_with_bias(relu_networks(), -1e3), directions())
    with pytest.raises(BundleError, match="0 in every block"):
        normalise(artifact, activations())


@pytest.mark.parametrize(
    "rows",
    [
        {},
        activations(blocks=(1, 2)),
        activations(rows=0),
        activations(width=WIDTH + 1),
        {n: np.ones(WIDTH, np.float32) for n in BLOCKS},
    ],
)
def test_activations_that_do_not_fit_are_refused(rows: dict[int, Any]) -> None:
    for modules in (relu_networks(), networks(nn.Tanh())):
        with pytest.raises(BundleError, match=r"activations: found .* at block"):
            normalise(from_modules(modules, directions()), rows)


@pytest.mark.parametrize("modules", [relu_networks(), networks(nn.Tanh())])
def test_nan_among_the_activations_is_refused(modules: dict[int, nn.Module]) -> None:
    rows = activations()
    rows[2][3, 3] = np.nan
    with pytest.raises(BundleError, match="at block 2"):
        normalise(from_modules(modules, directions()), rows)


def test_a_constant_has_nothing_to_normalise() -> None:
    artifact = Artifact("psr", directions())
    assert normalise(artifact, {}) is artifact
