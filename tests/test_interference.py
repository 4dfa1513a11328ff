"""How bundles act together: cosines, norms, and the notes about them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgesteer import Bundle, PlanError, SteeringPlan
from edgesteer.bundle import ModelInfo
from edgesteer.interference import AGAINST, PILE_UP, interference, verdict

WIDTH, BLOCKS = 8, (1, 2, 3)
MODEL = ModelInfo("llama", "m", WIDTH, 10, "F16")
TEMPLATE = Bundle.build(name="b", directions={1: np.ones(WIDTH)}, model=MODEL, scope="all")
Rows = Mapping[int, npt.ArrayLike]


def bundle(directions: Rows, name: str = "b") -> Bundle:
    """As `Bundle.build` makes it, without the bytes, which take most of its time."""
    arrays = {n: np.asarray(directions[n], np.float32) for n in sorted(directions)}
    return replace(TEMPLATE, name=name, layers=tuple(arrays), directions=arrays)


def axis(i: int, size: float = 1.0) -> npt.NDArray[np.float32]:
    return (np.eye(WIDTH, dtype=np.float32)[i] * size).astype(np.float32)


numbers = st.floats(-1e3, 1e3, width=32)
rows = st.dictionaries(st.sampled_from(BLOCKS), st.lists(numbers, min_size=WIDTH, max_size=WIDTH), min_size=1)
bundles = st.builds(bundle, rows)
strengths = st.floats(-50, 50).filter(lambda s: abs(s) > 1e-3)
given_items = st.lists(st.tuples(bundles, strengths), min_size=1, max_size=3)


@given(given_items)
def test_cosines_lie_in_their_interval_and_norms_keep_the_triangle(items: list[tuple[Bundle, float]]) -> None:
    shown = interference(items)
    for block in shown.blocks:
        assert all(-1.0 <= c <= 1.0 for c in block.cosines.values())
        assert block.joint <= sum(block.norms.values()) * (1 + 1e-12)
    for pair in shown.pairs:
        if pair.mean is not None and pair.lowest and pair.highest:
            assert -1.0 <= pair.lowest[0] <= pair.mean <= pair.highest[0] <= 1.0
    assert shown.share is None or 0.0 <= shown.share <= 1.0


@given(bundles, bundles, strengths, strengths)
def test_a_pair_has_one_cosine_whichever_comes_first(a: Bundle, b: Bundle, x: float, y: float) -> None:
    one, other = interference([(a, x), (b, y)]), interference([(b, y), (a, x)])
    assert [block.cosines for block in one.blocks] == [block.cosines for block in other.blocks]
    for here, there in zip(one.blocks, other.blocks, strict=True):
        assert here.joint == pytest.approx(there.joint, rel=1e-9, abs=1e-9)


@given(bundles, bundles, strengths, strengths, st.floats(1e-3, 1e3))
def test_cosines_do_not_ask_how_strong(a: Bundle, b: Bundle, x: float, y: float, factor: float) -> None:
    one, scaled = interference([(a, x), (b, y)]), interference([(a, factor * x), (b, y)])
    turned = interference([(a, -factor * x), (b, y)])
    for block, same, opposite in zip(one.blocks, scaled.blocks, turned.blocks, strict=True):
        assert same.cosines == block.cosines
        assert opposite.cosines == {p: -c for p, c in block.cosines.items()}


@given(bundles, strengths)
@example(bundle({1: np.zeros(WIDTH)}), 1.0)
@example(bundle({1: np.zeros(WIDTH), 2: -axis(0)}), 1.0)
def test_a_bundle_and_its_negative_leave_nothing(v: Bundle, strength: float) -> None:
    negative = bundle({n: -d for n, d in v.directions.items()}, "negative")
    for items in ([(v, strength), (v, -strength)], [(v, strength), (negative, strength)]):
        shown = interference(items)
        assert [block.joint for block in shown.blocks] == [0.0] * len(v.acting)
        assert all(c == pytest.approx(-1) for b in shown.blocks for c in b.cosines.values())
        assert ["cancel" in note for note in shown.notes] == ([True] if v.acting else [])


@given(st.lists(strengths, min_size=1, max_size=5))
def test_orthogonal_norms_add_like_sides_of_a_box(sizes: list[float]) -> None:
    shown = interference([(bundle({1: axis(i)}, f"b{i}"), size) for i, size in enumerate(sizes)])
    assert shown.joint == pytest.approx(math.sqrt(sum(s * s for s in sizes)))
    assert shown.blocks[0].norms == pytest.approx({i: abs(s) for i, s in enumerate(sizes)})
    assert set(shown.blocks[0].cosines.values()) <= {0.0}
    assert shown.notes == ()


@given(given_items)
def test_joint_is_the_norm_of_what_the_equation_adds(items: list[tuple[Bundle, float]]) -> None:
    for block in interference(items).blocks:
        parts = [np.float64(s) * b.directions[block.layer] for b, s in items if block.layer in b.layers]
        size = sum(float(np.linalg.norm(p)) for p in parts)
        assert block.joint == pytest.approx(
            float(np.linalg.norm(np.sum(parts, axis=0))), abs=1e-9 * size + 1e-30
        )


def test_the_mean_counts_blocks_by_their_norms() -> None:
    a = bundle({1: axis(0, 3), 2: axis(0, 1)})
    b = bundle({1: axis(0, 2), 2: axis(0, -4), 5: axis(1)})
    (pair,) = interference([(a, 7.0), (b, 0.1)]).pairs
    assert (pair.blocks, pair.lowest, pair.highest) == ((1, 2), (-1.0, 2), (1.0, 1))
    assert pair.mean == pytest.approx((6 - 4) / (6 + 4))


@given(bundles, bundles, strengths, strengths)
@example(bundle({1: axis(0), 2: axis(0)}), bundle({1: np.zeros(WIDTH)}), 1.0, 1.0)
def test_a_direction_of_zeros_is_as_if_it_were_not_there(a: Bundle, b: Bundle, x: float, y: float) -> None:
    def without(v: Bundle) -> Bundle | None:
        return bundle({n: v.directions[n] for n in v.acting}, v.name) if v.acting else None

    bare = [(kept, s) for v, s in ((a, x), (b, y)) if (kept := without(v)) is not None]
    full, plan = interference([(a, x), (b, y)]), SteeringPlan.of([(a, x, "all"), (b, y, "all")])
    assert full.to_json() == interference(bare).to_json()
    assert plan == SteeringPlan.of([(v, s, "all") for v, s in bare])
    assert set(plan.layers) == set(plan.slots) <= {*a.acting, *b.acting}


def test_a_plan_of_zeros_alone_is_no_intervention() -> None:
    zeros = bundle({1: np.zeros(WIDTH), 2: -np.zeros(WIDTH)})
    assert SteeringPlan.of([(zeros, 1.0, "response")]) == SteeringPlan()
    nothing = interference([(zeros, 1.0)])
    assert (nothing.terms, nothing.joint, nothing.share, nothing.notes) == ((), 0.0, None, ())


def test_bundles_on_different_blocks_do_not_meet() -> None:
    shown = interference([(bundle({1: axis(0)}), 1.0), (bundle({2: axis(0)}), -1.0)])
    assert [list(block.norms) for block in shown.blocks] == [[0], [1]]
    assert shown.pairs[0].blocks == ()
    assert (shown.pairs[0].mean, shown.notes, shown.share) == (None, (), 1.0)


@pytest.mark.parametrize("extreme", [1e-45, 1e-30, 1e38])
@pytest.mark.parametrize("strength", [1e-300, 1.0, 3e38])
def test_extreme_numbers_keep_their_angle(extreme: float, strength: float) -> None:
    v = bundle({1: np.full(WIDTH, extreme)})
    shown = interference([(v, strength), (v, -strength), (bundle({1: axis(0)}), 1.0)])
    cosines = shown.blocks[0].cosines
    assert (cosines[0, 1], cosines[0, 2]) == (pytest.approx(-1), pytest.approx(WIDTH**-0.5))
    json.dumps(shown.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("cosine", "expected"),
    [(None, None), (0.0, None), (AGAINST, None), (PILE_UP, None), (-0.31, "against"), (0.71, "pile-up")],
)
def test_verdicts_begin_beyond_their_thresholds(cosine: float | None, expected: str | None) -> None:
    assert verdict(cosine) == expected


def at_angle(cosine: float, name: str) -> Bundle:
    return bundle({n: cosine * axis(0) + math.sqrt(1 - cosine**2) * axis(1) for n in BLOCKS}, name)


@pytest.mark.parametrize("cosine", [-0.9, -0.1, 0.5, 0.9])
def test_notes_name_the_pair_that_is_worth_a_word(cosine: float) -> None:
    a, b = bundle({n: axis(0) for n in BLOCKS}, "alpha"), at_angle(cosine, "beta")
    notes = interference([(a, 1.0), (b, 2.0)]).notes
    assert len(notes) == (verdict(cosine) is not None)
    for note in notes:
        assert "alpha x 1" in note
        assert "beta x 2" in note
        assert f"{cosine:.2f}" in note


def test_a_bundle_given_twice_adds_up_and_is_compared_once() -> None:
    a, other = bundle({1: axis(0)}, "alpha"), at_angle(-0.8, "beta")
    same, against = interference([(a, 1.0), (a, 0.5), (other, 1.0)]).notes
    assert "the strengths add up to 1.5 of alpha" in same
    assert "alpha x 1.5" in against


def test_names_from_a_file_cannot_break_a_line() -> None:
    a = bundle({1: axis(0)}, "a\x1b[2J\nb")
    assert all(note.isprintable() for note in interference([(a, 1.0), (a, 1.0)]).notes)


@given(given_items)
def test_a_plan_shows_what_its_bundles_show_once_merged(items: list[tuple[Bundle, float]]) -> None:
    plan = SteeringPlan.of((b, s, None) for b, s in items)
    shown = interference(plan)
    assert shown.terms == plan.terms
    assert not any("add up" in note or "cancel" in note for note in shown.notes)
    whole = {block.layer: block.joint for block in interference(items).blocks}
    size = interference(items).sum_of_norms
    for block in shown.blocks:
        assert block.joint == pytest.approx(whole[block.layer], abs=1e-6 * size)


def test_nothing_that_steers_is_nothing() -> None:
    for empty in (
        interference([]),
        interference(SteeringPlan()),
        interference([(bundle({1: axis(0)}), 0.0)]),
    ):
        assert (empty.terms, empty.blocks, empty.pairs, empty.notes, empty.share) == ((), (), (), (), None)


@pytest.mark.parametrize("bad", [math.nan, math.inf, "1", None, True])
def test_a_strength_that_is_no_number_is_refused(bad: object) -> None:
    with pytest.raises(PlanError, match="strength"):
        interference([(bundle({1: axis(0)}), bad)])  # type: ignore[list-item]


def test_a_scope_given_holds_for_all() -> None:
    info = ModelInfo("llama", "m", WIDTH, 6, "F32", None)
    whole = Bundle.build(name="whole", directions={1: axis(0)}, model=info, scope="conversation")
    items = [(bundle({1: axis(0)}), 1.0), (whole, 2.0)]
    assert [term.scope for term in interference(items).terms] == ["all", "conversation"]
    shown = interference(items, scope="response")
    assert {term.scope for term in shown.terms} == {"response"}
    assert shown.joint == pytest.approx(3.0)


@given(given_items)
def test_json_tells_every_pair_at_every_block(items: list[tuple[Bundle, float]]) -> None:
    shown = interference(items)
    data = json.loads(json.dumps(shown.to_json(), allow_nan=False))
    assert [pair["pair"] for pair in data["pairs"]] == [list(p) for p in combinations(range(len(items)), 2)]
    for block, block_json in zip(shown.blocks, data["blocks"], strict=True):
        assert block_json["norms"] == {str(i): norm for i, norm in block.norms.items()}
        assert {tuple(c["pair"]): c["cosine"] for c in block_json["cosines"]} == block.cosines
