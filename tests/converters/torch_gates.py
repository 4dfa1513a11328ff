"""Small Torch networks and activations that the tests of converted gates share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from edgesteer.bundle import ModelInfo

WIDTH = 16
BLOCKS = (1, 2, 4)
MODEL = ModelInfo("llama", "tiny", WIDTH, 6, "F32")


def networks(
    *middle: nn.Module,
    width: int = WIDTH,
    hidden: int = 5,
    last: nn.Module | None = None,
    blocks: Any = BLOCKS,
) -> dict[int, nn.Module]:
    """Linear, the given, Linear to width 1, `last`: with weights of its own for every block."""
    torch.manual_seed(0)
    tail = [last] if last else []
    return {n: nn.Sequential(nn.Linear(width, hidden), *middle, nn.Linear(hidden, 1), *tail) for n in blocks}


def relu_networks(**how: Any) -> dict[int, nn.Module]:
    return networks(nn.ReLU(), last=nn.ReLU(), **how)


def activations(
    rows: int = 40, width: int = WIDTH, blocks: Any = BLOCKS, seed: int = 1
) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {n: rng.standard_normal((rows, width)).astype(np.float32) for n in blocks}


def directions(width: int = WIDTH, blocks: Any = BLOCKS) -> dict[int, np.ndarray]:
    return {n: rows[0] for n, rows in activations(1, width, blocks, seed=2).items()}


def torch_says(module: nn.Module, rows: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return module.eval()(torch.from_numpy(rows)).reshape(-1).numpy()


def state_dict(modules: dict[int, nn.Module], vectors: dict[int, np.ndarray]) -> dict[str, torch.Tensor]:
    """The documented names of a PSR network, from Sequentials of Linear and ReLU."""
    tensors = {f"direction.{n}": torch.from_numpy(v) for n, v in vectors.items()}
    for n, module in modules.items():
        for i, layer in enumerate(m for m in module.modules() if isinstance(m, nn.Linear)):
            tensors |= {
                f"gate.{n}.{i}.weight": layer.weight.detach(),
                f"gate.{n}.{i}.bias": layer.bias.detach(),
            }
    return tensors
