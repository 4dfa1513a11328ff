"""The steering map is a value: checked once, immutable, exact through JSON."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgesteer.steering_map import SteeringMap


def a_map(coefficients: np.ndarray, n_prompt: int = 0) -> SteeringMap:
    n, blocks = coefficients.shape
    pieces = tuple(f"t{i}" for i in range(n))
    return SteeringMap(
        tuple(range(n)), pieces, tuple(range(n)), n_prompt, tuple(range(1, blocks + 1)), coefficients
    )


float32 = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-1e9, max_value=1e9)
matrices = hnp.arrays(np.float32, st.tuples(st.integers(0, 6), st.integers(1, 4)), elements=float32)


@given(matrices)
def test_json_gives_the_same_map_back(coefficients: np.ndarray) -> None:
    before = a_map(coefficients)
    assert SteeringMap.from_json(json.loads(json.dumps(before.to_json(), allow_nan=False))) == before


@given(matrices)
def test_totals_sum_the_blocks(coefficients: np.ndarray) -> None:
    steering_map = a_map(coefficients)
    assert steering_map.totals.shape == (len(steering_map),)
    np.testing.assert_allclose(
        steering_map.totals, coefficients.astype(np.float64).sum(axis=1), rtol=1e-6, atol=1e-6
    )


@given(matrices, st.data())
def test_the_reply_is_what_follows_the_prompt(coefficients: np.ndarray, data: st.DataObject) -> None:
    whole = a_map(coefficients, data.draw(st.integers(0, len(coefficients))))
    reply = whole.reply
    assert (reply.n_prompt, reply.layers) == (0, whole.layers)
    assert whole.pieces[: whole.n_prompt] + reply.pieces == whole.pieces
    np.testing.assert_array_equal(reply.totals, whole.totals[whole.n_prompt :])


def test_a_map_neither_changes_nor_follows_its_source() -> None:
    source = np.ones((2, 3), dtype=np.float32)
    steering_map = a_map(source)
    source[:] = 7
    assert steering_map.totals.tolist() == [3, 3]
    with pytest.raises(ValueError, match="read-only"):
        steering_map.coefficients[0, 0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        steering_map.n_prompt = 1  # type: ignore[misc]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="NaN or Inf"):
        a_map(np.array([[0, bad]], dtype=np.float32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pieces": ("a",)}, "1 pieces"),
        ({"positions": (0, 1, 2)}, "3 positions"),
        ({"n_prompt": 3}, "n_prompt is 3"),
        ({"n_prompt": -1}, "n_prompt is -1"),
        ({"layers": (2, 1)}, "not ascending"),
        ({"layers": (1, 1)}, "not ascending"),
        ({"coefficients": np.zeros((2, 3))}, "shape"),
    ],
)
def test_what_does_not_fit_together_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(a_map(np.zeros((2, 2), dtype=np.float32)), **change)


def test_equal_content_is_equal() -> None:
    zeros = np.zeros((2, 2), dtype=np.float32)
    assert a_map(zeros) == a_map(-zeros)
    assert a_map(zeros) != a_map(zeros, n_prompt=1)
    assert a_map(zeros) != a_map(zeros + 1)
    assert a_map(zeros) != "a map"


def test_an_empty_map_is_filled_once_and_joins_split_characters() -> None:
    steering_map, tea = SteeringMap.empty(), "茶".encode()
    record = ([5, 6, 7], [0, 1, 2], [b" ", tea[:1], tea[1:]], [4], np.ones((3, 1), dtype=np.float32))
    steering_map.fill(*record, n_prompt=1)
    assert steering_map.pieces == (" ", "", "茶")
    assert steering_map.reply.totals.tolist() == [1, 1]
    with pytest.raises(RuntimeError, match="already holds 3 tokens"):
        steering_map.fill(*record)


def test_a_refused_record_leaves_the_map_empty() -> None:
    steering_map = SteeringMap.empty()
    with pytest.raises(ValueError, match="NaN"):
        steering_map.fill([1], [0], [b"a"], [4], np.full((1, 1), np.nan, dtype=np.float32))
    assert steering_map == SteeringMap.empty()
