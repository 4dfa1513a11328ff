"""The norm report as mathematics: on random streams and terms, without a model."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesteer.bundle import Bundle, encode_directions
from edgesteer.norms import BlockNorms, NormReport, norm_report
from edgesteer.plan import SteeringPlan, Term

ROWS, WIDTH, N_LAYER = 5, 6, 4
REL = 1e-5


def terms_of(seed: int, *blocks: list[int]) -> tuple[Term, ...]:
    """A term of strength 1 for each list of blocks."""
    rng = np.random.default_rng(seed)
    bundles = [
        Bundle.from_control_vector(
            encode_directions({n: rng.standard_normal(WIDTH).astype(np.float32) for n in held}, "llama"), "v"
        )
        for held in blocks
    ]
    return SteeringPlan.of((bundle, 1.0, "all") for bundle in bundles).terms


def made(seed: int, blocks: tuple[list[int], ...] = ([1, 2], [2, 3]), zero: float = 0.3) -> NormReport:
    return norm_report(*ingredients(seed, blocks, zero))


def ingredients(  # type: ignore[no-untyped-def]
    seed: int, blocks: tuple[list[int], ...] = ([1, 2], [2, 3]), zero: float = 0.3
):
    rng = np.random.default_rng(seed)
    terms = terms_of(seed, *blocks)
    strengths = np.where(rng.random((len(terms), ROWS)) < zero, 0, 1.5).astype(np.float32)
    gates = np.maximum(rng.standard_normal((len(terms), ROWS, N_LAYER)), 0).astype(np.float32)
    steered = {
        n: rng.standard_normal((ROWS, WIDTH)).astype(np.float32)
        for n in sorted({n for b in blocks for n in b})
    }
    return terms, strengths, strengths[:, :, None] * gates, steered


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_it_is_the_equation_row_by_row(seed: int) -> None:
    terms, strengths, coefficients, steered = ingredients(seed)
    for block in norm_report(terms, strengths, coefficients, steered).blocks:
        n, seen = block.layer, []
        here = [i for i, term in enumerate(terms) if n in term.bundle.directions]
        for t in range(ROWS):
            if any(strengths[i, t] for i in here):
                u = sum(
                    float(coefficients[i, t, n]) * terms[i].bundle.directions[n].astype(float) for i in here
                )
                seen.append((steered[n][t].astype(float) - u, u))
        assert block.rows == len(seen)
        assert block.acting == sum(bool(u.any()) for _, u in seen)
        if seen:
            lengths = np.array([(np.linalg.norm(h), np.linalg.norm(u)) for h, u in seen])
            assert (block.stream, block.intervention) == pytest.approx(tuple(lengths.mean(axis=0)), rel=REL)
            assert block.ratio == pytest.approx((lengths[:, 1] / lengths[:, 0]).mean(), rel=REL)
        cosines = [h @ u / np.linalg.norm(h) / np.linalg.norm(u) for h, u in seen if u.any()]
        assert block.cosine == (pytest.approx(np.mean(cosines), abs=1e-9) if cosines else None)


def test_a_row_out_of_scope_changes_nothing() -> None:
    terms, strengths, coefficients, steered = ingredients(3, ([1],), zero=0)
    fewer = norm_report(terms, strengths[:, 1:], coefficients[:, 1:], {1: steered[1][1:]})
    strengths[:, 0] = coefficients[:, 0] = 0
    steered[1][0] = 1e30
    assert norm_report(terms, strengths, coefficients, steered).blocks == fewer.blocks


def test_a_closed_gate_is_in_scope_and_has_no_cosine() -> None:
    terms, strengths, coefficients, steered = ingredients(0, ([1],), zero=0)
    [block] = norm_report(terms, strengths, 0 * coefficients, steered).blocks
    assert (block.rows, block.acting) == (ROWS, 0)
    assert (block.intervention, block.ratio, block.cosine) == (0, 0, None)


def test_a_stream_of_zeros_has_no_ratio() -> None:
    terms, strengths, coefficients, _ = ingredients(0, ([1],), zero=0)
    coefficients[:] = 1
    after = np.tile(terms[0].bundle.directions[1], (ROWS, 1))
    [block] = norm_report(terms, strengths, coefficients, {1: after}).blocks
    assert (block.rows, block.acting, block.stream) == (ROWS, ROWS, 0)
    assert (block.ratio, block.cosine) == (None, None)


def test_the_summary_names_the_largest_and_the_median() -> None:
    blocks = tuple(BlockNorms(n, 1, 1, 1.0, r, r, 0.0) for n, r in ((1, 0.2), (4, 0.5), (6, 0.5), (7, 0.1)))
    report = NormReport(1, (*blocks, BlockNorms(9, 0, 0, None, None, None, None)))
    assert report.largest == (0.5, 4)
    assert report.median == pytest.approx(0.35)


def test_nothing_in_scope_has_no_numbers() -> None:
    terms, strengths, coefficients, steered = ingredients(0, zero=1)
    report = norm_report(terms, strengths, coefficients, steered)
    assert {block.rows for block in report.blocks} == {0}
    assert (report.largest, report.median) == (None, None)
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert {data["largest"], data["median"], *(b["stream"] for b in data["blocks"])} == {None}


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_json_tells_every_number(seed: int) -> None:
    report = made(seed)
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["tokens"] == ROWS
    names = ("rows", "acting", "stream", "intervention", "ratio", "cosine")
    for block, json_block in zip(report.blocks, data["blocks"], strict=True):
        assert json_block == {"block": block.layer, **{name: getattr(block, name) for name in names}}
    if report.largest:
        assert data["largest"] == {"ratio": report.largest[0], "block": report.largest[1]}


@pytest.mark.parametrize("wrong", ["terms", "coefficients", "rows"])
def test_shapes_that_disagree_are_refused(wrong: str) -> None:
    terms, strengths, coefficients, steered = ingredients(0)
    if wrong == "terms":
        terms = terms[:1]
    elif wrong == "coefficients":
        coefficients = coefficients[:, 1:]
    else:
        steered[3] = steered[3][1:]
    with pytest.raises(ValueError, match="norm report"):
        norm_report(terms, strengths, coefficients, steered)
