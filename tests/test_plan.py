"""Plans are values: they add up, commute, cancel, and name the intervention."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesteer import Bundle, PlanError, SteeringPlan
from edgesteer.bundle import ModelInfo, StrengthRange, encode_directions
from edgesteer.plan import beyond_range
from edgesteer.runtime.joint_plan import JointPlan

INFO = ModelInfo("llama", "m", 8, 4, "F32", None)


def vector(seed: int, scope: str = "all", sign: int = 1) -> Bundle:
    rng = np.random.default_rng(seed)
    directions = {n: sign * rng.standard_normal(8, dtype=np.float32) for n in (1, 2, 3)}
    strength = StrengthRange(1.0, -100.0, 100.0)
    return Bundle.build(name=f"v{seed}", directions=directions, model=INFO, scope=scope, strength=strength)


A, B, C = vector(1), vector(2, "response"), vector(3, "conversation")
Items = list[tuple[Bundle, float | None, str | None]]


@given(st.permutations([(A, 0.5, None), (B, 1.0, None), (C, -2.0, None), (A, 0.25, None)]))
def test_order_does_not_matter(items: Items) -> None:
    plan = SteeringPlan.of(items)
    assert plan.fingerprint == SteeringPlan.of([(A, 0.75, None), (B, 1.0, None), (C, -2.0, None)]).fingerprint
    assert [t.strength for t in plan.terms] == [t.strength for t in SteeringPlan.of(reversed(items)).terms]


@given(st.floats(-50, 50, width=32).filter(bool))
def test_a_vector_and_its_negative_cancel(strength: float) -> None:
    assert (
        SteeringPlan.of([(vector(1), strength, None), (vector(1, sign=-1), strength, None)]) == SteeringPlan()
    )
    assert SteeringPlan.of([(vector(1), strength, None), (vector(1), -strength, None)]) == SteeringPlan()
    assert SteeringPlan.of([(vector(1, sign=-1), -strength, None)]) == SteeringPlan.of(
        [(vector(1), strength, None)]
    )


def test_decimal_strengths_that_sum_to_zero_leave() -> None:
    assert not SteeringPlan.of([(A, 0.1, None), (A, 0.2, None), (A, -0.3, None)])
    rest = SteeringPlan.of([(A, 0.1, None), (B, 0.4, None), (A, -0.1, None)])
    assert rest == SteeringPlan.of([(B, 0.4, None)])


def test_plans_add() -> None:
    one, two = SteeringPlan.of([(A, 0.5, None)]), SteeringPlan.of([(B, 1.0, None), (A, 0.25, None)])
    assert one + two == two + one == SteeringPlan.of([(A, 0.75, None), (B, 1.0, None)])
    assert one + SteeringPlan() == one


def test_the_slot_holds_the_float32_product() -> None:
    for strength in (0.7, -1.3, 1 / 3):
        slots = SteeringPlan.of([(A, strength, None)]).slots
        for n, v in A.directions.items():
            assert np.array_equal(slots[n], np.float32(strength) * v)


def test_a_block_uses_its_slot_only_where_all_of_it_is_constant_and_everywhere() -> None:
    partial = Bundle.build(name="p", directions={2: np.ones(8)}, model=INFO, scope="response")
    plan = SteeringPlan.of([(A, 1.0, None), (partial, 1.0, None)])
    assert sorted(plan.slots) == [1, 3]
    assert {op.layer for op in JointPlan.of([plan]).operations} == {2}
    assert len(JointPlan.of([plan]).operations) == 2
    assert plan.layers == (1, 2, 3)


def test_the_same_bundle_in_two_scopes_is_two_terms() -> None:
    assert len(SteeringPlan.of([(A, 1.0, "all"), (A, 1.0, "response")]).terms) == 2


def test_applied_names_what_is_in_scope() -> None:
    plan = SteeringPlan.of([(A, 1.0, None), (B, 1.0, None)])
    none, everywhere, response = plan.applied(np.array([0, 1, 5], dtype=np.uint8))
    assert none == 0
    assert everywhere not in (0, response)
    only_b = SteeringPlan.of([(B, 1.0, None)])
    assert only_b.applied(np.array([1], dtype=np.uint8))[0] == 0
    assert plan.applied(np.array([1]))[0] == SteeringPlan.of([(A, 1.0, None)]).applied(np.array([5]))[0]


def test_rows_out_of_scope_have_strength_zero() -> None:
    plan = SteeringPlan.of([(A, 0.5, None), (B, 2.0, None), (C, 3.0, None)])
    rows = plan.row_strengths(np.array([1, 3, 7, 5], dtype=np.uint8))
    assert rows.flags.c_contiguous
    by_name = {t.bundle.name: rows[i].tolist() for i, t in enumerate(plan.terms)}
    assert by_name == {"v1": [0.5] * 4, "v2": [0, 0, 2, 2], "v3": [0, 3, 3, 0]}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e39, "1", None, True, [1]])
def test_a_strength_that_is_no_finite_number_is_refused(bad: object) -> None:
    if bad is None:
        assert SteeringPlan.of([(A, None, None)]) == SteeringPlan.of([(A, 1.0, None)])
        return
    with pytest.raises(PlanError, match="strength is .*, expected a finite number"):
        SteeringPlan.of([(A, bad, None)])  # type: ignore[list-item]


def test_an_unknown_scope_is_refused() -> None:
    with pytest.raises(PlanError, match="scope is 'reply', expected one of all, conversation, response"):
        SteeringPlan.of([(A, 1.0, "reply")])


def ranged(low: float, high: float, name: str = "dial") -> Bundle:
    rows = {1: np.ones(8, np.float32)}
    return Bundle.build(name=name, directions=rows, model=INFO, strength=StrengthRange(low, low, high))


@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(-20, 20))
def test_a_strength_beyond_the_evaluated_range_gives_a_warning(a: float, b: float, strength: float) -> None:
    low, high = sorted((a, b))
    warnings = beyond_range(SteeringPlan.of([(ranged(low, high), strength, None)]))
    if strength == 0 or low <= strength <= high:
        assert warnings == []
    elif strength < low - 1e-6 or strength > high + 1e-6:
        assert len(warnings) == 1
        assert all(f"{value:g}" in warnings[0] for value in (strength, low, high))
        assert "dial" in warnings[0]


def test_what_counts_is_the_strength_in_the_plan() -> None:
    dial = ranged(0.0, 0.3)
    assert not beyond_range(SteeringPlan.of([(dial, 0.1, None), (dial, 0.2, None)]))
    assert not beyond_range(SteeringPlan.of([(dial, 5.0, None), (dial, -4.8, None)]))
    assert len(beyond_range(SteeringPlan.of([(dial, 0.2, None), (dial, 0.2, None)]))) == 1
    assert len(beyond_range(SteeringPlan.of([(dial, -0.1, None)]))) == 1
    assert beyond_range(SteeringPlan()) == []


def test_a_bare_control_vector_has_no_evaluated_range() -> None:
    bare = Bundle.from_control_vector(encode_directions({1: np.ones(8, np.float32)}, "llama"), "v")
    assert beyond_range(SteeringPlan.of([(bare, 100.0, None)])) == []


def test_a_name_from_a_file_cannot_break_the_line() -> None:
    (line,) = beyond_range(SteeringPlan.of([(ranged(0.0, 1.0, "a\x1b[2J\nb"), 2.0, None)]))
    assert line.isprintable()


def test_a_factor_multiplies_every_strength_and_nothing_else() -> None:
    plan = SteeringPlan.of([(A, 0.5, None), (B, -2.0, None)])
    assert [t.strength for t in (plan * 3).terms] == [3 * t.strength for t in plan.terms]
    assert (plan * 3).content == plan.content
    assert plan * 1 == plan
    assert 2 * plan == plan * 2 == plan + plan
    assert not plan * 0
    assert not plan + -plan


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e39, "2", None, True])
def test_a_factor_that_is_no_finite_number_is_refused(bad: Any) -> None:
    with pytest.raises(PlanError, match="expected a finite number"):
        SteeringPlan.of([(A, 0.5, None)]) * bad


def test_strengths_that_leave_float32_are_refused() -> None:
    plan = SteeringPlan.of([(A, 3e38, None)])
    with pytest.raises(PlanError, match="expected a finite number"):
        plan * 2
    with pytest.raises(PlanError, match="expected a finite number"):
        plan + plan


def test_a_plan_minus_itself_is_no_intervention() -> None:
    plan = SteeringPlan.of([(A, 0.5, None), (B, -2.0, None)])
    assert not plan - plan
    assert plan - plan * 0.5 == plan * 0.5
