"""The proof at the end: what was learnt against the prompt it imitates, and against simpler ways.

In:  a finished bundle, and the pairs that it was learnt from. Out: a Table on questions that nothing saw.

The other ways are learnt from the same pairs, and all strengths are chosen on the same training questions at the
same target: the prompt's own coherence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from edgesteer.bundle import Bundle
from edgesteer.errors import LearnError
from edgesteer.evaluate import Table, head_to_head
from edgesteer.learn.calibrate import Yardstick, strength_range
from edgesteer.learn.recipe import Recipe
from edgesteer.learn.stages import Data, Work, fit
from edgesteer.learn.tune import Tuned, tuned

WAYS = {
    "A-Const": ("constant", "all"),
    "S-Const": ("constant", "one"),
    "S-PSR": ("psr", "one"),
    "A-PSR": ("psr", "all"),
}


def label(recipe: Recipe) -> str:
    """The field's name for it, such as A-PSR, or A-PSR+KL where a trainer has gone on from there."""
    name = ("A-" if recipe.blocks == "all" else "S-") + ("PSR" if recipe.method == "psr" else "Const")
    return name if recipe.refine is None else f"{name}+{recipe.refine.upper()}"


def check_ways(recipe: Recipe, ways: Sequence[str]) -> None:
    """Raises LearnError for a name that is none of WAYS, nor the recipe's own."""
    unknown = sorted(set(ways) - WAYS.keys() - {label(recipe)})
    if unknown:
        raise LearnError(f"compare {unknown[0]!r}: unknown, expected some of {', '.join(WAYS)}")


def compare(
    work: Work,
    data: Data,
    bundle: Bundle,
    yardstick: Yardstick,
    ways: Sequence[str],
    counts: Sequence[str] = (),
    sentiment: bool = False,
    untrained: Tuned | None = None,
    levels: Sequence[float] = (),
) -> Table:
    """The head-to-head of `bundle` and of those of WAYS that are named; its own label may be among the names.
    untrained: what a trainer went on from, so that it is not found a second time. levels: see `head_to_head`.
    Raises LearnError for another name."""
    check_ways(work.recipe, ways)
    own = label(work.recipe)
    others = [way for way in WAYS if way in ways and way != own]
    bundles = []
    for done, way in enumerate(others):
        told = work.telling(f"compare: learning {way}", done / len(others) / 2)
        bundles.append((way, [_learnt(told, data, yardstick, way, untrained)]))
    bundles.append((own, [(bundle, bundle.strength.default)]))
    return head_to_head(
        work.chat,
        work.trait,
        bundles,
        max_tokens=work.recipe.max_tokens,
        counts=counts,
        with_sentiment=sentiment,
        levels=levels,
        progress=lambda name, part: work.progress(f"compare: {name}", 0.5 + part / 2),
    )


def _learnt(
    work: Work, data: Data, yardstick: Yardstick, way: str, untrained: Tuned | None
) -> tuple[Bundle, float]:
    method, blocks = WAYS[way]
    recipe = dataclasses.replace(
        work.recipe, method=method, blocks=blocks, gate="relu", fit="local", refine=None, prune=False
    )
    mine = dataclasses.replace(work, recipe=recipe)
    known = untrained if recipe == dataclasses.replace(work.recipe, refine=None) else None
    found = known or tuned(mine, data, yardstick, fit(mine, data))
    return work.maker.bundle(found.chosen.fits, strength_range(found.dose, False)), found.dose.strength
