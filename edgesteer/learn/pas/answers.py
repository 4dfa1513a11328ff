"""Which letter a model answers, unsteered and under every cell of a grid.

In:  an Asker, items, for each block a bundle of one vector, strengths. Out: int8 arrays of letters, OVERFLOWED where
     steering left float32.

An answer is the letter with the highest logit at the prompt's last position, among those of the item's choices.
With scope `response` the rest of an item is computed once, unsteered: its cells are lanes of one token on copies of the
same KV, each with a strength of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import numpy.typing as npt

from edgesteer.bundle import Bundle
from edgesteer.errors import SteeringOverflow
from edgesteer.generate.progress import Done
from edgesteer.learn.pas.items import Item
from edgesteer.learn.pas.prompts import Asker
from edgesteer.learn.pas.shelf import Shelf
from edgesteer.plan import SteeringPlan
from edgesteer.runtime import Lanes

I8 = npt.NDArray[np.int8]
F32 = npt.NDArray[np.float32]

OVERFLOWED = -1

# The scope in which a constant acts on a forward pass's last position: the prompt's last token, then every token.
LAST = "response"


@dataclass(frozen=True, slots=True)
class Cell:
    """A block and the strength of the vector there; strength 0 is the unsteered model."""

    block: int
    strength: float


def cells_of(blocks: Sequence[int], strengths: Sequence[float]) -> list[Cell]:
    """The grid in its order, behind one unsteered cell."""
    unsteered = Cell(blocks[0], 0.0)
    return [unsteered, *(Cell(block, strength) for block, strength in product(blocks, strengths))]


def unsteered(asker: Asker, items: Sequence[Item], shelf: Shelf, done: Done = lambda part: None) -> I8:
    """int8 [items]: the letters that the model answers with."""
    prompts = [asker.prompt(item) for item in items]
    found = np.zeros(len(items), dtype=np.int8)
    for group in asker.chat.groups(prompts, 0):
        part = slice(group.start, group.stop)
        key = _key("unsteered", [(prompts[i], len(items[i].choices)) for i in group])
        found[part] = shelf.remember(key, len(group), partial(_together, asker, items[part], prompts[part]))
        done(group.stop / len(items))
    return found


def under(
    asker: Asker,
    items: Sequence[Item],
    bundles: Mapping[int, Bundle],
    cells: Sequence[Cell],
    scope: str,
    shelf: Shelf,
    done: Done = lambda part: None,
) -> I8:
    """int8 [items, cells]: the letters under each cell.

    bundles: for each block of the cells a constant there, at strength 1.
    """
    way = _side_by_side if scope == LAST else _one_after_another
    answer = way(asker, bundles, cells, scope, shelf)
    found = np.zeros((len(items), len(cells)), dtype=np.int8)
    for i, item in enumerate(items):
        found[i] = answer(item)
        done((i + 1) / len(items))
    return found


Answer = Callable[[Item], I8]
"""One item's letters under every cell: int8 [cells]."""


def _side_by_side(
    asker: Asker, bundles: Mapping[int, Bundle], cells: Sequence[Cell], scope: str, shelf: Shelf
) -> Answer:
    blocks = sorted({cell.block for cell in cells})
    plan = SteeringPlan.of([(bundles[block], 1.0, scope) for block in blocks])
    doses = _doses(plan, cells)
    what = [plan.fingerprint, [[cell.block, cell.strength] for cell in cells]]

    def answer(item: Item) -> I8:
        prompt = asker.prompt(item)
        key = _key("under", what, prompt, len(item.choices))
        return shelf.remember(key, len(cells), lambda: steered(item, prompt))

    def steered(item: Item, prompt: list[int]) -> I8:
        with asker.llm.steered(plan):
            return _lanes(asker, item, prompt, doses)

    return answer


def _doses(plan: SteeringPlan, cells: Sequence[Cell]) -> F32:
    """float32 [cells, terms]: each cell's strength at the term of its block, 0 at the others."""
    doses = np.zeros((len(cells), len(plan.terms)), dtype=np.float32)
    term_of = {term.bundle.layers[0]: i for i, term in enumerate(plan.terms)}
    for i, cell in enumerate(cells):
        doses[i, term_of[cell.block]] = cell.strength
    return doses


def _lanes(asker: Asker, item: Item, prompt: list[int], doses: F32) -> I8:
    """One item under each row of `doses`; a part that overflows is halved until the row is found that does."""
    n, most = len(doses), asker.llm.n_seq_max
    if n > most:
        parts = [doses[i : i + most] for i in range(0, n, most)]
        return np.concatenate([_lanes(asker, item, prompt, part) for part in parts])
    try:
        with Lanes(asker.llm, [prompt] * n, doses=doses) as lanes:
            fed = lanes.feed(dict.fromkeys(range(n), prompt[-1:]))
            return np.array([_letter(asker, item, logits) for _, logits in fed], dtype=np.int8)
    except SteeringOverflow:
        if n == 1:
            return np.array([OVERFLOWED], dtype=np.int8)
        halves = (doses[: n // 2], doses[n // 2 :])
        return np.concatenate([_lanes(asker, item, prompt, half) for half in halves])


def _one_after_another(
    asker: Asker, bundles: Mapping[int, Bundle], cells: Sequence[Cell], scope: str, shelf: Shelf
) -> Answer:
    """Where earlier positions are steered too, every cell computes every item anew."""

    def answer(item: Item) -> I8:
        prompt = asker.prompt(item)
        return np.concatenate([one(cell, item, prompt) for cell in cells])

    def one(cell: Cell, item: Item, prompt: list[int]) -> I8:
        plan = SteeringPlan.of([(bundles[cell.block], cell.strength, scope)])
        key = _key("under", plan.fingerprint, prompt, len(item.choices))
        return shelf.remember(key, 1, lambda: steered(plan, item, prompt))

    def steered(plan: SteeringPlan, item: Item, prompt: list[int]) -> I8:
        with asker.llm.steered(plan):
            return _together(asker, [item], [prompt])

    return answer


def _together(asker: Asker, items: Sequence[Item], prompts: Sequence[list[int]]) -> I8:
    """Several items in one context, each a lane, under the plan in force."""
    found = np.full(len(items), OVERFLOWED, dtype=np.int8)
    try:
        with Lanes(asker.llm, prompts) as lanes:
            for i, logits in lanes.feed({i: prompt[-1:] for i, prompt in enumerate(prompts)}):
                found[i] = _letter(asker, items[i], logits)
    except SteeringOverflow:
        assert len(items) == 1  # only a single item is steered here
    return found


def _letter(asker: Asker, item: Item, logits: F32) -> int:
    told = logits[asker.letters[: len(item.choices)]]
    # Of the rows of a batch the runtime looks at the last one's logits alone.
    return int(np.argmax(told)) if np.isfinite(told).all() else OVERFLOWED


def _key(*facts: object) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()
