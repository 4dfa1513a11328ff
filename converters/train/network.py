"""Steering of several blocks as Torch parameters, to be trained.

    h' = h + strength c(h) r z        c(h) = relu(w.(h / r) + b), or 1 without a gate

r is a block's root mean square over the training rows. It makes one learning rate fit all blocks, whose
streams differ in size a hundredfold; a fit has it folded into its weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from edgesteer.learn.fit import BlockFit

# Where gates begin: open nearly everywhere, so that every block gets a gradient.
_OPEN = 0.5


class PsrNetwork(nn.Module):  # type: ignore[misc]
    """weight, direction: [blocks, n_embd]; bias: [blocks]; scale: r, [blocks]; blocks: ascending.

    Without a gate there is no weight and no bias.
    """

    def __init__(self, n_embd: int, scales: Mapping[int, float], gated: bool = True, seed: int = 0) -> None:
        """The random start: small weights, and directions of zero, so that nothing is steered yet."""
        super().__init__()
        self.blocks = tuple(sorted(scales))
        self.place = {block: i for i, block in enumerate(self.blocks)}
        source, shape = torch.Generator().manual_seed(seed), (len(self.blocks), n_embd)
        self.register_buffer("scale", torch.tensor([scales[block] for block in self.blocks]))
        self.direction = nn.Parameter(torch.zeros(shape))
        self.weight = nn.Parameter(torch.randn(shape, generator=source) / n_embd**0.5) if gated else None
        self.bias = nn.Parameter(torch.full(shape[:1], _OPEN)) if gated else None

    @classmethod
    def from_fits(cls, fits: Mapping[int, BlockFit], scales: Mapping[int, float]) -> PsrNetwork:
        """The network of fits with one unit each, or with none."""
        some = next(iter(fits.values()))
        network = cls(len(some.direction), {n: scales[n] for n in fits}, bool(some.layers))
        with torch.no_grad():
            for i, block in enumerate(network.blocks):
                fit, r = fits[block], network.scale[i]
                direction = torch.from_numpy(fit.direction) / r
                if network.weight is None or network.bias is None:
                    network.direction[i] = direction
                    continue
                ((W, b),) = fit.layers
                weight = torch.from_numpy(np.ascontiguousarray(W[:, 0])) * r
                # relu(c x) z = relu(x) c z: of length 1, as a random weight is, so that one rate fits both
                length = weight.norm().clamp_min(torch.finfo(weight.dtype).tiny)
                network.weight[i], network.bias[i] = weight / length, float(b[0]) / length
                network.direction[i] = direction * length
        return network

    def fit(self, block: int, mean: float) -> BlockFit | None:
        """A block's fit, scaled to a mean coefficient of 1, for a mean coefficient of `mean`.

        relu(c x) = c relu(x) for c > 0, so the mean moves to the direction. None if the gate never opens or
        the direction is zero or no number; `explained`, which does not describe KL, is NaN.
        """
        i, r = self.place[block], float(self.scale[self.place[block]])
        direction = _numpy(self.direction[i] * r * mean)
        if not (mean > 0 and direction.any() and np.isfinite(direction).all()):
            return None
        if self.weight is None or self.bias is None:
            return BlockFit(direction, (), float("nan"))
        layer = (_numpy(self.weight[i] / r / mean)[:, None], _numpy(self.bias[i : i + 1] / mean))
        return BlockFit(direction, (layer,), float("nan"))

    def digest(self) -> str:
        """SHA-256 of the blocks and all parameters."""
        values = (_numpy(each).tobytes() for each in self.state_dict().values())
        return hashlib.sha256(repr(self.blocks).encode() + b"".join(values)).hexdigest()

    def coefficient(self, block: int, h: torch.Tensor) -> torch.Tensor:
        """c(h) as [...] for h [..., n_embd]. Gradients go through h too."""
        if self.weight is None or self.bias is None:
            return torch.ones_like(h[..., 0])
        i = self.place[block]
        return torch.relu(h @ (self.weight[i] / self.scale[i]) + self.bias[i])

    def steered(self, block: int, h: torch.Tensor, amount: torch.Tensor) -> torch.Tensor:
        """h + amount r z, for amount [...]: the coefficient times the strength, 0 out of scope."""
        i = self.place[block]
        return h + amount[..., None] * (self.direction[i] * self.scale[i])


def _numpy(parameter: torch.Tensor) -> np.ndarray:
    values: np.ndarray = parameter.detach().to("cpu", torch.float32).numpy().copy()
    return values
