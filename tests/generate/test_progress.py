"""One progress bar over stages goes up from 0 to 1, whatever the weights."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from edgesteer.generate.progress import Stages, portion, spread

weights = st.lists(st.floats(0.01, 10), min_size=1, max_size=6)


@given(weights, weights)
def test_stages_add_up_to_the_whole(outer: list[float], inner: list[float]) -> None:
    told: list[tuple[str, float]] = []
    stages = Stages(lambda name, done: told.append((name, done)), sum(outer))
    for i, weight in enumerate(outer[:-1]):
        done = stages.enter(f"{i}", weight)
        for part in (0.5, 1.0):
            done(part)
    nested = Stages(stages.nested(outer[-1]), sum(inner))
    for weight in inner:
        portion(nested.enter("nested", weight), 1, 1, 2)(1.0)
    fractions = [fraction for _, fraction in told]
    assert all(0 <= fraction <= 1 for fraction in fractions)
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(fractions))
    assert abs(fractions[-1] - 1) < 1e-9
    assert {name for name, _ in told} == {*map(str, range(len(outer) - 1)), "nested"}


@given(st.integers(0, 300), st.integers(1, 40))
def test_a_list_is_thinned_out_evenly_and_keeps_its_first(n: int, most: int) -> None:
    kept = spread(n, most)
    assert len(kept) == min(n, most)
    assert kept == sorted(set(kept))
    assert kept[:1] == [0] * (n > 0)
