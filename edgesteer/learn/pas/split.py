"""Items without duplicates, in three parts, their choices in random order.

In:  Items and a seed. Out: a Split. The same items in the same order with the same seed give the same Split; the
same lines in another order may give another one. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np

from edgesteer.errors import LearnError
from edgesteer.learn.pas.items import Item
from edgesteer.generate.text_file import short

FEWEST = 20  # 12 to learn from, 4 to choose with, 4 to report on: with less any figure is chance
SHARES = (0.6, 0.2, 0.2)


@dataclass(frozen=True, slots=True)
class Split:
    """Items to learn from, to choose with and to report on, each in random order. duplicates: how many items were
    dropped because they stood there before."""

    train: tuple[Item, ...]
    validation: tuple[Item, ...]
    test: tuple[Item, ...]
    duplicates: int


def prepare(items: Iterable[Item], seed: int, source: str = "the data") -> Split:
    """Drop duplicates, split 60/20/20 with groups kept whole, and give each item's choices an order of its own in
    which, within each part, each letter is the target's equally often.

    source: what messages call the items, such as their file. Raises LearnError where nothing could be learned or
    told: too few items or groups, or one target throughout."""
    given = list(items)
    kept = _distinct(given)
    _check(kept, len(given) - len(kept), source)
    rng = np.random.default_rng(seed)
    train, validation, test = (_permuted(part, rng) for part in _parts(kept, rng, source))
    return Split(train, validation, test, len(given) - len(kept))


@overload
def with_shuffled_labels(items: Split, seed: int) -> Split: ...
@overload
def with_shuffled_labels(items: Sequence[Item], seed: int) -> tuple[Item, ...]: ...
def with_shuffled_labels(items: Split | Sequence[Item], seed: int) -> Split | tuple[Item, ...]:
    """The same items (of a Split, each part on its own) with a target drawn at random, each letter still equally
    often: what is learned from them is chance."""
    rng = np.random.default_rng(seed)
    if not isinstance(items, Split):
        return _redrawn(items, rng)
    train, validation, test = (_redrawn(part, rng) for part in (items.train, items.validation, items.test))
    return replace(items, train=train, validation=validation, test=test)


def _distinct(items: list[Item]) -> list[Item]:
    """The first of each: same question, context and set of choices, whatever the case, the spaces and the target."""
    first: dict[object, Item] = {}
    for item in items:
        first.setdefault((_plain(item.question), _plain(item.context), _choices(item)), item)
    return list(first.values())


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _choices(item: Item) -> frozenset[str]:
    return frozenset(map(_plain, item.choices))


def _check(items: list[Item], duplicates: int, source: str) -> None:
    if len(items) < FEWEST:
        dropped = f" after dropping {duplicates} duplicates" if duplicates else ""
        raise LearnError(f"{source}: {len(items)} items{dropped}, expected at least {FEWEST}; add items")
    if len({_plain(item.target) for item in items}) > 1:
        return
    target = short(items[0].target)
    same = "has the same choices and " if len({_choices(item) for item in items}) == 1 else "has "
    raise LearnError(
        f"{source}: every item {same}the target {target}, so there is one class and nothing to tell apart; "
        "expected items with different targets: add some whose target is another"
    )


def _parts(items: list[Item], rng: np.random.Generator, source: str) -> list[list[Item]]:
    """Three parts of whole groups, an item without a group being one of its own."""
    groups: dict[object, list[Item]] = defaultdict(list)
    for index, item in enumerate(items):
        groups[index if item.group is None else item.group].append(item)
    if len(groups) < len(SHARES):
        raise LearnError(
            f"{source}: {len(groups)} group(s) of items that belong together, expected at least {len(SHARES)}, "
            "one a part; add items of other groups"
        )
    drawn = [list(groups.values())[index] for index in rng.permutation(len(groups))]
    return _filled(sorted(drawn, key=len, reverse=True), len(items))


def _filled(groups: list[list[Item]], total: int) -> list[list[Item]]:
    """Each group, the largest first, to the part that lacks most; the last ones to parts that are still empty."""
    parts: list[list[Item]] = [[] for _ in SHARES]
    lacking = [share * total for share in SHARES]
    for index, group in enumerate(groups):
        empty = [part for part in range(len(parts)) if not parts[part]]
        open_to = empty if len(empty) == len(groups) - index else range(len(parts))
        chosen = max(open_to, key=lacking.__getitem__)
        parts[chosen] += group
        lacking[chosen] -= len(group)
    return parts


def _permuted(items: list[Item], rng: np.random.Generator) -> tuple[Item, ...]:
    """The items in random order; each item's letter from a balanced deck, its other choices in random order."""
    shuffled = [items[index] for index in rng.permutation(len(items))]
    return tuple(
        _arranged(item, place, rng) for item, place in zip(shuffled, _places(shuffled, rng), strict=True)
    )


def _arranged(item: Item, place: int, rng: np.random.Generator) -> Item:
    others = [choice for index, choice in enumerate(item.choices) if index != item.answer]
    order = [others[index] for index in rng.permutation(len(others))]
    return replace(item, choices=(*order[:place], item.target, *order[place:]), answer=place)


def _redrawn(items: Sequence[Item], rng: np.random.Generator) -> tuple[Item, ...]:
    return tuple(replace(item, answer=place) for item, place in zip(items, _places(items, rng), strict=True))


def _places(items: Sequence[Item], rng: np.random.Generator) -> list[int]:
    """A place for each item's target: among items with as many choices, each place equally often up to one. Which
    places come once more than others is random too."""
    places = [0] * len(items)
    for size in sorted({len(item.choices) for item in items}):
        members = [index for index, item in enumerate(items) if len(item.choices) == size]
        once_more = rng.permutation(size)
        deck = [int(once_more[turn % size]) for turn in range(len(members))]
        for index, turn in zip(members, rng.permutation(len(members)), strict=True):
            places[index] = deck[turn]
    return places
