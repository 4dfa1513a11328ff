"""Letters: those that a context of its own gives under each cell, however they were computed together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesteer import Bundle, SteeredLlama
from edgesteer.learn.part_file import PartFile
from edgesteer.learn.pas import Item
from edgesteer.learn.pas.answers import steered_answers, unsteered_answers
from edgesteer.learn.pas.prompts import Prompts
from edgesteer.learn.pas.scores import I8, OVERFLOWED, Cell, cells_of
from edgesteer.plan import SteeringPlan
from tests.learn.pas.support import constants, item, opened, quiz

Model = Callable[[str], Path]
BLOCKS = (1, 2, 3)
ITEMS = [*quiz(4, (2, 4, 3)), item(78, 5, context="It rains.")]


def unknown() -> PartFile:
    return PartFile(None, {})


@pytest.fixture(scope="module")
def llm(model: Model) -> Iterator[SteeredLlama]:
    one = opened(model("llama"))
    yield one
    one.close()


@pytest.fixture(scope="module")
def prompts(llm: SteeredLlama) -> Prompts:
    return Prompts(llm)


@pytest.fixture(scope="module")
def alone(model: Model) -> Iterator[SteeredLlama]:
    one = opened(model("llama"), lanes=1, logits_all=True)
    yield one
    one.close()


def letter(alone: SteeredLlama, prompts: Prompts, one: Item, plan: SteeringPlan) -> int:
    """By llama_cpp's own road: the whole prompt evaluated under a plan."""
    prompt = prompts.multiple_choice(one)
    alone.steer(plan)
    alone.reset()
    alone.eval(prompt)
    logits = alone.scores[len(prompt) - 1]
    return int(np.argmax(logits[prompts.letters[: len(one.choices)]]))


def expected(
    alone: SteeredLlama,
    prompts: Prompts,
    items: Sequence[Item],
    bundles: dict[int, Bundle],
    cells: Sequence[Cell],
    scope: str,
) -> list[list[int]]:
    plans = [SteeringPlan.of([(bundles[cell.block], cell.strength, scope)]) for cell in cells]
    return [[letter(alone, prompts, one, plan) for plan in plans] for one in items]


# -- unsteered -------------------------------------------------------------------------------------


def test_unsteered_letters_are_those_of_a_context_of_its_own(prompts: Prompts, alone: SteeredLlama) -> None:
    items = [*ITEMS, item(77, 26), item(79, 13)]
    found = unsteered_answers(prompts, items, unknown())
    assert (found.dtype, found.shape) == (np.int8, (len(items),))
    assert found.tolist() == [letter(alone, prompts, one, SteeringPlan()) for one in items]
    assert len(set(found.tolist())) > 1  # else this proves little


def test_a_letter_is_always_one_of_the_items_choices(prompts: Prompts) -> None:
    items = [item(n, size) for n, size in enumerate([2, 26, 3, 2, 13, 4] * 3)]
    found = unsteered_answers(prompts, items, unknown())
    assert all(0 <= a < len(one.choices) for a, one in zip(found, items, strict=True))


def test_nothing_is_asked_of_no_items(prompts: Prompts) -> None:
    assert unsteered_answers(prompts, [], unknown()).shape == (0,)
    assert steered_answers(prompts, [], {}, [], "all", unknown()).shape == (0, 0)


# -- the grid --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["response", "conversation", "all"])
def test_every_cell_gives_what_its_plan_gives(
    model: Model, prompts: Prompts, alone: SteeredLlama, scope: str
) -> None:
    bundles = constants(model("llama"), BLOCKS)
    cells = cells_of(BLOCKS, [1.0, 8.0, -4.0])  # more cells than lanes
    found = steered_answers(prompts, ITEMS, bundles, cells, scope, unknown())
    assert found.dtype == np.int8
    assert found.tolist() == expected(alone, prompts, ITEMS, bundles, cells, scope)
    assert (found[:, 1:] != found[:, :1]).any()
    assert prompts.llm.steering == SteeringPlan()


