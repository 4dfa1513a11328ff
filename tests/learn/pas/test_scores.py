"""What answers are worth: against slow references, and what must hold whatever was answered."""

from __future__ import annotations

import dataclasses
import json
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesteer.learn.pas import Item
from edgesteer.learn.pas.scores import I8, MEASURES, OVERFLOWED, Cell, balanced, cells_of, grid, right, scores
from tests.learn.pas.support import a_trial, holds, item

quick = settings(max_examples=20, deadline=None)


@st.composite
def answered(draw: st.DrawFn, columns: int = 2) -> tuple[list[Item], I8]:
    """Items, and int8 [items, columns] of letters, OVERFLOWED among them."""
    sizes = draw(st.lists(st.integers(2, 5), min_size=1, max_size=25))
    items = [item(i, size, draw(st.integers(0, size - 1))) for i, size in enumerate(sizes)]
    rows = [[draw(st.integers(OVERFLOWED, size - 1)) for _ in range(columns)] for size in sizes]
    return items, np.array(rows, dtype=np.int8)


def slow_accuracy(items: list[Item], letters: list[int]) -> Fraction:
    return Fraction(sum(one.answer == a for one, a in zip(items, letters, strict=True)), len(items))


def slow_balanced(items: list[Item], letters: list[int]) -> Fraction:
    by_letter: dict[str, list[bool]] = {}
    for one, a in zip(items, letters, strict=True):
        by_letter.setdefault(one.letter, []).append(one.answer == a)
    return sum((Fraction(sum(v), len(v)) for v in by_letter.values()), Fraction(0)) / len(by_letter)


@quick
@given(answered())
def test_values_are_those_of_a_slow_reference(drawn: tuple[list[Item], I8]) -> None:
    items, letters = drawn
    found = scores(items, letters[:, 0], letters[:, 1])
    for reference, three in ((slow_accuracy, found.accuracy), (slow_balanced, found.balanced)):
        before, after = (reference(items, letters[:, i].tolist()) for i in (0, 1))
        assert three[0].value == pytest.approx(float(before))
        assert three[1].value == pytest.approx(float(after))
        assert three[2].value == pytest.approx(float(after - before))


@quick
@given(answered(columns=4))
def test_columns_are_judged_as_each_alone(drawn: tuple[list[Item], I8]) -> None:
    items, letters = drawn
    correct = right(items, letters)
    assert correct.shape == letters.shape
    for j in range(letters.shape[1]):
        assert np.array_equal(correct[:, j], right(items, letters[:, j]))
        assert balanced(items, correct)[j] == pytest.approx(
            float(slow_balanced(items, letters[:, j].tolist()))
        )


@quick
@given(answered())
def test_what_left_float32_is_wrong(drawn: tuple[list[Item], I8]) -> None:
    items, letters = drawn
    assert not right(items, np.full(len(items), OVERFLOWED, dtype=np.int8)).any()
    gone = scores(items, letters[:, 0], np.full(len(items), OVERFLOWED, dtype=np.int8))
    assert gone.accuracy[1].value == gone.balanced[1].value == gone.wrong_to_right == 0


@quick
@given(answered())
def test_flips_add_up(drawn: tuple[list[Item], I8]) -> None:
    items, letters = drawn
    found = scores(items, letters[:, 0], letters[:, 1])
    gained = (found.wrong_to_right - found.right_to_wrong) / len(items)
    assert found.accuracy[2].value == pytest.approx(gained)
    assert found.n == len(items) == sum(n for n, _, _ in found.by_letter.values())
    for column, share in ((0, 1), (1, 2)):
        by_letter = sum(entry[0] * entry[share] for entry in found.by_letter.values())
        assert by_letter == pytest.approx(found.n * found.accuracy[column].value)
        told = sum(counts[column] for counts in found.answered.values())
        assert told == int((letters[:, column] != OVERFLOWED).sum())


