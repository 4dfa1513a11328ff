"""Train by gradients instead of fitting in closed form: on the prompted model's replies, then on its own too.

In:  pairs, a Trainer that knows the model. Out: fits, and facts for the manifest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from edgesteer.generate.progress import Done, Stages
from edgesteer.learn.contrast import steered_blocks
from edgesteer.learn.fit import BlockFit
from edgesteer.learn.pairs import Pair
from edgesteer.learn.recipe import EFFORTS
from edgesteer.learn.task import Task
from edgesteer.scope import BIT, scope_bits

# The sum of the weights of the stages that `train` enters.
TRAINING = 1.0


class Trainer(Protocol):
    """Trains the steering of a model that it knows by gradients."""

    def __call__(
        self,
        pairs: Sequence[Pair],
        held: Sequence[Pair],
        *,
        blocks: Sequence[int],
        gated: bool,
        steps: int,
        start: Mapping[int, BlockFit] | None,
        scope_starts: Sequence[int] | None,
        seed: int,
        progress: Done,
    ) -> tuple[dict[int, BlockFit], dict[str, Any]]:
        """The trained fits, and facts for the manifest."""
        ...


def train(
    task: Task, pairs: Sequence[Pair], trainer: Trainer, stages: Stages
) -> tuple[dict[int, BlockFit], dict[str, Any]]:
    """The trained fits, and the trainer's facts."""
    recipe = task.recipe
    every = steered_blocks(task.chat.llm.model_info.n_layer)
    return trainer(
        [pair for i, pair in enumerate(pairs) if i % 8],
        pairs[::8],
        blocks=[recipe.blocks] if isinstance(recipe.blocks, int) else list(every),
        gated=recipe.method == "psr",
        steps=EFFORTS[recipe.effort].steps[0],
        start=None,
        scope_starts=_scope_starts(task, pairs),
        seed=recipe.seed,
        progress=stages.enter("train", TRAINING),
    )


def _scope_starts(task: Task, pairs: Sequence[Pair]) -> list[int] | None:
    """Where in each plain prompt scope `conversation` begins."""
    if task.recipe.scope == "response":
        return None
    turns = task.chat.llm.turns
    bits = [scope_bits(pair.plain, len(pair.plain), turns) for pair in pairs]
    return [int(((one & BIT["conversation"]) != 0).argmax()) for one in bits]
