"""Likelihoods of prompted replies: the vertex of sampled losses, the best block, blocks that are not missed."""

from __future__ import annotations

import pytest

from edgesteer.learn.likelihood import lowest


@pytest.mark.parametrize("best", [0.8, 1.0, 1.37, 1.75])
def test_exact_on_a_parabola(best: float) -> None:
    xs = [0.75, 1.25, 1.75, 2.5]
    assert lowest(xs, [3 + 2 * (x - best) ** 2 for x in xs]) == pytest.approx(best)


@pytest.mark.parametrize(("slope", "edge"), [(1.0, 0.75), (-1.0, 2.5)])
def test_stays_within_the_samples(slope: float, edge: float) -> None:
    xs = [0.75, 1.25, 1.75, 2.5]
    assert lowest(xs, [slope * x + 0.001 * x * x for x in xs]) == edge


def test_a_straight_line_gives_its_lower_end() -> None:
    assert lowest([1, 2, 3], [5, 4, 3]) == 3
