"""Which replies are worth learning from, and positions that bound the memory."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgesteer.errors import LearnError
from edgesteer.learn.contrast import spaced
from edgesteer.learn.pairs import Pair, keep_good

GOOD = Pair("q", [1, 2], [1, 3, 2], list(range(20)), trait=0.4, nll0=1.5, nll_prompted=1.0)


def changed(**values: object) -> Pair:
    return dataclasses.replace(GOOD, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (changed(reply=[]), "short"),
        (changed(reply=[5, 6, 7]), "short"),
        (changed(reply=[5, 6] * 10), "repetitive"),
        (changed(nll_prompted=3.5), "incoherent"),
        (changed(trait=0.01), "no trait"),
        (changed(trait=-0.2), "no trait"),
    ],
)
def test_a_bad_reply_is_dropped_and_counted(bad: Pair, reason: str) -> None:
    kept, dropped = keep_good([GOOD, bad, GOOD])
    assert kept == [GOOD, GOOD]
    assert dropped == {reason: 1}


def test_order_and_number_are_kept() -> None:
    pairs = [changed(question=str(i), trait=0.1 + 0.01 * (i % 3)) for i in range(9)]
    assert keep_good(pairs) == (pairs, {})


def test_the_floor_of_the_trait_is_relative() -> None:
    """A quiet trait, of which every reply has a little, is not dropped for being quiet."""
    pairs = [changed(trait=t) for t in (0.001, 0.02, 0.021, 0.019)]
    kept, dropped = keep_good(pairs)
    assert [p.trait for p in kept] == [0.02, 0.021, 0.019]
    assert dropped == {"no trait": 1}


@pytest.mark.parametrize("pairs", [[changed(reply=[])], [changed(trait=-0.1), changed(trait=-0.3)]])
def test_nothing_left_is_an_error_that_counts(pairs: list[Pair]) -> None:
    with pytest.raises(LearnError, match=f"all {len(pairs)} replies were dropped"):
        keep_good(pairs)


def test_positions_are_the_last_prompt_token_and_the_reply() -> None:
    assert GOOD.n_positions == 21


@pytest.mark.parametrize(("n", "most"), [(5, 9), (9, 9), (64, 10), (100, 1), (7, 3)])
def test_spaced_positions_are_few_distinct_and_in_range(n: int, most: int) -> None:
    kept = spaced(n, most)
    assert len(kept) == min(n, most)
    assert kept[0] == 0
    assert (np.diff(kept) > 0).all()
    assert kept[-1] < n
    assert np.ptp(np.diff(kept)) <= 1 if len(kept) > 1 else True
