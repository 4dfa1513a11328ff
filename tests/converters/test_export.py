"""Modules become gates that ONNX Runtime runs as Torch does, by the format's rules, one block's work a
call."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgesteer.bundle import build_gate, check_gate, fold_layer, probe_gate
from edgesteer.errors import BundleError
from edgesteer_converters.networks.export import export_gate
from edgesteer_converters.networks.merge import layers_of, stamp
from edgesteer_converters.parity import coefficients_of
from tests.converters.torch_gates import BLOCKS, WIDTH, activations, networks, relu_networks, torch_says


class Rowwise(nn.Module):
    """Operations that a gate has no operator for, but can say otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.weight = nn.Parameter(torch.randn(WIDTH)), nn.Parameter(torch.randn(WIDTH))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        assert h.shape[-1] == WIDTH  # a branch, but not on values
        return torch.tanh(-((h - self.mean) * self.weight).sum(-1) - h[:, 0])


class ByBlock(nn.Module):
    """One network for all blocks, with a table of its own."""

    def __init__(self, embedding: bool) -> None:
        super().__init__()
        self.shared = nn.Linear(WIDTH, WIDTH)
        self.table = nn.Embedding(5, WIDTH) if embedding else nn.Parameter(torch.randn(5, WIDTH))

    def forward(self, h: torch.Tensor, layer: Any) -> torch.Tensor:
        row = self.table(layer) if isinstance(self.table, nn.Embedding) else self.table[layer]
        return torch.sigmoid(nn.functional.silu(self.shared(h)) @ row)


class Branching(nn.Module):
    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return h[:, 0] if h.sum() > 0 else h[:, 1]


class Rows(nn.Module):
    """Says something else for another number of tokens."""

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return torch.tanh(h[:, 0]) if h.shape[0] > 5 else h[:, 1]


