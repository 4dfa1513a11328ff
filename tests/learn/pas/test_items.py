"""Splits: what is in which part, in which order choices are shown, and what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgesteer.errors import LearnError
from edgesteer.learn.pas.items import Item, Split, prepare, with_shuffled_labels


def make(index: int, size: int = 4, group: str | None = None) -> Item:
    choices = tuple(f"choice {index}.{n}" for n in range(size))
    return Item(f"question {index}", choices, index % size, f"context {index % 3}", group)


def many(count: int = 40, size: int = 4) -> list[Item]:
    return [make(index, size) for index in range(count)]


def parts(split: Split) -> tuple[tuple[Item, ...], ...]:
    return split.train, split.validation, split.test


def everything(split: Split) -> list[Item]:
    return [item for part in parts(split) for item in part]


def content(items: Sequence[Item]) -> Counter[object]:
    """What an item is about, whatever the order of its choices."""
    return Counter(
        (item.question, item.context, frozenset(item.choices), item.target, item.group) for item in items
    )


def balanced(items: Sequence[Item]) -> bool:
    letters = {len(item.choices): Counter[int](dict.fromkeys(range(len(item.choices)), 0)) for item in items}
    for item in items:
        letters[len(item.choices)][item.answer] += 1
    return all(max(times.values()) - min(times.values()) <= 1 for times in letters.values())


sizes = st.lists(st.integers(2, 6), min_size=20, max_size=70)
seeds = st.integers(0, 2**32)


@settings(max_examples=30, deadline=None)
@given(sizes=sizes, seed=seeds)
def test_every_item_is_in_one_part_with_its_target(sizes: list[int], seed: int) -> None:
    items = [make(index, size) for index, size in enumerate(sizes)]
    split = prepare(items, seed)
    assert content(everything(split)) == content(items)
    assert split.duplicates == 0
    for part, share in zip(parts(split), (0.6, 0.2, 0.2), strict=True):
        assert abs(len(part) - share * len(items)) < 1


@settings(max_examples=30, deadline=None)
@given(sizes=sizes, seed=seeds)
def test_in_each_part_each_letter_is_the_targets_equally_often(sizes: list[int], seed: int) -> None:
    split = prepare([make(index, size) for index, size in enumerate(sizes)], seed)
    assert all(balanced(part) for part in parts(split))
    assert all(balanced(part) for part in parts(with_shuffled_labels(split, seed)))


@settings(max_examples=30, deadline=None)
@given(groups=st.lists(st.integers(1, 15), min_size=3, max_size=30), single=st.integers(0, 20), seed=seeds)
def test_groups_stay_whole_and_no_part_is_empty(groups: list[int], single: int, seed: int) -> None:
    names = [f"g{group}" for group, count in enumerate(groups) for _ in range(count)] + [None] * single
    items = [make(index, group=name) for index, name in enumerate(names)]
    assume(len(items) >= 20)
    split = prepare(items, seed)
    assert content(everything(split)) == content(items)
    assert all(parts(split))
    named = [{item.group for item in part} - {None} for part in parts(split)]
    assert sum(map(len, named)) == len(set.union(*named)) == len(groups)
    for part, share in zip(parts(split), (0.6, 0.2, 0.2), strict=True):
        assert abs(len(part) - share * len(items)) <= max(groups)


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_the_same_seed_gives_the_same(seed: int) -> None:
    split = prepare(many(), seed)
    assert split == prepare(iter(many()), seed)
    assert split != prepare(many(), seed + 1)
    assert with_shuffled_labels(split, seed) == with_shuffled_labels(split, seed)


def test_each_item_has_an_order_of_its_own() -> None:
    """Not one permutation for all: with 26 choices two orders in common would be a miracle."""
    items = many(30, 26)
    original = {item.question: item.choices for item in items}
    orders = {tuple(map(original[i.question].index, i.choices)) for i in everything(prepare(items, 0))}
    assert len(orders) == 30


def test_which_item_gets_which_letter_is_random() -> None:
    """Neither the answer in the file nor the place in it decides: over seeds each letter comes about as often."""
    items = many(20, 2)
    came = Counter(
        i.letter
        for seed in range(100)
        for i in everything(prepare(items, seed))
        if i.question == "question 0"
    )
    assert set(came) == {"A", "B"}
    assert min(came.values()) > 30


def test_which_letter_comes_once_more_is_random() -> None:
    odd = [make(index, 2) for index in range(35)]  # 7 to report on: one letter has 4 of them
    most = {Counter(i.letter for i in prepare(odd, seed).test).most_common(1)[0][0] for seed in range(30)}
    assert most == {"A", "B"}


def test_duplicates_are_dropped_before_the_split() -> None:
    items = many(25)
    again = [
        replace(items[3], choices=items[3].choices[::-1], answer=0),
        replace(items[4], question=" QUESTION\n4"),
        items[5],
    ]
    split = prepare([*items, *again], 1)
    assert split.duplicates == 3
    assert content(everything(split)) == content(items)


def test_what_differs_in_context_or_choices_is_no_duplicate() -> None:
    items = many(25)
    other = [replace(items[0], context="elsewhere"), replace(items[1], choices=(*items[1].choices, "more"))]
    assert prepare([*items, *other], 1).duplicates == 0


def test_shuffled_labels_change_the_target_alone() -> None:
    split = prepare(many(400), 0)
    shuffled = with_shuffled_labels(split, 0)
    pairs = list(zip(everything(split), everything(shuffled), strict=True))
    assert all(replace(after, answer=before.answer) == before for before, after in pairs)
    same = sum(before.answer == after.answer for before, after in pairs)
    assert 50 < same < 150  # a quarter of 400 by chance
    assert shuffled.duplicates == split.duplicates


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([], "0 items, expected at least 20"),
        (many(19), "19 items, expected at least 20"),
        ([*many(19), *many(19)], "19 items after dropping 19 duplicates, expected at least 20"),
        (
            [replace(i, choices=("yes", "no"), answer=0) for i in many()],
            "has the same choices and the target 'yes'",
        ),
        (
            [replace(i, choices=(f"no {i.question}", "Yes "), answer=1) for i in many()],
            "has the target 'Yes '",
        ),
        ([replace(i, group="one") for i in many()], "1 group"),
        ([replace(i, group=str(i.answer % 2)) for i in many()], "2 group"),
    ],
)
def test_what_nothing_can_be_learned_from_is_refused(items: list[Item], said: str) -> None:
    with pytest.raises(LearnError) as refused:
        prepare(items, 0, "d.jsonl")
    message = str(refused.value)
    assert said in message
    assert message.startswith("d.jsonl: ")
    assert "\n" not in message
    assert len(message) < 300


def test_three_groups_fill_three_parts() -> None:
    items = [make(index, group=f"g{index % 3}") for index in range(30)]
    assert [len(part) for part in parts(prepare(items, 0))] == [10, 10, 10]
