"""The scan: every cell is what its block alone, steered at that strength, gives on a context of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesteer import Bundle, SteeredLlama
from edgesteer.bundle import read_model_info
from edgesteer.errors import IncompatibleError, InputError
from edgesteer.evaluate.scan.cells import Cells, alone
from edgesteer.evaluate.scan.measure import scan
from edgesteer.evaluate.scan.result import Scan, pooled
from edgesteer.generate.chat import REPEAT_PENALTY, Chat
from edgesteer.plan import SteeringPlan
from tests.learn.pas.support import opened
from tests.runtime.support import ANY_STRENGTH, directions, gate_weights, logits, psr, steered, vector

Model = Callable[[str], Path]
QUESTIONS = ["What is a key?", "Why?"]
TRAIT = "You talk like a pirate."
SIZES = (0.05, 0.3)
SEED = 1  # all of its gates open on these replies


@pytest.fixture(scope="module")
def path(model: Model) -> Path:
    return model("llama")


@pytest.fixture(scope="module")
def chat(path: Path) -> Iterator[Chat]:
    llm = opened(path)
    yield Chat(llm)
    llm.close()


@pytest.fixture(scope="module")
def single(path: Path) -> Iterator[SteeredLlama]:
    llm = steered(path, n_ctx=512, n_threads=1, n_threads_batch=1)
    yield llm
    llm.close()


@pytest.fixture(scope="module", params=["psr", "vector"])
def bundle(request: pytest.FixtureRequest, path: Path) -> Bundle:
    return {"psr": psr, "vector": vector}[request.param](path, scope="response", seed=SEED, size=0.5)


@pytest.fixture(scope="module")
def found(chat: Chat, bundle: Bundle) -> Scan:
    return scanned(chat, bundle)


def scanned(chat: Chat, bundle: Bundle, trait: str | None = TRAIT, **options: Any) -> Scan:
    return scan(chat, bundle, trait, **{"sizes": SIZES, "questions": QUESTIONS, "max_tokens": 5, **options})


def tokens_of(chat: Chat, question: str, system: str | None = None) -> list[int]:
    (reply,) = chat.replies([chat.prompt(question, system)], 5, repeat_penalty=REPEAT_PENALTY)
    return reply.all_tokens


def same(one: Scan, other: Scan) -> bool:
    return bool(one.to_json() == other.to_json())


def log_probs(
    llm: SteeredLlama, plan: SteeringPlan, prompt: list[int], reply: list[int]
) -> np.ndarray[Any, Any]:
    """float64 [len(reply), n_vocab], by llama_cpp's own road."""
    llm.steer(plan)
    rows = logits(llm, [*prompt, *reply[:-1]], prompt_len=len(prompt))[len(prompt) - 1 :].astype(np.float64)
    shifted = rows - rows.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


@pytest.mark.parametrize("i", [0, 2])
@pytest.mark.parametrize("j", [0, 1])
def test_a_cell_is_its_block_alone(
    chat: Chat, single: SteeredLlama, bundle: Bundle, found: Scan, i: int, j: int
) -> None:
    strength = found.strengths[i, j]
    plan = SteeringPlan.of([(alone(bundle, bundle.layers[i]), strength, "response")])
    kl, gain, rows = 0.0, 0.0, [0, 0]
    for question in QUESTIONS:
        prompt, plain, prompted = chat.prompt(question), tokens_of(chat, question), tokens_of(chat, question, TRAIT)
        p, q = (log_probs(single, one, prompt, plain) for one in (SteeringPlan(), plan))
        kl += (np.exp(p) * (p - q)).sum()
        p, q = (log_probs(single, one, prompt, prompted) for one in (SteeringPlan(), plan))
        gain += (q - p)[np.arange(len(prompted)), prompted].sum()
        rows = [rows[0] + len(plain), rows[1] + len(prompted)]
    assert tuple(rows) == found.tokens
    assert found.gain is not None
    assert found.kl[i, j] == pytest.approx(kl / rows[0], rel=0.02, abs=1e-4)
    assert found.gain[i, j] == pytest.approx(gain / rows[1], rel=0.02, abs=2e-3)


def test_what_is_added_has_the_norm_asked_for_at_every_block(
    chat: Chat, single: SteeredLlama, bundle: Bundle, found: Scan
) -> None:
    one = scanned(chat, bundle, None, questions=QUESTIONS[:1])
    norm = scanned(chat, bundle, None, questions=QUESTIONS[:1], sizes=[2.5], unit="norm")
    prompt, reply = chat.prompt(QUESTIONS[0]), tokens_of(chat, QUESTIONS[0])
    for i, block in enumerate(bundle.layers):
        for scanned_as, j, wanted in ((one, 1, 0.3 * one.streams[i]), (norm, 0, 2.5)):
            single.steer(SteeringPlan.of([(alone(bundle, block), scanned_as.strengths[i, j], "response")]))
            (told,) = single.norms([*prompt, *reply[:-1]], prompt_len=len(prompt)).blocks
            assert (told.layer, told.rows) == (block, len(reply))
            assert told.intervention == pytest.approx(wanted, rel=2e-3)
            assert told.stream == pytest.approx(one.streams[i], rel=2e-3)
    single.clear_steering()


