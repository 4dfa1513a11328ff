"""The sentinel: proves on the model at hand what can be steered, by steering it and looking.

In:  a context with its tap and slots, and room for one token.
Out: Steerable - the blocks whose l_out the tap reaches and whose change the next block sees, and
     the blocks whose control-vector slot adds what it holds.

Three one-token decodes. A records every l_out. B overwrites each with A's plus a probe: the next
block then differs from A exactly if the edit acted, the logits tell for the last. C fills the slots
with probes and feeds each block A's input: slot N works exactly if l_out-N is A's plus its probe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from edgesteer.bundle import spans
from edgesteer.errors import SteeringUnavailable, TapError
from edgesteer.runtime.slots import Slots
from edgesteer.runtime.tap import F32

# One decode of one token: (capture, replace) -> logits float32 [n_vocab].
OneToken = Callable[[Mapping[int, F32], Mapping[int, F32]], F32]


@dataclass(frozen=True)
class Steerable:
    """Proven blocks. tap: h can be edited there. slots: the control-vector slot acts there."""

    n_layer: int
    tap: frozenset[int]
    slots: frozenset[int]
    reason: str = "this llama.cpp has no tensor l_out-N for it, so there is no place to steer"

    def require(self, architecture: str, tap: set[int], slots: set[int]) -> None:
        """Raise SteeringUnavailable unless every block asked for is proven."""
        for wanted, proven, what in (
            (tap, self.tap, "per-token steering"),
            (slots, self.slots, "a control vector"),
        ):
            missing = sorted(wanted - proven)
            if missing:
                raise SteeringUnavailable(
                    f"architecture {architecture}: {what} has no effect at block {spans(missing)}, "
                    f"expected it at each of {len(wanted)}; {self._why(proven)}; "
                    "'edgesteer doctor' shows what can be steered"
                )

    def _why(self, proven: frozenset[int]) -> str:
        if proven:
            return f"proven are {spans(sorted(proven))}"
        if self.tap:
            return "this architecture has no control-vector slot in this llama.cpp"
        return self.reason


def _probes(seen: Mapping[int, F32], seed: int) -> dict[int, F32]:
    """For each block random signs of the size of its activation: large enough to see, far from overflow."""
    rng = np.random.default_rng(seed)
    signs = {n: rng.choice([-1.0, 1.0], size=h.shape) for n, h in seen.items()}
    size = {n: np.sqrt(np.mean(np.square(h, dtype=np.float64))) for n, h in seen.items()}
    return {n: (signs[n] * size[n]).astype(np.float32) for n in seen}


def _differs(a: F32, b: F32) -> bool:
    scale = float(np.abs(a).max(initial=0.0))
    return bool(np.abs(a - b).max(initial=0.0) > 1e-5 * scale)


def _blank(n_layer: int, n_embd: int) -> dict[int, F32]:
    return {n: np.full((1, n_embd), np.nan, dtype=np.float32) for n in range(n_layer)}


def prove(one_token: OneToken, slots: Slots, n_layer: int, n_embd: int) -> Steerable:
    """Raises SteeringUnavailable if two equal decodes disagree, for then nothing can be proven."""
    first = _blank(n_layer, n_embd)
    try:
        logits = one_token(first, {})
    except TapError as error:
        return Steerable(n_layer, frozenset(), frozenset(), f"there is no place to steer: {error}")
    seen = {n: h for n, h in first.items() if np.isfinite(h).all()}
    tap = _prove_tap(one_token, seen, logits, n_layer, n_embd)
    return Steerable(n_layer, tap, _prove_slots(one_token, slots, seen, n_layer, n_embd))


def _prove_tap(
    one_token: OneToken, seen: Mapping[int, F32], logits: F32, n_layer: int, n_embd: int
) -> frozenset[int]:
    second = _blank(n_layer, n_embd)
    moved = {n: seen[n] + probe for n, probe in _probes(seen, seed=1).items()}
    steered_logits = one_token(second, moved)
    blocks = sorted(seen)
    if blocks and _differs(seen[blocks[0]], second[blocks[0]]):
        raise SteeringUnavailable(
            f"block {blocks[0]}: two equal decodes gave different activations, expected equal ones; "
            "this backend is not deterministic, or its activations are not what the tap reads"
        )
    acts = {n for n, after in pairwise(blocks) if _differs(seen[after], second[after])}
    if blocks and _differs(logits, steered_logits):
        acts.add(blocks[-1])
    return frozenset(acts - {0})


def _prove_slots(
    one_token: OneToken, slots: Slots, seen: Mapping[int, F32], n_layer: int, n_embd: int
) -> frozenset[int]:
    probes = {n: p for n, p in _probes(seen, seed=2).items() if n >= 1}
    if not probes:
        return frozenset()
    third = _blank(n_layer, n_embd)
    slots.set({n: p[0] for n, p in probes.items()})
    try:
        with slots.looked_for():
            one_token(third, seen)
    finally:
        slots.set({})
    return frozenset(n for n, p in probes.items() if np.allclose(third[n], seen[n] + p, rtol=1e-3, atol=1e-4))
