"""A way to ask: what acts in it, at which strengths, and what it is called."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesteer.bundle import Bundle, ModelInfo, StrengthRange
from edgesteer.evaluate import Way, labels


def made(
    name: str = "a", blocks: tuple[int, ...] = (1,), gated: bool = False, seed: int = 0, **more: Any
) -> Bundle:
    gate = {n: [(np.ones((8, 1), np.float32), np.ones(1, np.float32))] for n in blocks} if gated else None
    drawn = np.random.default_rng(seed).standard_normal(8).astype(np.float32)
    return Bundle.build(
        name=name,
        directions=dict.fromkeys(blocks, drawn),
        model=ModelInfo("llama", "tiny", 8, 4, "F32"),
        gate=gate,
        **more,
    )


@pytest.mark.parametrize(
    ("bundles", "kind"),
    [
        ([made()], "constant"),
        ([made(blocks=(1, 2))], "constant"),
        ([made(gated=True)], "S-PSR"),
        ([made(gated=True, blocks=(1, 2))], "A-PSR"),
        ([made(), made(seed=1)], "constant"),
        ([made(), made(gated=True)], "sum"),
    ],
)
def test_what_acts_is_read_off_the_bundles(bundles: list[Bundle], kind: str) -> None:
    assert Way.of("prompt", [], [(bundle, 1.0) for bundle in bundles]).kind == kind


def test_without_a_bundle_only_the_prompt_acts() -> None:
    assert Way("prompt", []).kind == "prompt"
    assert Way("unsteered", []).kind == "unsteered"
    assert not Way("unsteered", []).plan


def test_one_bundle_has_its_own_strength_and_several_a_multiple_of_theirs() -> None:
    a, b = made("a"), made("b", seed=1)
    one, several = Way.of("x", [], [(a, 0.7)]), Way.of("x", [], [(a, 0.7), (b, -2.0)])
    assert (one.strength, several.strength) == (0.7, 1.0)
    assert one.sources == (("a", 0.7),)
    assert dict(several.sources) == {"a": 0.7, "b": -2.0}
    assert one.plan + Way.of("x", [], [(b, -2.0)]).plan == several.plan
    assert Way.of("x", [], [(a, 0.0)]).bundles == (a,)  # what is off can still be turned up
    assert Way.of("x", [], [(a, None)]).strength == a.strength.default


STRENGTHS = st.floats(0.1, 3) | st.floats(-3, -0.1)


@given(st.lists(st.tuples(STRENGTHS, st.floats(-2, 1), st.floats(1, 3)), min_size=1, max_size=3))
def test_in_the_range_every_bundle_is_in_its_own(drawn: list[tuple[float, float, float]]) -> None:
    sources = [
        (made(str(i), seed=i, strength=StrengthRange(1.0, low, high)), strength)
        for i, (strength, low, high) in enumerate(drawn)
    ]
    way = Way.of("x", [], sources)
    lo, hi = way.range
    assert lo <= hi
    for term in way.unit.terms if lo < hi else ():  # else the ranges have nothing in common, from 0 up
        own = term.bundle.strength
        assert all(own.min - 1e-9 <= factor * term.strength <= own.max + 1e-9 for factor in (lo, hi))


def test_every_row_has_a_name_of_its_own() -> None:
    names = ["a", "b", "a", "a", "prompt"]
    rows = [[(made(n), s)] for n, s in zip(names, [1, 2, 3, 3, 1.5], strict=True)]
    assert labels(rows) == ["a 1", "b", "a 3", "a 3 (2)", "prompt 1.5"]
    both = [(made("a"), 1.0), (made("b"), 0.5)]
    assert labels([both, both, both[:1]]) == ["a 1 + b 0.5", "a 1 + b 0.5 (2)", "a"]
