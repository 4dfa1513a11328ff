"""Random bundles to be timed: cost does not depend on values, and small ones leave the model alone.

In:  the facts of a model, blocks, a seed. Out: bundles. Pure; the same seed gives the same bundles.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgesteer.bundle import Bundle, ModelInfo
from edgesteer.errors import ModelError
from edgesteer.generate.progress import spread

CONSTANT, IN_SCOPE, S_PSR, A_PSR = "constant", "constant (response)", "S-PSR", "A-PSR"


def constant(info: ModelInfo, blocks: Sequence[int], seed: int = 0, scope: str = "all") -> Bundle:
    """A vector in each of the blocks. Of scope all they go through llama.cpp's slots, else through the tap."""
    return Bundle.build(name="constant", model=info, scope=scope, directions=_directions(info, blocks, seed))


def gated(info: ModelInfo, blocks: Sequence[int], seed: int = 0) -> Bundle:
    """A direction and a linear gate in each of the blocks. Raises MissingExtra without the `onnx` package."""
    rng = np.random.default_rng(1000 + seed)
    gate = {
        n: [(1e-2 * rng.standard_normal((info.n_embd, 1), np.float32), np.ones(1, np.float32))]
        for n in blocks
    }
    directions = _directions(info, blocks, seed)
    return Bundle.build(name="gated", model=info, scope="all", directions=directions, gate=gate)


def _directions(info: ModelInfo, blocks: Sequence[int], seed: int) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {n: 1e-3 * rng.standard_normal(info.n_embd, np.float32) for n in blocks}


def steerable(info: ModelInfo, count: int | None = None) -> list[int]:
    """`count` blocks, evenly spread; all that a bundle can name without it. Block 0 has no slot.

    Raises ModelError for a model of one block.
    """
    every = list(range(1, info.n_layer))
    if not every:
        raise ModelError(
            f"{info.name}: has 1 block, expected 2 or more: the first cannot be steered; use another model"
        )
    return every if count is None else [every[i] for i in spread(len(every), count)]


def random_bundles(info: ModelInfo, seed: int = 0) -> dict[str, Bundle]:
    """Constant, S-PSR (the middle block) and A-PSR (every block)."""
    every, middle = steerable(info), [info.n_layer // 2]
    return {
        CONSTANT: constant(info, every, seed),
        S_PSR: gated(info, middle, seed),
        A_PSR: gated(info, every, seed),
    }


def kinds(info: ModelInfo, blocks: Sequence[int], seed: int = 0) -> dict[str, Bundle]:
    """What scales differently: a sum in a slot, a sum in the tap, a gate."""
    return {
        CONSTANT: constant(info, blocks, seed),
        IN_SCOPE: constant(info, blocks, seed, scope="response"),
        A_PSR: gated(info, blocks, seed),
    }