@pytest.mark.parametrize("arch", ["gemma3", "gpt2", "mamba"])
def test_side_by_side_is_one_plan_after_another(model: Model, arch: str) -> None:
    """With a single lane each cell is computed alone."""
    bundles, cells = constants(model(arch), BLOCKS), cells_of(BLOCKS, [2.0, -4.0])
    items, answers = quiz(4, (2, 4, 3)), []
    for lanes in (16, 1):
        llm = opened(model(arch), lanes=lanes)
        answers.append(steered_answers(Prompts(llm), items, bundles, cells, "response", unknown()))
        llm.close()
    assert np.array_equal(*answers)


def test_how_many_lanes_there_are_changes_no_letter(model: Model, prompts: Prompts) -> None:
    bundles, cells = constants(model("llama"), BLOCKS), cells_of(BLOCKS, [1.0, 8.0, -4.0])
    found = steered_answers(prompts, ITEMS, bundles, cells, "response", unknown())
    for lanes in (1, 3):
        other = opened(model("llama"), lanes=lanes)
        assert np.array_equal(
            found, steered_answers(Prompts(other), ITEMS, bundles, cells, "response", unknown())
        )
        other.close()


def test_exemplars_are_read_alike_in_every_cell_and_part(model: Model) -> None:
    """Their replies are in scope `response` too; what the cells share is steered by none of them."""
    bundles, cells = constants(model("llama"), BLOCKS), cells_of(BLOCKS, [64.0, 4.0, -64.0])
    found = []
    for lanes in (3, 32):
        llm = opened(model("llama"), lanes=lanes)
        prompts = Prompts(llm, shots=quiz(2))
        found.append(steered_answers(prompts, ITEMS[:3], bundles, cells, "response", unknown()))
        assert np.array_equal(found[-1][:, 0], unsteered_answers(prompts, ITEMS[:3], unknown()))
        llm.close()
    assert np.array_equal(*found)


def test_cells_of_the_same_strength_in_any_order(model: Model, prompts: Prompts) -> None:
    bundles, cells = constants(model("llama"), BLOCKS), cells_of(BLOCKS, [1.0, 8.0, -4.0])
    found = steered_answers(prompts, ITEMS, bundles, cells, "response", unknown())
    back = steered_answers(prompts, ITEMS, bundles, cells[::-1], "response", unknown())
    assert np.array_equal(found, back[:, ::-1])


# -- overflow --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["response", "all"])
def test_an_overflow_is_of_its_cell_alone(model: Model, prompts: Prompts, scope: str) -> None:
    bundles = constants(model("llama"), BLOCKS, size=10.0)
    cells = cells_of(BLOCKS, [0.1, -0.2])
    plain = steered_answers(prompts, ITEMS[:2], bundles, cells, scope, unknown())
    assert (plain != OVERFLOWED).all()
    for at in ([3, 4], [0, 2, 5, 7]):
        mixed: list[Cell] = list(cells)
        for i in at:
            mixed.insert(i, Cell(BLOCKS[i % 3], 3e38))
        found = steered_answers(prompts, ITEMS[:2], bundles, mixed, scope, unknown())
        huge = np.array([cell.strength > 1e30 for cell in mixed])
        assert (found[:, huge] == OVERFLOWED).all()
        assert np.array_equal(found[:, ~huge], plain)


