"""A PSR network as a Torch module, to be trained.

In:  for each block the layers of a gate and a direction, NumPy; or sizes and a seed.
Out: an nn.Module whose state dict `edgesteer convert` can read: `gate.N.I.weight` [out, in] and
     `gate.N.I.bias` [out] for layer I of the gate of block N, `direction.N` [n_embd]; no gates for a
     constant.

    c_N(h) = relu(... relu(h W_0^T + b_0) ...)        h' = h + strength c_N(h) direction_N
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from edgesteer.learn.fit import BlockFit, Layers


class PsrNetwork(nn.Module):  # type: ignore[misc]
    """Gates and directions of several blocks. blocks: ascending. n_embd: width of the residual stream."""

    def __init__(self, n_embd: int, blocks: Sequence[int], widths: Sequence[int] = (1,)) -> None:
        """All parameters are zero. widths: of each block's layers, the last one 1; empty for a constant."""
        super().__init__()
        self.n_embd, self.blocks = n_embd, tuple(sorted(blocks))
        self.gate = nn.ModuleDict({str(n): _layers(n_embd, widths) for n in self.blocks if widths})
        self.direction = nn.ParameterDict({str(n): nn.Parameter(torch.zeros(n_embd)) for n in self.blocks})

    @classmethod
    def random(
        cls, n_embd: int, blocks: Sequence[int], widths: Sequence[int] = (1,), seed: int = 0
    ) -> PsrNetwork:
        """A random start: gates that are open near c = 1, and small directions."""
        network, source = cls(n_embd, blocks, widths), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in network.parameters():
                scale = 0.02 if parameter.ndim == 1 else 0.1 / parameter.shape[1] ** 0.5
                parameter.copy_(scale * torch.randn(parameter.shape, generator=source))
            for layers in network.gate.values():
                layers[-1].bias.fill_(1.0)
        return network

    @classmethod
    def from_fits(cls, fits: Mapping[int, BlockFit]) -> PsrNetwork:
        """The network of these fits; the gates of different blocks may have different layers."""
        network = cls(len(next(iter(fits.values())).direction), list(fits), ())
        with torch.no_grad():
            for n, fit in sorted(fits.items()):
                network.direction[str(n)].copy_(torch.from_numpy(fit.direction))
                if fit.layers:
                    network.gate[str(n)] = _layers(network.n_embd, [len(b) for _, b in fit.layers])
                for layer, (W, b) in zip(network.gate[str(n)] if fit.layers else (), fit.layers, strict=True):
                    layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(W.T)))
                    layer.bias.copy_(torch.from_numpy(b))
        return network

    def layers(self, block: int) -> Layers:
        """((W [n_in, k], b [k]), ...) of a block's gate, NumPy float32; empty for a constant."""
        if str(block) not in self.gate:
            return ()
        return tuple((_numpy(layer.weight).T.copy(), _numpy(layer.bias)) for layer in self.gate[str(block)])

    def directions(self, block: int) -> np.ndarray:
        """A block's direction, float32 [n_embd]."""
        return _numpy(self.direction[str(block)])

    def coefficient(self, block: int, h: torch.Tensor) -> torch.Tensor:
        """c(h) as [...] for h [..., n_embd]. Gradients go through h too."""
        if str(block) not in self.gate:
            return torch.ones_like(h[..., 0])
        for layer in self.gate[str(block)]:
            h = torch.relu(layer(h))
        return h[..., 0]


def _layers(n_in: int, widths: Sequence[int]) -> nn.ModuleList:
    layers = nn.ModuleList([nn.Linear(a, b) for a, b in zip([n_in, *widths[:-1]], widths, strict=True)])
    for parameter in layers.parameters():
        nn.init.zeros_(parameter)
    return layers


def _numpy(parameter: torch.Tensor) -> np.ndarray:
    values: np.ndarray = parameter.detach().to("cpu", torch.float32).numpy().copy()
    return values
