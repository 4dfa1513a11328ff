"""What to learn, on which model and how; and bundles of its fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgesteer.bundle import Bundle, StrengthRange
from edgesteer.errors import LearnError
from edgesteer.generate import Chat
from edgesteer.learn.fit import BlockFit
from edgesteer.learn.recipe import Recipe

# Contains every strength that is tried before the range is known.
TRIAL = StrengthRange(1.0, -8.0, 8.0)


@dataclass(frozen=True, slots=True)
class Task:
    """A trait to learn on a model, by a recipe. name, license: of the bundle."""

    chat: Chat
    trait: str
    recipe: Recipe
    name: str = "steering"
    license: str = "unspecified"

    def bundle(self, fits: Mapping[int, BlockFit], strength: StrengthRange = TRIAL) -> Bundle:
        """A constant bundle if no fit has a gate, a PSR if all have one. Raises LearnError for no fits."""
        moving = {block: fit for block, fit in fits.items() if fit.direction.any()}
        if not moving:
            raise LearnError("the trait changes no activation of this model; word the trait more strongly")
        gates = {block: list(fit.layers) for block, fit in moving.items() if fit.layers}
        return Bundle.build(
            directions={block: fit.direction for block, fit in moving.items()},
            gate=gates or None,
            model=self.chat.llm.model_info,
            scope=self.recipe.scope,
            strength=strength,
            name=self.name,
            license=self.license,
            description=f"Learnt from one sentence: {self.trait}",
        )