KINDS = {
    "tanh": networks(nn.Tanh(), last=nn.Sigmoid()),
    "gelu": networks(nn.GELU(), nn.Dropout(0.5)),
    "gelu_tanh": networks(nn.GELU("tanh"), last=nn.Flatten(1)),
    "leaky": networks(nn.ReLU(), last=nn.LeakyReLU(0.2)),
    "silu": networks(nn.SiLU()),
    "rowwise": {n: Rowwise() for n in BLOCKS},
    "one layer": {n: nn.Sequential(nn.Linear(WIDTH, 1, bias=False), nn.Tanh()) for n in BLOCKS},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_gate_says_what_torch_says(kind: str) -> None:
    modules = KINDS[kind]
    gate = export_gate(modules, BLOCKS, WIDTH)
    assert isinstance(gate, bytes)
    ask, rows = coefficients_of(gate), activations()
    for n in BLOCKS:
        for some in (rows[n], rows[n][:1]):
            assert np.abs(ask(n, some) - torch_says(modules[n], some)).max() < 1e-5
    assert not np.allclose(ask(1, rows[1]), ask(2, rows[1]))  # each block by its own weights


@pytest.mark.parametrize("kind", KINDS)
def test_a_gate_keeps_the_rules_of_the_format(kind: str) -> None:
    gate = export_gate(KINDS[kind], BLOCKS, WIDTH)
    assert isinstance(gate, bytes)
    stamped = stamp(gate, BLOCKS, "ab" * 32)
    check_gate(stamped, BLOCKS, WIDTH, "ab" * 32)
    onnx.checker.check_model(stamped, full_check=True)
    ask = coefficients_of(stamped)
    probe_gate(lambda h, layer: ask(layer, h), BLOCKS, WIDTH)
    for n in BLOCKS:  # as the runtime folds it
        assert np.abs(ask(n, activations()[n]) - _folded(stamped, n, activations()[n])).max() < 1e-6


def _folded(gate: bytes, layer: int, rows: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(fold_layer(gate, layer).model, providers=["CPUExecutionProvider"])
    return session.run(None, {"activation": rows})[0].reshape(-1)


def test_the_same_modules_give_the_same_bytes() -> None:
    assert export_gate(KINDS["gelu"], BLOCKS, WIDTH) == export_gate(KINDS["gelu"], BLOCKS, WIDTH)


def test_modules_are_left_as_they_were() -> None:
    module = nn.Sequential(nn.Linear(WIDTH, 1), nn.Dropout(0.5)).to(torch.float64).train()
    before = copy.deepcopy(module.state_dict())
    export_gate(module, [1], WIDTH)
    assert module.training
    assert all(torch.equal(before[k], v) and v.dtype == torch.float64 for k, v in module.state_dict().items())


def test_many_blocks_cost_no_more_nodes_than_two() -> None:
    count = [
        len(
            onnx.load_from_string(
                export_gate(networks(nn.Tanh(), blocks=range(1, n)), range(1, n), WIDTH)
            ).graph.node
        )
        for n in (3, 9)
    ]
    assert count[0] == count[1]


@pytest.mark.parametrize("bias", [True, False])
def test_relu_chains_stay_weights_that_the_builder_takes(bias: bool) -> None:
    modules = {
        n: nn.Sequential(nn.Linear(WIDTH, 4, bias=bias), nn.ReLU(), nn.Linear(4, 1), nn.ReLU(), nn.Flatten(1))
        for n in BLOCKS
    }
    gate = export_gate(modules, BLOCKS, WIDTH)
    assert not isinstance(gate, bytes)
    built, rows = coefficients_of(build_gate(gate, "0" * 64)), activations()
    for n in BLOCKS:
        assert np.abs(built(n, rows[n]) - torch_says(modules[n], rows[n])).max() < 1e-5


class Squeezed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return torch.relu(h @ self.weight - 0.25)


@pytest.mark.parametrize("module", [Squeezed(), nn.Sequential(nn.Linear(WIDTH, 1), nn.Flatten(1), nn.ReLU())])
def test_a_relu_chain_is_recognised_however_it_is_written(module: nn.Module) -> None:
    gate = export_gate(module, [2], WIDTH)
    assert not isinstance(gate, bytes)
    assert (
        np.abs(coefficients_of(gate)(2, activations()[2]) - torch_says(module, activations()[2])).max() < 1e-5
    )


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Linear(WIDTH, 1)),  # no ReLU at its end
        nn.Sequential(nn.Linear(WIDTH, 1), nn.ReLU(), nn.Linear(1, 1)),
        nn.Sequential(nn.Linear(WIDTH, 3), nn.ReLU(), nn.Linear(3, 1)),
        nn.Sequential(nn.ReLU(), nn.Linear(WIDTH, 1), nn.ReLU()),  # ReLU of the activation itself
        nn.Sequential(nn.Linear(WIDTH, 3), nn.LeakyReLU(), nn.Linear(3, 1), nn.ReLU()),
    ],
)
def test_what_is_no_relu_chain_is_not_taken_for_one(module: nn.Module) -> None:
    gate = export_gate(module, [1], WIDTH)
    assert isinstance(gate, bytes)
    assert (
        np.abs(coefficients_of(gate)(1, activations()[1]) - torch_says(module, activations()[1])).max() < 1e-5
    )


@pytest.mark.parametrize("embedding", [False, True])
@pytest.mark.parametrize("form", ["module", "program"])
def test_one_module_for_all_blocks_is_asked_for_each(embedding: bool, form: str) -> None:
    module = ByBlock(embedding).eval()
    given: Any = module
    if form == "program":
        tokens = {0: torch.export.Dim("tokens")}
        given = torch.export.export(
            module, (torch.randn(3, WIDTH), torch.tensor(1)), dynamic_shapes=(tokens, {})
        )
    gate = export_gate(given, BLOCKS, WIDTH)
    assert isinstance(gate, bytes)
    assert layers_of(gate) == list(BLOCKS)
    for n, rows in activations().items():
        with torch.no_grad():
            expected = module(torch.from_numpy(rows), torch.tensor(n)).numpy()
        assert np.abs(coefficients_of(gate)(n, rows) - expected).max() < 1e-5


