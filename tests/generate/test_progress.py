"""One progress bar, split: it never goes back, and each stage gets its share and its seconds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgesteer.generate.progress import Stages, portion, spread

WEIGHTS = st.dictionaries(st.sampled_from("abcdef"), st.floats(0.1, 100), min_size=1)


@given(WEIGHTS, st.lists(st.floats(0, 1.5), max_size=4).map(sorted))
def test_a_bar_goes_from_0_to_1_and_never_back(weights: dict[str, float], parts: list[float]) -> None:
    reported: list[tuple[str, float]] = []
    stages = Stages(lambda stage, fraction: reported.append((stage, fraction)), weights)
    for stage in weights:
        done = stages.begin(stage)
        for part in [0.0, *parts, 1.0]:
            done(min(part, 1.5))
        assert reported[-1][0] == stage
    fractions = [fraction for _, fraction in reported]
    assert fractions[0] == 0
    assert abs(fractions[-1] - 1) < 1e-9
    assert all(a <= b + 1e-9 for a, b in zip(fractions, fractions[1:], strict=False) if a <= 1)


def test_each_stage_has_the_seconds_until_the_next_begins() -> None:
    times = iter([0.0, 1.0, 1.0, 4.0, 4.0, 5.0])
    stages = Stages(lambda *_: None, {"a": 1, "b": 1}, lambda: next(times))
    for stage in ("a", "b", "a"):
        stages.begin(stage)
    stages.end()
    stages.end()
    assert stages.seconds == {"a": 2.0, "b": 3.0}


def test_what_is_shown_may_say_more_than_the_stage() -> None:
    reported: list[tuple[str, float]] = []
    stages = Stages(lambda *one: reported.append(one), {"a": 1, "b": 3})
    stages.begin("b", "b: the second half")(0.5)
    assert reported == [("b: the second half", 0.625)]


def test_a_portion_lies_within_the_whole() -> None:
    reported: list[float] = []
    piece = portion(reported.append, 2, 1, 4)
    piece(0.0)
    piece(1.0)
    assert reported == [0.5, 0.75]


@given(st.integers(1, 99), st.integers(1, 99))
def test_a_spread_begins_with_the_first_and_has_no_twice(n: int, most: int) -> None:
    chosen = spread(n, most)
    assert chosen[0] == 0
    assert len(set(chosen)) == len(chosen) == min(n, most)
    assert chosen == sorted(chosen)
    assert chosen[-1] < n
