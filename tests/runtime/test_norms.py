"""llm.norms on tiny models: what it measures is what the plan does, wherever and however the plan is
applied."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgesteer import Bundle, PlanError, SteeredLlama, SteeringOverflow
from edgesteer.bundle import read_model_info
from edgesteer.norms import NormReport
from edgesteer.runtime.joint_plan import JointPlan
from edgesteer.runtime.session import Recorded
from tests.runtime.support import F32, gate_weights, logits, psr, steered, tokens_of, vector, without

Model = Callable[[str], Path]
ONE: dict[str, int] = {"n_threads": 1, "n_threads_batch": 1}
ROUNDING = 1e-4  # h is a difference of float32 values


@pytest.fixture(scope="module", params=["llama", "gemma3", "gpt2"])
def path(request: pytest.FixtureRequest, model: Model) -> Path:
    return model(request.param)


@pytest.fixture(scope="module")
def llm(path: Path) -> Iterator[SteeredLlama]:
    opened = steered(path, **ONE)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def _off(llm: SteeredLlama) -> Iterator[None]:
    yield
    llm.clear_steering()


def same(a: NormReport, b: NormReport, rel: float = ROUNDING) -> bool:
    """Equal to rounding in every number."""
    pairs = list(zip(a.blocks, b.blocks, strict=True))
    whole = all((x.layer, x.rows, x.acting) == (y.layer, y.rows, y.acting) for x, y in pairs)
    names = ("stream", "intervention", "ratio", "cosine")
    values = [(getattr(x, n), getattr(y, n)) for x, y in pairs for n in names]
    return whole and all(x == pytest.approx(y, rel=rel, abs=rel) for x, y in values)


@pytest.mark.parametrize("strength", [1.5, -0.7])
@pytest.mark.parametrize("scope", ["all", "response"])
def test_a_constant_has_its_norm_on_every_row(
    llm: SteeredLlama, path: Path, strength: float, scope: str
) -> None:
    tokens, bundle = tokens_of(llm), vector(path, scope=scope)
    llm.steer(bundle, strength)
    for prompt_len in (1, 7, len(tokens)):  # the rows from each on: so each of them
        report = llm.norms(tokens, prompt_len=prompt_len)
        assert [block.layer for block in report.blocks] == list(bundle.layers)
        for block in report.blocks:
            length = np.linalg.norm(bundle.directions[block.layer].astype(np.float64))
            assert block.intervention == pytest.approx(abs(np.float32(strength)) * length, rel=1e-12)
            assert block.rows == block.acting == len(tokens) - (prompt_len - 1 if scope == "response" else 0)


@pytest.mark.parametrize("scope", ["all", "response"])
def test_only_rows_in_scope_count(llm: SteeredLlama, path: Path, scope: str) -> None:
    tokens = tokens_of(llm)
    h = llm.capture(tokens, [1])[1]
    llm.steer(vector(path, [1], scope=scope))
    [block] = llm.norms(tokens, prompt_len=12).blocks
    expected = np.linalg.norm(h[0 if scope == "all" else 11 :], axis=1)
    assert block.rows == len(expected)
    assert block.stream == pytest.approx(expected.mean(), rel=ROUNDING)


def test_at_the_first_steered_block_the_ratio_follows_the_strength(llm: SteeredLlama, path: Path) -> None:
    tokens, reports = tokens_of(llm), []
    for strength in (0.5, 1.0, -2.0):
        llm.steer([vector(path, [2, 3]), psr(path, [2, 3])], strength)
        reports.append(llm.norms(tokens).blocks[0])
    one = reports[1]
    assert one.ratio is not None
    assert one.cosine is not None
    assert [b.ratio for b in reports] == pytest.approx(
        [one.ratio / 2, one.ratio, one.ratio * 2], rel=ROUNDING
    )
    assert [b.cosine for b in reports] == pytest.approx([one.cosine, one.cosine, -one.cosine], abs=ROUNDING)


def coefficients(h: F32, path: Path, layer: int) -> np.ndarray:
    """float64 [rows], of the random PSR: each layer of its gate is ReLU(x W + b)."""
    y = h.astype(np.float64)
    for w, b in gate_weights(read_model_info(path), [layer])[layer]:
        y = np.maximum(y @ w.astype(np.float64) + b, 0)
    return np.asarray(y[:, 0])


@pytest.mark.parametrize("scope", ["all", "response"])
def test_a_psr_is_what_numpy_makes_of_the_captured_activations(
    llm: SteeredLlama, path: Path, scope: str
) -> None:
    tokens, bundle, strength = tokens_of(llm), psr(path, scope=scope), 0.8
    llm.steer(bundle, strength)
    found = llm.norms(tokens, prompt_len=5)
    assert len(found.blocks) == 3
    rows = slice(0 if scope == "all" else 4, None)
    for block in found.blocks:
        below = [n for n in bundle.layers if n < block.layer]
        llm.steer(without(bundle, path, below, seed=0) if below else [], strength)
        h = llm.capture(tokens, [block.layer], prompt_len=5)[block.layer][rows].astype(np.float64)
        u = strength * coefficients(h, path, block.layer)[:, None] * bundle.directions[block.layer]
        acts = u.any(axis=1)
        stream, size = np.linalg.norm(h, axis=1), np.linalg.norm(u, axis=1)
        cosine = (h * u).sum(axis=1)[acts] / stream[acts] / size[acts]
        assert (block.rows, block.acting) == (len(h), acts.sum())
        assert block.stream == pytest.approx(stream.mean(), rel=ROUNDING)
        assert block.intervention == pytest.approx(size.mean(), rel=ROUNDING)
        assert block.ratio == pytest.approx((size / stream).mean(), rel=ROUNDING)
        assert block.cosine == pytest.approx(cosine.mean(), abs=ROUNDING)


def test_slots_and_tap_report_the_same(llm: SteeredLlama, path: Path) -> None:
    tokens, reports = tokens_of(llm), []
    for scope in ("all", "conversation"):  # the same rows, as there is no system turn
        llm.steer(vector(path, scope=scope))
        assert bool(llm.steering.slots) == (scope == "all") != bool(JointPlan.of([llm.steering]).operations)
        reports.append(llm.norms(tokens))
    assert same(*reports)


def everywhere(path: Path) -> list[Bundle]:
    """A plan of all kinds: block 1 in a slot, 2 and the last in the tap, two terms on 2, three scopes."""
    scopes = [psr(path, [2, 3], scope="response"), vector(path, [2], scope="conversation", seed=1)]
    return [vector(path, [1], seed=2), *scopes]


@pytest.mark.parametrize("n_batch", [1, 7])
def test_chunks_change_nothing_but_rounding(llm: SteeredLlama, path: Path, n_batch: int) -> None:
    tokens = tokens_of(llm)
    llm.steer(everywhere(path))
    small = steered(path, **ONE, n_batch=n_batch)
    try:
        small.steer(everywhere(path))
        assert same(small.norms(tokens, prompt_len=9), llm.norms(tokens, prompt_len=9), 1e-3)
    finally:
        small.close()


def test_the_tap_in_python_reports_the_same(
    llm: SteeredLlama, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESTEER_TAP", "python")
    python = steered(path, **ONE)
    try:
        for one in (llm, python):
            one.steer(everywhere(path))
        assert same(*(one.norms(tokens_of(llm), prompt_len=9) for one in (llm, python)))
    finally:
        python.close()


def test_recorded_by_term_is_in_the_order_of_the_plan_and_zero_out_of_scope(
    llm: SteeredLlama, path: Path
) -> None:
    tokens, recorded = tokens_of(llm), []
    llm.steer(everywhere(path), 0.5)
    held: list[Recorded] = recorded
    llm._session.main.recorders.append(held)
    with llm.record() as seen:
        logits(llm, tokens, prompt_len=9)
    llm._session.main.recorders.clear()
    [part] = held
    assert part.by_term.shape == (3, len(tokens), llm._session.n_layer)
    assert part.by_term.dtype == np.float32
    for term, values in zip(llm.steering.terms, part.by_term, strict=True):
        others = [n for n in range(llm._session.n_layer) if n not in term.bundle.layers]
        assert not values[:, others].any()
        assert values[8:, term.bundle.layers].any()
        assert values[:8].any() == (term.scope != "response")
        if term.constant:
            assert (values[:, term.bundle.layers] == np.float32(0.5)).all()
    assert np.array_equal(part.by_term.sum(axis=0)[:, list(seen.layers)], seen.coefficients)


def test_the_context_is_as_after_a_capture(llm: SteeredLlama, path: Path) -> None:
    tokens = tokens_of(llm)
    llm.steer(everywhere(path))
    plan, expected = llm.steering, logits(llm, tokens)
    llm.norms(iter(tokens))  # type: ignore[arg-type]  # anything that yields tokens
    assert llm.n_tokens == 0
    assert llm.steering is plan
    assert np.array_equal(logits(llm, tokens), expected)
    assert same(llm.norms(tokens), llm.norms(tokens), 0)


@pytest.mark.parametrize("prompt_len", [21, 500])
def test_a_prompt_that_never_ends_leaves_no_row_in_scope(
    llm: SteeredLlama, path: Path, prompt_len: int
) -> None:
    llm.steer(psr(path, scope="response"))
    report = llm.norms(tokens_of(llm, n=20), prompt_len=prompt_len)
    assert {block.rows for block in report.blocks} == {0}
    assert report.largest is None
    json.dumps(report.to_json(), allow_nan=False)


def test_without_a_plan_there_is_nothing_to_measure(llm: SteeredLlama, path: Path) -> None:
    for steer in (llm.clear_steering, lambda: llm.steer(vector(path), 0.0)):
        steer()
        with pytest.raises(PlanError, match=r"no plan.*steer"):
            llm.norms(tokens_of(llm))


def test_bad_tokens_are_refused_as_in_capture(llm: SteeredLlama, path: Path) -> None:
    llm.steer(vector(path))
    for tokens in ([], [1] * (llm.n_ctx() + 1)):
        with pytest.raises(PlanError) as theirs:
            llm.capture(tokens)
        with pytest.raises(PlanError) as ours:
            llm.norms(tokens)
        assert str(ours.value) == str(theirs.value)
        assert llm._session.main.recorders == []


def test_an_overflow_is_raised_and_leaves_nothing_behind(llm: SteeredLlama, path: Path) -> None:
    tokens = tokens_of(llm)
    llm.steer(psr(path))
    expected = llm.norms(tokens)
    llm.steer(psr(path, size=100.0), 3e38)
    with pytest.raises(SteeringOverflow):
        llm.norms(tokens)
    assert llm._session.main.recorders == []
    llm.steer(psr(path))
    assert same(llm.norms(tokens), expected, 0)