def test_a_module_that_takes_no_block_serves_all_alike() -> None:
    module = nn.Sequential(nn.Linear(WIDTH, 1), nn.Tanh())
    gate = export_gate(module, BLOCKS, WIDTH)
    assert isinstance(gate, bytes)
    check_gate(gate, BLOCKS, WIDTH, "0" * 64)
    assert np.array_equal(
        coefficients_of(gate)(1, activations()[1]), coefficients_of(gate)(4, activations()[1])
    )


def test_control_flow_on_values_is_refused() -> None:
    with pytest.raises(BundleError, match="control flow that depends on values") as refused:
        export_gate(Branching(), [1], WIDTH)
    assert "\n" not in str(refused.value)


def test_a_branch_on_the_number_of_tokens_is_refused() -> None:
    with pytest.raises(BundleError, match="control flow"):
        export_gate(Rows(), [1], WIDTH)


def _nan() -> nn.Module:
    module = nn.Sequential(nn.Linear(WIDTH, 1), nn.Tanh())
    module[0].weight.data[0, 3] = float("nan")
    return module


class Constant(nn.Module):
    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return torch.ones(h.shape[0])


class Doubled(nn.Module):
    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return h[:, 0].double()


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (nn.Linear(WIDTH + 1, 1), "mat1 and mat2"),
        (nn.Linear(WIDTH, 2), r"a result \[5, 2\]; expected float32 \[5\]"),
        (nn.Sequential(nn.Linear(WIDTH, 1), nn.Softplus()), "operator 'Softplus'"),
        (nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 1)), "operator"),
        (_nan(), "NaN"),
        (Doubled(), "float64"),
        ({1: nn.Linear(WIDTH, 1)}, r"modules for the blocks \[1\], directions for \[1, 2\]"),
        ({1: nn.Linear(WIDTH, 1), 2: nn.Linear(WIDTH, 1), 3: nn.Linear(WIDTH, 1)}, "a module and a direction"),
        ({1: nn.Linear(WIDTH, 1), 2: 7}, "found a int; expected an nn.Module"),
        ({1: nn.Sequential(nn.Linear(WIDTH, 1), nn.Tanh()), 2: nn.Sequential(nn.Linear(WIDTH, 1), nn.Sigmoid())}, "one architecture"),
        ({1: nn.Sequential(nn.Linear(WIDTH, 1), nn.LeakyReLU(0.1)), 2: nn.Sequential(nn.Linear(WIDTH, 1), nn.LeakyReLU(0.2))}, "one architecture"),
        ({1: networks(nn.Tanh(), hidden=3)[1], 2: networks(nn.Tanh(), hidden=4)[1]}, "one architecture"),
        ({1: relu_networks()[1], 2: networks(nn.Tanh())[2]}, "one architecture"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_gate_is_refused_in_one_line(modules: Any, message: str) -> None:
    with pytest.raises(BundleError, match=message) as refused:
        export_gate(modules, [1, 2], WIDTH)
    assert "\n" not in str(refused.value)


def test_a_network_that_ignores_the_activation_is_refused() -> None:
    with pytest.raises(BundleError):
        export_gate(Constant(), [1], WIDTH)


class Doubled(nn.Module):
    """relu(z + z), and z W + z: the signal where a chain of layers has a constant."""

    def __init__(self, late: bool) -> None:
        super().__init__()
        self.late, self.first = late, nn.Linear(WIDTH, 1)
        self.square = nn.Parameter(torch.randn(WIDTH, WIDTH))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        if self.late:
            z = self.first(h)
            return torch.relu(z + z)
        return torch.relu(self.first(torch.relu(torch.addmm(h, h, self.square))))


@pytest.mark.parametrize("late", [True, False])
def test_a_signal_that_meets_itself_is_no_chain_of_layers(late: bool) -> None:
    torch.manual_seed(0)
    module = Doubled(late).eval()
    gate = export_gate(module, [1], WIDTH)
    assert isinstance(gate, bytes)
    rows = activations()[1]
    assert np.abs(coefficients_of(gate)(1, rows) - torch_says(module, rows)).max() < 1e-5
