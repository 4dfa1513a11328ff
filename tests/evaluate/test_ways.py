"""What acts in a way to ask is read off its bundle."""

from __future__ import annotations

import numpy as np
import pytest

from edgesteer.bundle import Bundle, ModelInfo
from edgesteer.evaluate import Way


@pytest.mark.parametrize(
    ("gated", "n_blocks", "kind"),
    [(False, 1, "constant"), (False, 2, "constant"), (True, 1, "S-PSR"), (True, 2, "A-PSR")],
)
def test_a_bundle_is_constant_or_a_psr_on_one_block_or_several(gated: bool, n_blocks: int, kind: str) -> None:
    blocks = range(1, 1 + n_blocks)
    gate = {n: [(np.ones((8, 1), np.float32), np.ones(1, np.float32))] for n in blocks} if gated else None
    bundle = Bundle.build(
        name="prompt",
        directions={n: np.ones(8, np.float32) for n in blocks},
        model=ModelInfo("llama", "tiny", 8, 4, "F32"),
        gate=gate,
    )
    assert Way(bundle.name, [], bundle, 1.0).kind == kind


def test_without_a_bundle_only_the_prompt_acts() -> None:
    assert Way("prompt", []).kind == "prompt"
    assert Way("unsteered", []).kind == "unsteered"
