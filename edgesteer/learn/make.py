"""From fitted blocks to a bundle, and what of a recipe each bundle shares.

In:  per block a BlockFit; the model's facts. Out: a Bundle in the format's scale: mean coefficient 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edgesteer.bundle import Bundle, ModelInfo, StrengthRange
from edgesteer.errors import LearnError
from edgesteer.learn.methods import BlockFit

# Wide enough for every strength that is tried before the range is known.
TRIAL = StrengthRange(1.0, -8.0, 8.0)


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes bundles for one model and one name."""

    model: ModelInfo
    scope: str
    name: str
    license: str
    description: str

    def bundle(self, fits: Mapping[int, BlockFit], strength: StrengthRange = TRIAL) -> Bundle:
        """A constant bundle where no fit has a gate, a PSR where all have one. LearnError if no block moves."""
        moving = {block: fit for block, fit in fits.items() if fit.direction.any()}
        if not moving:
            raise LearnError("the trait changes no activation of this model; word the trait more strongly")
        gates = {block: list(fit.layers) for block, fit in moving.items() if fit.layers}
        return Bundle.build(
            directions={block: fit.direction for block, fit in moving.items()},
            gate=gates or None,
            model=self.model,
            scope=self.scope,
            strength=strength,
            name=self.name,
            license=self.license,
            description=self.description,
        )


def without(fits: Mapping[int, BlockFit], blocks: Iterable[int]) -> dict[int, BlockFit]:
    """The fits but those of `blocks`."""
    left_out = set(blocks)
    return {block: fit for block, fit in fits.items() if block not in left_out}