def test_the_same_call_gives_the_same_scan_and_one_lane_nearly_so(
    chat: Chat, path: Path, bundle: Bundle, found: Scan
) -> None:
    assert same(scanned(chat, bundle), found)
    narrow = opened(path, lanes=1, n_ctx=256)
    one = scanned(Chat(narrow), bundle)
    narrow.close()
    assert 0.0 <= one.noise < 1e-4 > found.noise >= 0.0  # no rounding to speak of in a model of float32
    assert one.gain is not None
    assert found.gain is not None
    assert np.allclose(one.kl, found.kl, rtol=0.02, atol=1e-4)
    assert np.allclose(one.gain, found.gain, rtol=0.02, atol=2e-3)


def test_the_other_sign_is_the_opposite_direction(chat: Chat, path: Path) -> None:
    forth, back = vector(path, size=0.5), vector(path, size=-0.5)
    one, other = scanned(chat, forth, sign=-1), scanned(chat, back)
    assert (one.strengths < 0).all()
    assert np.array_equal(one.kl, other.kl)


def test_the_native_engine_scans_alike(chat: Chat, path: Path) -> None:
    bundle = psr(path, scope="response", seed=SEED, size=0.5)
    native = opened(path, gate_engine="native")
    one, other = scanned(Chat(native), bundle), scanned(chat, bundle)
    native.close()
    assert np.allclose(one.kl, other.kl, rtol=0.02, atol=1e-4)


def test_without_a_trait_only_kl_is_measured(chat: Chat, bundle: Bundle, found: Scan) -> None:
    mute = scanned(chat, bundle, None)
    assert (mute.gain, mute.low, mute.high, mute.useful) == (None, None, None, ())
    assert np.array_equal(mute.kl, found.kl)
    assert mute.tokens == (found.tokens[0], 0)
    assert [block for block, _ in mute.movers] == [
        found.blocks[i] for i in np.argsort(-found.kl[:, -1], kind="stable")
    ]


def test_json_is_json_and_complete(found: Scan) -> None:
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    shape = (len(found.blocks), len(SIZES))
    for key in ("strengths", "kl", "gain", "low", "high"):
        assert np.array(told[key]).shape == shape
    assert told["blocks"] == [1, 2, 3]
    assert told["model"].endswith(".gguf")
    assert told["sizes"] == list(SIZES)


def test_a_gate_that_never_opens_is_told_and_left_out(chat: Chat, path: Path) -> None:
    info = read_model_info(path)
    weights = gate_weights(info, [1, 2, 3])
    weights[2] = [(np.zeros_like(weights[2][0][0]), np.array([-1.0], dtype=np.float32))]
    bundle = Bundle.build(name="shut", directions=directions(info), gate=weights, model=info)
    found = scanned(chat, bundle)
    assert found.closed == (2,)
    assert np.isnan(found.kl[1]).all()
    assert np.isnan(found.strengths[1]).all()
    assert np.isfinite(found.kl[[0, 2]]).all()
    assert found.overflowed == 0
    json.dumps(found.to_json(), allow_nan=False)


def test_where_nothing_can_be_steered_nothing_is_measured(chat: Chat, path: Path) -> None:
    zeros = {n: np.zeros_like(v) for n, v in directions(read_model_info(path)).items()}
    bundle = Bundle.build(name="none", directions=zeros, model=read_model_info(path), strength=ANY_STRENGTH)
    found = scanned(chat, bundle)
    assert found.closed == (1, 2, 3)
    assert (found.useful, found.movers) == ((), ())


def test_one_block_is_a_scan_of_one_row(chat: Chat, path: Path) -> None:
    assert scanned(chat, vector(path, [2])).kl.shape == (1, 2)


def test_a_cell_that_overflows_takes_no_other_along(chat: Chat, bundle: Bundle) -> None:
    plan = SteeringPlan.of([(bundle, 1.0, None)])
    prompt, reply = chat.prompt(QUESTIONS[0]), tokens_of(chat, QUESTIONS[0])

    def kl(factor: float) -> np.ndarray[Any, Any]:
        plans = (SteeringPlan(), plan, plan * factor, plan * 0.5, SteeringPlan())
        return Cells(plans).kl(chat, prompt, reply, lambda fraction: None)

    one, usual = kl(1e38), kl(1.0)
    assert np.isnan(one).tolist() == [False, True, False, False]
    assert np.array_equal(one[[0, 2, 3]], usual[[0, 2, 3]])


