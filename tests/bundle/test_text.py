"""Values and block numbers as people read them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesteer.bundle import spans
from edgesteer.bundle.card import entries, words


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"no trait": 8, "repetitive": 1}, "no trait 8, repetitive 1"),
        (
            [{"strength": 1.35, "trait": 0.3106}, {"strength": 1.62}],
            "strength 1.35, trait 0.3106; strength 1.62",
        ),
        ({"value": 0.51, "low": 0.25, "high": 1.0}, "0.51 [0.25, 1]"),
        ({"value": None, "low": None, "high": None}, "none"),
        ({}, "none"),
        ([], "none"),
        (None, "none"),
        (True, "yes"),
        (False, "no"),
        (1, "1"),
        (0.1 + 0.2, "0.3"),
        ("as it is", "as it is"),
    ],
)
def test_values_are_shown_without_brackets_or_quotes(value: Any, text: str) -> None:
    assert words(value) == text


@given(st.sets(st.integers(1, 60)))
def test_spans_name_exactly_their_blocks(blocks: set[int]) -> None:
    named: set[int] = set()
    for run in spans(sorted(blocks)).split(", ") if blocks else []:
        first, _, last = run.partition("-")
        named |= set(range(int(first), int(last or first) + 1))
    assert named == blocks
    assert bool(spans(sorted(blocks))) == bool(blocks)


def test_runs_are_drawn_together() -> None:
    assert spans([1, 2, 3, 7]) == "1-3, 7"


def test_nested_values_are_lines_with_a_depth() -> None:
    values = {"b": {"x": {"value": 1, "low": 0, "high": 2}, "y": {}}, "a": [1, 2]}
    assert list(entries(values)) == [(0, "a", "1; 2"), (0, "b", ""), (1, "x", "1 [0, 2]"), (1, "y", "none")]