@quick
@given(answered(), st.integers(0, 5))
def test_an_interval_holds_its_value_and_stays_within_what_can_be(
    drawn: tuple[list[Item], I8], seed: int
) -> None:
    items, letters = drawn
    found = scores(items, letters[:, 0], letters[:, 1], seed)
    for three in (found.accuracy, found.balanced):
        assert all(map(holds, three))
        assert all(one.low >= 0 and one.high <= 1 for one in three[:2])
        assert three[2].low >= -1
        assert three[2].high <= 1
    assert found == scores(items, letters[:, 0], letters[:, 1], seed)
    json.dumps(found.to_json(), allow_nan=False)


@quick
@given(answered())
def test_no_change_gains_exactly_nothing(drawn: tuple[list[Item], I8]) -> None:
    items, letters = drawn
    found = scores(items, letters[:, 0], letters[:, 0])
    for gain in (found.accuracy[2], found.balanced[2]):
        assert (gain.value, gain.low, gain.high) == (0, 0, 0)
    assert found.right_to_wrong == found.wrong_to_right == 0


@quick
@given(answered())
def test_before_and_after_exchanged_is_the_loss(drawn: tuple[list[Item], I8]) -> None:
    items, letters = drawn
    there, back = scores(items, letters[:, 0], letters[:, 1]), scores(items, letters[:, 1], letters[:, 0])
    for one, other in ((there.accuracy, back.accuracy), (there.balanced, back.balanced)):
        assert one[2].value == pytest.approx(-other[2].value)
        assert one[2].low == pytest.approx(-other[2].high)
    assert there.right_to_wrong == back.wrong_to_right


@quick
@given(st.lists(st.integers(0, 1), min_size=2, max_size=30).filter(lambda t: len(set(t)) == 2))
def test_a_vector_that_only_prefers_a_letter_gains_no_balanced_accuracy(targets: list[int]) -> None:
    """Always A, then always B: the accuracy may rise as far as the letters are uneven, the balanced one never."""
    items = [item(i, 2, target) for i, target in enumerate(targets)]
    a, b = (np.full(len(items), letter, dtype=np.int8) for letter in (0, 1))
    found = scores(items, a, b)
    assert [one.value for one in found.balanced] == [0.5, 0.5, 0]
    assert found.balanced[2].low == found.balanced[2].high == 0
    assert found.accuracy[2].value == pytest.approx(np.mean(np.array(targets) * 2 - 1))


def test_resampling_draws_within_a_letter() -> None:
    """All targets A right, all B wrong: whatever is drawn, half is right; the letters were fixed by the split."""
    items = [item(i, 2, i % 2) for i in range(20)]
    found = scores(items, np.zeros(20, dtype=np.int8), np.zeros(20, dtype=np.int8))
    assert (found.accuracy[0].low, found.accuracy[0].high) == (0.5, 0.5)


def test_more_items_say_more() -> None:
    def width(n: int) -> float:
        items = [item(i, 2, i % 2) for i in range(n)]
        letters = np.array([one.answer if i % 4 < 2 else 1 - one.answer for i, one in enumerate(items)])
        one = scores(items, letters.astype(np.int8), letters.astype(np.int8)).accuracy[0]
        return one.high - one.low

    assert width(400) < width(40) < width(8)


def test_groups_are_resampled_whole_and_items_without_one_are_their_own() -> None:
    items = [Item(f"q{i}", ("a", "b"), i % 2, group=f"g{i // 10}") for i in range(40)]
    before, after = np.zeros(40, dtype=np.int8), np.zeros(40, dtype=np.int8)
    after[:10] = [item.answer for item in items[:10]]  # one group gains everything, three gain nothing
    found = scores(items, before, after)
    assert found.over_groups is not None
    assert found.over_groups.value == found.accuracy[2].value == 5 / 40
    assert found.over_groups.low == 0.0  # a resample may well lack that group
    assert found.accuracy[2].low > 0.0  # the items alone look certain
    alone = [dataclasses.replace(item, group=None) for item in items]
    assert scores(alone, before, after).over_groups is None
    told = found.to_json()
    assert told["gain_over_groups"][0] == 0.125


# -- the grid --------------------------------------------------------------------------------------


