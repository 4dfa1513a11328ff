"""Block numbers as people read them."""

from hypothesis import given
from hypothesis import strategies as st

from edgesteer.bundle import spans


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