def test_logits_that_are_no_numbers_are_no_letter(
    prompts: Prompts, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """argmax would call NaN the letter A; only the last row of a batch is looked at by the runtime."""
    from edgesteer.runtime import Lanes

    plain = Lanes.feed

    def poisoned(self: Lanes, *args: Any, **more: Any) -> Iterator[tuple[int, Any]]:
        for lane, logits in plain(self, *args, **more):
            yield lane, np.full_like(logits, np.nan) if lane == 1 else logits

    bundles, cells = constants(model("llama"), BLOCKS), cells_of(BLOCKS, [1.0])
    whole = steered_answers(prompts, ITEMS, bundles, cells, "response", unknown())
    monkeypatch.setattr(Lanes, "feed", poisoned)
    found = steered_answers(prompts, ITEMS, bundles, cells, "response", unknown())
    assert (found[:, 1] == OVERFLOWED).all()
    assert np.array_equal(np.delete(found, 1, axis=1), np.delete(whole, 1, axis=1))


def test_after_an_overflow_the_model_is_itself(model: Model, prompts: Prompts) -> None:
    before = unsteered_answers(prompts, ITEMS, unknown())
    bundles = constants(model("llama"), BLOCKS, size=10.0)
    steered_answers(prompts, ITEMS[:1], bundles, [Cell(1, 3e38), Cell(2, 3e38)], "response", unknown())
    assert np.array_equal(before, unsteered_answers(prompts, ITEMS, unknown()))
    assert prompts.llm.steering == SteeringPlan()


# -- known answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["response", "all"])
def test_a_known_answer_is_not_computed_again(
    model: Model, prompts: Prompts, tmp_path: Path, scope: str
) -> None:
    bundles, cells = constants(model("llama"), BLOCKS), cells_of(BLOCKS, [1.0, -2.0])

    def both(known: PartFile) -> tuple[I8, I8]:
        items = ITEMS[:3]
        return (
            unsteered_answers(prompts, items, known),
            steered_answers(prompts, items, bundles, cells, scope, known),
        )

    first = both(PartFile(tmp_path / "x.part", {}))
    written = (tmp_path / "x.part").read_bytes()
    again = both(PartFile(tmp_path / "x.part", {}))
    assert (tmp_path / "x.part").read_bytes() == written
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("scope", ["response", "all"])
def test_whatever_an_answer_depends_on_is_part_of_its_key(model: Model, prompts: Prompts, scope: str) -> None:
    path, known, one = model("llama"), unknown(), item(3, 3)
    bundles, cells = constants(path, BLOCKS), cells_of(BLOCKS, [1.0, -2.0])

    def computed(
        ones: Item, vectors: dict[int, Bundle], where: Sequence[Cell], prompts: Prompts = prompts
    ) -> bool:
        before = len(known)
        steered_answers(prompts, [ones], vectors, where, scope, known)
        return len(known) > before

    assert computed(one, bundles, cells)
    assert not computed(one, bundles, cells)
    assert computed(Item(one.question, one.choices[::-1], one.answer), bundles, cells)
    assert computed(Item(one.question + "?", one.choices, one.answer), bundles, cells)
    assert computed(one, constants(path, BLOCKS, size=0.31), cells)
    assert computed(one, bundles, cells_of(BLOCKS, [1.0, -2.5]))
    assert computed(one, bundles, cells, Prompts(prompts.llm, [item(9)]))
    # What is right, and which group it belongs to, changes no answer.
    assert not computed(Item(one.question, one.choices, (one.answer + 1) % 3, group="g"), bundles, cells)


def test_a_prompt_read_as_another_number_of_choices_is_another_question(prompts: Prompts) -> None:
    """A choice of several lines may look like two: the same prompt, but other letters count."""
    three = Item("Which?", ("x", "y", "z"), 0)
    two = Item("Which?", ("x", "y\nC. z"), 0)
    assert prompts.multiple_choice(three) == prompts.multiple_choice(two)
    known = unknown()
    shown = [unsteered_answers(prompts, [one], known)[0] for one in (three, two)]
    assert shown == [unsteered_answers(prompts, [one], unknown())[0] for one in (three, two)]
    bundles, cells = constants(Path(prompts.llm.model_path), BLOCKS), cells_of(BLOCKS, [8.0, -8.0])
    steered = [steered_answers(prompts, [one], bundles, cells, "response", known) for one in (three, two)]
    assert steered[1].max() < 2
    assert len(known) == 4


@pytest.mark.parametrize("scope", ["response", "all"])
def test_progress_goes_up_to_one(model: Model, prompts: Prompts, scope: str) -> None:
    told: list[float] = []
    unsteered_answers(prompts, ITEMS, unknown(), told.append)
    assert told == sorted(told)
    assert told[-1] == 1
    told.clear()
    steered_answers(
        prompts,
        ITEMS[:3],
        constants(model("llama"), BLOCKS),
        cells_of(BLOCKS, [1.0]),
        scope,
        unknown(),
        told.append,
    )
    assert told == pytest.approx([1 / 3, 2 / 3, 1])