def test_cells_are_the_grid_behind_one_unsteered_cell() -> None:
    cells = cells_of([4, 2], [1.0, -3.0])
    assert cells == [Cell(4, 0.0), Cell(4, 1.0), Cell(4, -3.0), Cell(2, 1.0), Cell(2, -3.0)]


Axes = tuple[list[int], list[float]]


@st.composite
def axes(draw: st.DrawFn) -> Axes:
    blocks = draw(st.lists(st.integers(1, 30), min_size=1, max_size=4, unique=True))
    one = st.sampled_from([-4.0, -1.0, 0.25, 0.5, 1.0, 4.0, 32.0])
    return blocks, draw(st.lists(one, min_size=1, max_size=5, unique=True))


@st.composite
def searched(draw: st.DrawFn) -> tuple[list[Item], Axes, I8]:
    (blocks, strengths), n = draw(axes()), draw(st.integers(1, 12))
    items = [item(i, 3, draw(st.integers(0, 2))) for i in range(n)]
    cells = 1 + len(blocks) * len(strengths)
    rows = draw(
        st.lists(st.lists(st.integers(OVERFLOWED, 2), min_size=cells, max_size=cells), min_size=n, max_size=n)
    )
    return items, (blocks, strengths), np.array(rows, dtype=np.int8)


@quick
@given(searched())
def test_each_cell_of_the_grid_is_judged_by_its_own_column(drawn: tuple[list[Item], Axes, I8]) -> None:
    items, (blocks, strengths), answered = drawn
    found = grid(items, blocks, strengths, answered)
    cells = cells_of(blocks, strengths)
    assert len(cells) == answered.shape[1] == len(set(cells))
    assert cells[0].strength == 0
    for j, cell in enumerate(cells):
        correct = right(items, answered[:, j])
        values = {"accuracy": correct.mean(), "balanced": balanced(items, correct)}
        for measure in MEASURES:
            told = found.unsteered[measure] if j == 0 else found.at(cell, measure)
            assert told == pytest.approx(float(values[measure]))
    assert found.overflowed == (answered == OVERFLOWED).sum()


@quick
@given(searched())
def test_the_best_cell_and_ties_to_the_smaller_strength_then_the_earlier_block(
    drawn: tuple[list[Item], Axes, I8],
) -> None:
    items, (blocks, strengths), answered = drawn
    found = grid(items, blocks, strengths, answered)
    for measure in MEASURES:
        best, reached = found.best(measure), found.at(found.best(measure), measure)
        for block, strength in product(blocks, strengths):
            value = found.at(Cell(block, strength), measure)
            assert value <= reached + 1e-9
            if value > reached - 1e-9:
                assert (abs(best.strength), best.block) <= (abs(strength), block)


def test_rounding_breaks_no_tie() -> None:
    """(0.1 + 0.2) / 2 is above (0.3 + 0) / 2 in floating point: equal all the same."""
    items = [item(i, 2, i % 2) for i in range(20)]
    of = {0: [i for i in range(20) if i % 2 == 0], 1: [i for i in range(20) if i % 2 == 1]}

    def answers(n_a: int, n_b: int) -> list[int]:
        ok = {*of[0][:n_a], *of[1][:n_b]}
        return [one.answer if i in ok else 1 - one.answer for i, one in enumerate(items)]

    columns = [answers(3, 0), answers(3, 0), answers(1, 2)]
    answered = np.array(columns, dtype=np.int8).T
    assert grid(items, [5], [1.0, 4.0], answered).best("balanced") == Cell(5, 1.0)
    assert grid(items, [5], [4.0, 1.0], answered[:, [0, 2, 1]]).best("balanced") == Cell(5, 1.0)
    found = grid(items, [5], [1.0], answered[:, [0, 2]])
    assert found.at(Cell(5, 1.0), "balanced") == found.unsteered["balanced"]


def test_a_cell_improves_if_it_is_better_than_unsteered_not_as_good() -> None:
    trial = a_trial()
    best = float(trial.grid.values["accuracy"].max())
    for base, improves in ((best, False), (best - 0.01, True), (1.0, False)):
        trial.grid.unsteered["accuracy"] = base
        assert trial.improves is improves