def test_the_models_own_steering_is_set_aside_and_returns(chat: Chat, bundle: Bundle, found: Scan) -> None:
    chat.llm.steer(bundle, 1.7)
    before = chat.llm.steering
    try:
        assert same(scanned(chat, bundle), found)
        assert chat.llm.steering == before
        with pytest.raises(KeyboardInterrupt):
            scanned(chat, bundle, progress=stop_at("scan"))
        assert chat.llm.steering == before
    finally:
        chat.llm.clear_steering()


def stop_at(stage: str) -> Callable[[str, float], None]:
    def progress(name: str, fraction: float) -> None:
        if name == stage and fraction > 0.5:
            raise KeyboardInterrupt

    return progress


def test_progress_never_goes_back_and_ends_at_one(chat: Chat, bundle: Bundle) -> None:
    told: list[float] = []
    scanned(chat, bundle, progress=lambda _, part: told.append(part))
    assert told == sorted(told)
    assert told[-1] == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"questions": []}, "no questions"),
        ({"trait": "  "}, "trait is empty"),
        ({"max_tokens": 0}, "max_tokens 0"),
        ({"sizes": []}, "0 norms"),
        ({"sizes": np.linspace(0.1, 1, 17)}, "17 norms"),
        ({"unit": "metre"}, "unit 'metre'"),
        *(({"sizes": [0.1, bad]}, "above 0") for bad in (0.0, -1.0, np.nan, np.inf, 1e7)),
    ],
)
def test_bad_arguments_are_refused(chat: Chat, bundle: Bundle, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        scanned(chat, bundle, **options)


def test_a_bundle_of_another_model_and_a_small_context_are_refused(
    chat: Chat, model: Model, path: Path, bundle: Bundle
) -> None:
    with pytest.raises(IncompatibleError, match="architecture"):
        scanned(chat, vector(model("qwen2")))
    small = opened(path, n_ctx=256)
    with pytest.raises(InputError, match="larger context"):
        scanned(Chat(small), bundle, questions=["word " * 200])
    small.close()


# -- the value -------------------------------------------------------------------------------------


def test_pooled_is_the_mean_over_all_tokens_within_its_interval() -> None:
    sums = np.array([[2.0, 0.0, np.nan], [4.0, 1.0, 1.0]])
    value, low, high = pooled(sums, [1, 3])
    assert value[:2].tolist() == [1.5, 0.25]
    assert (low[:2] <= value[:2]).all()
    assert (value[:2] <= high[:2]).all()
    assert np.isnan([value[2], low[2], high[2]]).all()


def test_useful_blocks_are_surely_better_and_ranked_by_gain_per_root_of_kl() -> None:
    nan = np.nan
    gain = np.array([[0.2, 0.3], [0.5, -1.0], [0.1, 0.2], [nan, nan]])
    low = np.array([[0.1, -0.1], [0.2, -2.0], [-0.1, -0.1], [nan, nan]])
    kl = np.array([[0.01, 0.5], [1.0, 2.0], [0.0, 0.0], [nan, nan]])
    found = Scan(
        name="x", model="m.gguf", trait="t", unit="share", sizes=(0.1, 0.2), blocks=(1, 2, 3, 4), streams=(1.0,) * 4,
        strengths=kl, kl=kl, gain=gain, low=low, high=gain + 1, closed=(4,), overflowed=0, noise=0.0,
        questions=("q",), max_tokens=1, tokens=(1, 1), gated=False, scope="response",
    )  # fmt: skip
    assert [(one.block, one.size) for one in found.useful] == [(1, 0.1), (2, 0.1)]
    assert found.useful[0].score == pytest.approx(2.0)
    assert [block for block, _ in found.movers] == [2, 1, 3]


@pytest.mark.parametrize(
    ("noise", "useful", "movers", "unclear"),
    [
        (0.0, [1, 2], [2, 1], 0),
        (0.003, [1, 2], [2, 1], 0),
        (0.1, [1, 2], [2, 1], 1),  # block 1 by its other size
        (0.2, [2], [2], 2),
        (1.0, [], [], 3),
    ],
)
def test_what_may_be_rounding_is_not_ranked(
    noise: float, useful: list[int], movers: list[int], unclear: int
) -> None:
    gain, kl = np.array([[0.5, 0.2], [0.5, -1.0]]), np.array([[0.01, 0.5], [1.0, 2.0]])
    found = Scan(
        name="x", model="m.gguf", trait="t", unit="share", sizes=(0.1, 0.2), blocks=(1, 2), streams=(1.0,) * 2,
        strengths=kl, kl=kl, gain=gain, low=gain - 0.1, high=gain + 0.1, closed=(), overflowed=0, noise=noise,
        questions=("q",), max_tokens=1, tokens=(1, 1), gated=False, scope="response",
    )  # fmt: skip
    assert sorted(one.block for one in found.useful) == useful
    assert [block for block, _ in found.movers] == movers
    assert found.unclear == unclear
    assert found.to_json()["unclear"] == unclear
