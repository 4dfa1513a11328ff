"""The laws of steering, on real models and on tiny random ones of several architectures."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from edgesteer import SteeredLlama, SteeringOverflow, SteeringPlan
from edgesteer.bundle import read_model_info, save
from tests.runtime import support
from tests.runtime.support import (
    REAL,
    TEXT,
    TINY,
    close,
    gate_weights,
    logits,
    plain,
    psr,
    reference,
    steered,
    stepwise,
    tokens_of,
    vector,
)

Model = Callable[[str], Path]


class Pair:
    """A steered and a plain model of one file, with a text's tokens and its unsteered logits."""

    def __init__(self, path: Path) -> None:
        self.path, self.info = path, read_model_info(path)
        self.steered, self.plain = steered(path), plain(path)
        self.tokens = tokens_of(self.plain)
        self.unsteered = logits(self.plain, self.tokens)

    def close(self) -> None:
        self.steered.close()
        self.plain.close()


@pytest.fixture(scope="module", params=[*REAL, *TINY])
def pair(request: pytest.FixtureRequest, model: Model) -> Iterator[Pair]:
    made = Pair(model(request.param))
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _off(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "pair" in request.fixturenames:
        request.getfixturevalue("pair").steered.clear_steering()


# -- Law 1: off is off ----------------------------------------------------------------------------


def test_without_a_plan_logits_are_those_of_llama(pair: Pair) -> None:
    assert np.array_equal(logits(pair.steered, pair.tokens), pair.unsteered)
    assert np.array_equal(stepwise(pair.steered, pair.tokens[:6]), stepwise(pair.plain, pair.tokens[:6]))


@pytest.mark.parametrize("kind", [vector, psr])
@pytest.mark.parametrize("scope", ["all", "response"])
def test_a_cleared_plan_leaves_no_trace(pair: Pair, kind: Callable, scope: str) -> None:
    pair.steered.steer(kind(pair.path, scope=scope))
    assert not np.array_equal(logits(pair.steered, pair.tokens), pair.unsteered)
    pair.steered.clear_steering()
    assert not pair.steered.steering
    assert np.array_equal(logits(pair.steered, pair.tokens), pair.unsteered)


@pytest.mark.parametrize("kind", [vector, psr])
def test_strength_zero_is_no_plan(pair: Pair, kind: Callable) -> None:
    pair.steered.steer(kind(pair.path), strength=0.0)
    assert pair.steered.steering == SteeringPlan()
    assert np.array_equal(logits(pair.steered, pair.tokens), pair.unsteered)


@pytest.mark.parametrize("kind", [vector, psr])
@pytest.mark.parametrize("scope", ["all", "response"])
def test_off_is_off_after_an_overflow(pair: Pair, kind: Callable, scope: str) -> None:
    pair.steered.steer(kind(pair.path, scope=scope, size=100.0), strength=3e38)
    with pytest.raises(SteeringOverflow, match="Inf or NaN"):
        logits(pair.steered, pair.tokens)
    assert pair.steered.n_tokens == 0
    pair.steered.clear_steering()
    assert np.array_equal(logits(pair.steered, pair.tokens), pair.unsteered)


# -- Law 2: constants are llama.cpp's control vectors ---------------------------------------------


def _with_cvec(pair: Pair, vectors: dict[int, np.ndarray]) -> np.ndarray:
    """Logits of a plain context under llama.cpp's own control vector; shares no code with edgesteer."""
    rows = support.as_cvec(vectors, pair.info.n_layer, pair.info.n_embd)
    data = rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    n_embd, last = pair.info.n_embd, pair.info.n_layer - 1
    assert llama_cpp.llama_set_adapter_cvec(pair.plain.ctx, data, rows.size, n_embd, 1, last) == 0
    try:
        return logits(pair.plain, pair.tokens)
    finally:
        llama_cpp.llama_set_adapter_cvec(pair.plain.ctx, None, 0, n_embd, 1, last)


@pytest.mark.parametrize("strength", [1.0, 0.7, -1.3])
@pytest.mark.parametrize("blocks", ["all", "first", "last"])
def test_a_vector_is_a_control_vector(pair: Pair, strength: float, blocks: str) -> None:
    last = pair.info.n_layer - 1
    bundle = vector(pair.path, {"all": None, "first": [1], "last": [last]}[blocks])
    expected = _with_cvec(pair, {n: v * np.float32(strength) for n, v in bundle.directions.items()})
    pair.steered.steer(bundle, strength)
    assert pair.steered.steering.slots.keys() == bundle.directions.keys()
    assert np.array_equal(logits(pair.steered, pair.tokens), expected)
    assert not np.array_equal(expected, pair.unsteered)


def test_a_shorter_vector_leaves_nothing_of_the_longer_one(pair: Pair) -> None:
    pair.steered.steer(vector(pair.path))
    short = vector(pair.path, [1], seed=5)
    pair.steered.steer(short)
    assert np.array_equal(logits(pair.steered, pair.tokens), _with_cvec(pair, dict(short.directions)))


def test_a_bundle_file_steers_as_the_bundle_does(pair: Pair, tmp_path: Path) -> None:
    bundle = vector(pair.path)
    save(bundle, tmp_path / "v.steer")
    (tmp_path / "bare.gguf").write_bytes(bundle.members["directions.gguf"])
    pair.steered.steer(bundle)
    expected = logits(pair.steered, pair.tokens)
    for name in ("v.steer", "bare.gguf"):
        pair.steered.steer(tmp_path / name)
        assert np.array_equal(logits(pair.steered, pair.tokens), expected)


def test_the_tap_adds_what_the_slot_adds(pair: Pair) -> None:
    pair.steered.steer(vector(pair.path), 0.7)
    expected = logits(pair.steered, pair.tokens)
    pair.steered.steer(vector(pair.path), 0.7, scope="response")
    assert not pair.steered.steering.slots
    assert np.array_equal(logits(pair.steered, pair.tokens, prompt_len=1), expected)


# -- Law 3: a PSR is FORMAT's equation ------------------------------------------------------------

STRENGTH = np.float32(0.8)


def _check_equation(
    llm: SteeredLlama, path: Path, tokens: list[int], layers: list[int], scope: str, prompt_len: int
) -> None:
    """At each block: what the tap made of h is what NumPy makes of the same h."""
    info = read_model_info(path)
    every = list(range(1, info.n_layer))
    weights, z = gate_weights(info, every), support.directions(info)
    in_scope = np.zeros(len(tokens), dtype=np.float32)
    in_scope[{"all": 0, "response": prompt_len - 1}[scope] :] = STRENGTH
    for n in layers:
        below = [m for m in every if m < n]
        llm.clear_steering()
        if below:
            llm.steer(psr(path, below, scope=scope), float(STRENGTH))
        h = llm.capture(tokens, [n], prompt_len=prompt_len)[n]
        llm.steer(psr(path, [*below, n], scope=scope), float(STRENGTH))
        got = llm.capture(tokens, [n], prompt_len=prompt_len)[n]
        wanted = reference(h, in_scope, z[n], weights[n])
        assert close(got, wanted), f"block {n}"
        assert np.array_equal(got[in_scope == 0], h[in_scope == 0])
        assert not np.array_equal(got, h)


@pytest.mark.parametrize("scope", ["all", "response"])
def test_a_psr_is_the_equation(pair: Pair, scope: str) -> None:
    last = pair.info.n_layer - 1
    _check_equation(pair.steered, pair.path, pair.tokens, [1, pair.info.n_layer // 2, last], scope, 5)


@pytest.mark.parametrize("tap", ["native", "python"])
@pytest.mark.parametrize(("n_batch", "n_ubatch"), [(1, 1), (7, 7), (7, 3), (64, 64), (64, 5)])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_equation_holds_however_the_tokens_are_split(
    model: Model, name: str, n_batch: int, n_ubatch: int, tap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tap == "python":
        monkeypatch.setenv("EDGESTEER_TAP", "python")
    llm = steered(model(name), n_batch=n_batch, n_ubatch=n_ubatch)
    assert llm._tap.name == tap
    for scope in ("all", "response"):
        _check_equation(llm, model(name), tokens_of(llm), [1, 3], scope, 5)
    llm.close()


@pytest.mark.parametrize(("n_batch", "n_ubatch"), [(1, 1), (7, 3), (64, 16)])
def test_the_equation_holds_on_smollm2_however_split(smollm2: Path, n_batch: int, n_ubatch: int) -> None:
    llm = steered(smollm2, n_batch=n_batch, n_ubatch=n_ubatch)
    _check_equation(llm, smollm2, tokens_of(llm, n=18), [1, 15, 29], "response", 5)
    llm.close()


@pytest.mark.parametrize("name", ["smollm2", *TINY])
def test_both_taps_give_the_same_bits(model: Model, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = model(name)
    bundles = [(psr(path, scope="response"), 0.7), (vector(path, scope="conversation", seed=3), 0.4)]
    results = []
    for tap in ("native", "python"):
        monkeypatch.setenv("EDGESTEER_TAP", "python" if tap == "python" else "")
        llm = steered(path, n_ubatch=8)
        assert llm._tap.name == tap
        llm.steer(bundles)
        results.append(logits(llm, tokens_of(llm), prompt_len=3))
        llm.close()
    assert np.array_equal(*results)


@pytest.mark.parametrize("kind", [vector, psr])
def test_stepwise_agrees_with_a_batch_as_the_unsteered_model_does(pair: Pair, kind: Callable) -> None:
    """Batch shapes change llama.cpp's own arithmetic; steering adds nothing of its own to that."""
    noise = np.abs(stepwise(pair.plain, pair.tokens) - pair.unsteered).max()
    pair.steered.steer(kind(pair.path, size=0.005))
    together = logits(pair.steered, pair.tokens)
    apart = np.abs(stepwise(pair.steered, pair.tokens) - together).max()
    assert apart <= 4 * noise + 1e-4 * np.abs(together).max()


def test_the_last_block_is_steered_where_only_one_row_remains(model: Model) -> None:
    """Without logits_all the last block of a ubatch has one row, or none."""
    for name in ("smollm2", *TINY):
        path = model(name)
        last = read_model_info(path).n_layer - 1
        final = []
        for options in ({"logits_all": True}, {"logits_all": False}, {"logits_all": False, "n_ubatch": 4}):
            llm = steered(path, n_batch=32, **options)
            llm.steer(psr(path, [last], size=0.5))
            llm.eval(tokens_of(llm))
            final.append(np.ctypeslib.as_array(llm._ctx.get_logits_ith(-1), (llm.n_vocab(),)).copy())
            llm.close()
        scale = np.abs(final[0]).max()
        assert np.abs(final[1] - final[0]).max() <= 0.02 * scale
        assert np.abs(final[2] - final[0]).max() <= 0.02 * scale


# -- Law 4: plans add up and commute --------------------------------------------------------------


def test_plans_commute_and_cancel(pair: Pair) -> None:
    a, b, c = vector(pair.path, seed=1), psr(pair.path, seed=2), vector(pair.path, seed=3, scope="response")
    pair.steered.steer([(a, 0.5), (b, 0.6), (c, 0.7)])
    one, fingerprint = logits(pair.steered, pair.tokens), pair.steered.steering.fingerprint
    pair.steered.steer([(c, 0.7), (a, 0.5), (b, 0.6)])
    assert pair.steered.steering.fingerprint == fingerprint
    assert np.array_equal(logits(pair.steered, pair.tokens), one)
    pair.steered.steer([(a, 0.5), (b, 0.6), (c, 0.7), (a, -0.5), (c, -0.7), (b, -0.6)])
    assert not pair.steered.steering
    assert np.array_equal(logits(pair.steered, pair.tokens), pair.unsteered)


def test_terms_add_up_at_a_block(pair: Pair) -> None:
    """Two gates at one block read the same h; a constant beside them is added too."""
    n = pair.info.n_layer // 2
    z = {s: support.directions(pair.info, [n], s)[n] for s in (1, 2, 3)}
    h = pair.steered.capture(pair.tokens, [n])[n]
    items = [
        (psr(pair.path, [n], seed=1), 0.5),
        (psr(pair.path, [n], seed=2), -0.8),
        (vector(pair.path, [n], seed=3), 1.5),
    ]
    pair.steered.steer(items)
    got = pair.steered.capture(pair.tokens, [n])[n]
    wanted = h.astype(np.float64)
    for (bundle, strength), seed in zip(items, (1, 2, 3), strict=True):
        gate = gate_weights(pair.info, [n], seed)[n] if bundle.gate else None
        wanted += reference(h, np.full(len(h), strength, np.float32), z[seed], gate).astype(np.float64) - h
    assert close(got, wanted.astype(np.float32), 1e-4)


def test_the_previous_plan_returns(pair: Pair) -> None:
    a, b = vector(pair.path, seed=1), psr(pair.path, seed=2)
    pair.steered.steer(a, 0.5)
    outer = pair.steered.steering
    before = logits(pair.steered, pair.tokens)
    with pair.steered.steered(b, strength=0.8):
        assert pair.steered.steering != outer
        assert not np.array_equal(logits(pair.steered, pair.tokens), before)
    assert pair.steered.steering is outer
    assert np.array_equal(logits(pair.steered, pair.tokens), before)
    with pytest.raises(RuntimeError, match="inside"), pair.steered.steered(b):
        raise RuntimeError("inside")
    assert pair.steered.steering is outer
    assert np.array_equal(logits(pair.steered, pair.tokens), before)


# -- Law 5, as far as one conversation goes: KV is reused where the same intervention made it ------


def _completion(llm: llama_cpp.Llama, prompt: bytes = TEXT, n: int = 8) -> list[int]:
    out = []
    for token in llm.generate(llm.tokenize(prompt, add_bos=False), temp=0.0):
        out.append(token)
        if len(out) == n:
            return out
    raise AssertionError("generation ended")


@pytest.mark.parametrize("kind", [vector, psr])
def test_kv_of_another_plan_is_made_anew(pair: Pair, kind: Callable) -> None:
    """Scope `all` touches every position: after a change nothing is reused, so the bits are a fresh run's."""
    llm, bundle = pair.steered, kind(pair.path, size=0.3)
    fresh = steered(pair.path)
    unsteered = _completion(fresh)
    fresh.close()
    fresh = steered(pair.path)
    fresh.steer(bundle)
    wanted = _completion(fresh)
    rows = fresh.scores[: fresh.n_tokens].copy()
    fresh.close()
    llm.reset()
    assert _completion(llm) == unsteered
    llm.steer(bundle)
    assert _completion(llm) == wanted
    assert np.array_equal(llm.scores[: llm.n_tokens], rows)
    llm.clear_steering()
    assert _completion(llm) == unsteered


@pytest.mark.parametrize("kind", [vector, psr])
def test_an_unsteered_prompt_is_reused_under_scope_response(pair: Pair, kind: Callable) -> None:
    """Only the last prompt token is decoded again, as if it had never been decoded unsteered."""
    llm, bundle = pair.steered, kind(pair.path, scope="response", size=0.3)
    prompt = llm.tokenize(TEXT, add_bos=False)
    by_hand = steered(pair.path)
    by_hand.eval(prompt)
    by_hand.n_tokens -= 1
    by_hand.steer(bundle)
    by_hand.eval(prompt[-1:])
    llm.reset()
    _completion(llm)
    llm.steer(bundle)
    with llm.record() as seen:
        _completion(llm, n=1)
    assert seen.positions == (len(prompt) - 1,)
    assert np.array_equal(llm.scores[len(prompt) - 1], by_hand.scores[len(prompt) - 1])
    by_hand.close()


# -- Cases where faults hide ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [vector, psr])
def test_a_prompt_of_one_token(pair: Pair, kind: Callable) -> None:
    pair.steered.steer(kind(pair.path, scope="response"))
    one = logits(pair.steered, pair.tokens[:1])
    assert not np.array_equal(one, logits(pair.plain, pair.tokens[:1]))
    pair.steered.steer(kind(pair.path, scope="all"))
    assert np.array_equal(logits(pair.steered, pair.tokens[:1]), one)


def test_two_models_with_different_plans_do_not_mix(pair: Pair) -> None:
    other = steered(pair.path)
    a, b = psr(pair.path, seed=1), psr(pair.path, seed=2)
    pair.steered.steer(a)
    other.steer(b)
    alone = [logits(pair.steered, pair.tokens), logits(other, pair.tokens)]
    for llm in (pair.steered, other):
        llm.reset()
    for token in pair.tokens[:4]:
        pair.steered.eval([token])
        other.eval([token])
    for llm, bundle in ((pair.steered, a), (other, b)):
        turn = llm.scores[:4].copy()
        llm.steer(bundle)
        assert np.array_equal(stepwise(llm, pair.tokens[:4]), turn)
    assert not np.array_equal(*alone)
    other.close()


def test_a_model_with_an_active_plan_can_go(model: Model) -> None:
    path = model("llama")
    for _ in range(3):
        llm = steered(path)
        llm.steer([(psr(path), 1.0), (vector(path, scope="response"), 1.0)])
        llm.eval([1, 2, 3])
        del llm
        gc.collect()
    llm = steered(path)
    llm.steer(psr(path))
    assert np.isfinite(logits(llm, [1, 2, 3])).all()
