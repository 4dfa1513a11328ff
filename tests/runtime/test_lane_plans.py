"""Lanes under plans of their own, each with its own since: a lane gives what a context of its own gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesteer import Bundle, PlanError, SteeredLlama, SteeringOverflow
from edgesteer.plan import SteeringPlan
from edgesteer.runtime import Lanes
from tests.runtime.support import F32, close, psr, tokens_of, vector
from tests.runtime.test_lanes import ARCHS, Model, alone, opened, prompts_of

Kind = Callable[..., Bundle]
FACTORS = np.array([[1.0, 0.0, 0.5], [0.0, 0.0, 0.0], [-2.0, 3.0, 0.25], [0.0, 1.5, -1.0]], dtype=np.float32)


def terms(path: Path) -> list[tuple[Bundle, float]]:
    """Two constants in blocks of their own, one of them with a strength, and gates."""
    return [
        (vector(path, [1], scope="response", seed=1, size=0.5), 1.0),
        (vector(path, [2], scope="response", seed=2, size=0.5), 1.5),
        (psr(path, [2, 3], scope="response", seed=3, size=0.5), 1.0),
    ]


def at(plan: SteeringPlan, factors: Sequence[float]) -> SteeringPlan:
    """The plan with each term's strength times its factor."""
    pairs = zip(plan.terms, map(float, factors), strict=True)
    return SteeringPlan.of([(term.bundle, term.strength * one, term.scope) for term, one in pairs])


def plans_of(llm: SteeredLlama, factors: F32 = FACTORS) -> list[SteeringPlan]:
    return [at(llm.steering, row) for row in factors]


def fed(
    llm: SteeredLlama,
    prompts: Sequence[Sequence[int]],
    more: Sequence[int],
    plans: Sequence[SteeringPlan] | None,
    lenient: bool = False,
) -> list[F32]:
    """Per lane float32 [1 + len(more), n_vocab]."""
    out: list[list[F32]] = [[] for _ in prompts]
    with Lanes(llm, prompts, plans=plans) as lanes:
        for tokens in [None, *more]:
            live = [i for i, rows in enumerate(out) if not rows or np.isfinite(rows[-1]).all()]
            parts = {i: [prompts[i][-1] if tokens is None else tokens] for i in live}
            for lane, row in lanes.feed(parts, lenient=lenient):
                out[lane].append(row.copy())
    return [np.array(rows) for rows in out]


def same(a: Sequence[F32], b: Sequence[F32]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


# -- plans -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHS)
def test_a_lane_gives_what_its_plan_gives_alone(model: Model, arch: str) -> None:
    path = model(arch)
    llm = opened(path)
    llm.steer(terms(path))
    prompts, more, plans = prompts_of(llm), tokens_of(llm)[4:7], plans_of(llm)
    for prompt, plan, row in zip(prompts, plans, fed(llm, prompts, more, plans), strict=True):
        expected = alone(path, prompt, more, plan)
        assert close(row, expected, 1e-3)
        assert np.array_equal(row.argmax(axis=1), expected.argmax(axis=1))


@pytest.mark.parametrize("arch", ARCHS)
def test_a_lane_without_a_plan_is_bit_for_bit_the_unsteered_batch(model: Model, arch: str) -> None:
    path = model(arch)
    llm = opened(path)
    prompts, more = prompts_of(llm), tokens_of(llm)[4:7]
    unsteered = fed(llm, prompts, more, None)
    llm.steer(terms(path))
    for untouched in range(4):
        plans = [SteeringPlan() if i == untouched else llm.steering * 2 for i in range(4)]
        rows = fed(llm, prompts, more, plans)
        alike = [np.array_equal(a, b) for a, b in zip(rows, unsteered, strict=True)]
        assert alike == [i == untouched for i in range(4)]


@pytest.mark.parametrize("kind", [vector, psr])
@pytest.mark.parametrize("scope", ["all", "conversation", "response"])
def test_equal_plans_are_one_plan(model: Model, kind: Kind, scope: str) -> None:
    """Constants stand in slots where all lanes have one plan, and in the tap where one has another."""
    path = model("llama")
    llm = opened(path)
    prompts, more = (
        [tokens_of(llm)[:1]] * 4,
        tokens_of(llm)[4:7],
    )  # nothing is shared, so nothing is left unsteered
    llm.steer([(kind(path, scope=scope), 1.0), (vector(path, [1, 2], scope=scope, seed=5), 0.7)])
    expected = fed(llm, prompts, more, None)
    assert same(fed(llm, prompts, more, [llm.steering] * 4), expected)
    mixed = fed(llm, prompts, more, [llm.steering] * 3 + [SteeringPlan()])
    assert same(mixed[:3], expected[:3])
    assert not np.array_equal(mixed[3], expected[3])


@pytest.mark.parametrize("n_batch", [512, 17])
def test_many_lanes_of_one_prompt_cut_anywhere(model: Model, n_batch: int) -> None:
    path = model("llama")
    llm = opened(path, lanes=16, n_batch=n_batch, n_ubatch=n_batch)
    plan = SteeringPlan.of([(vector(path, [2], scope="response", size=0.5), 1.0, None)])
    prompt = tokens_of(llm)[:9]
    plans = [plan * float(factor) for factor in np.linspace(-3, 3, 16)]
    for one, row in zip(plans, fed(llm, [prompt] * 16, [], plans), strict=True):
        assert close(row, alone(path, prompt, [], one), 1e-3)


def test_what_lanes_share_is_steered_by_none_of_them(model: Model) -> None:
    """An earlier reply in a prompt is in scope too, but belongs to all lanes: their order must not matter."""
    path = model("llama")
    llm = opened(path)
    plan = SteeringPlan.of([(vector(path, [1], scope="response", size=0.5), 1.0, None)])
    text = b"<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n<|im_start|>user\nso?"
    prompt = llm.tokenize(text, special=True)
    plans = [plan * factor for factor in (0.0, 3.0, -3.0, 0.0)]
    rows = fed(llm, [prompt] * 4, [], plans)
    turned = fed(llm, [prompt] * 4, [], [plans[i] for i in (1, 2, 3, 0)])
    for i, j in enumerate([1, 2, 3, 0]):
        assert close(turned[i], rows[j], 1e-3)
    assert close(rows[0], fed(llm, [prompt] * 4, [], None)[0], 1e-3)
    assert not close(rows[0], rows[1], 1e-3)


@pytest.mark.parametrize("n", [0, 3, 5])
def test_another_number_of_plans_is_refused(model: Model, n: int) -> None:
    llm = opened(model("llama"))
    with pytest.raises(PlanError, match=f"{n} plans, expected 4"):
        Lanes(llm, prompts_of(llm), plans=[SteeringPlan()] * n)
    assert left_behind(llm) == NOTHING


# -- since -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("since", [[2, 7, 5, 11], [7, 2, 0, 3], [8, 8, 9, 11], [0, 8, 0, 0], [3, 3, 40, 12]])
@pytest.mark.parametrize("steer", [False, True])
def test_each_lane_is_seen_from_its_own_position_on(model: Model, since: list[int], steer: bool) -> None:
    path = model("llama")
    llm, layers = opened(path), [1, 3]  # 3 is the last block
    if steer:
        llm.steer(psr(path))
    prompts, more = prompts_of(llm), tokens_of(llm)[4:8]
    with Lanes(llm, prompts, layers, since) as lanes:
        lanes.run({i: [p[-1], *more] for i, p in enumerate(prompts)})
        seen = [lanes.seen(i) for i in range(len(prompts))]
    for prompt, first, rows in zip(prompts, since, seen, strict=True):
        expected = llm.capture([*prompt, *more], layers, prompt_len=len(prompt))
        assert rows.shape == (2, max(0, len(prompt) + 4 - first), llm.n_embd())
        for i, layer in enumerate(layers):
            assert close(rows[i], expected[layer][first:], 1e-3)


def test_of_the_last_block_the_prompts_last_token_alone(model: Model) -> None:
    """Nothing of the heads is kept, so the last block computes none of their rows."""
    llm = opened(model("llama"))
    prompts, last = prompts_of(llm), 3
    with Lanes(llm, prompts, [last], [len(p) - 1 for p in prompts]) as lanes:
        assert all(lanes.seen(i).shape == (1, 0, llm.n_embd()) for i in range(4))
        lanes.run({i: p[-1:] for i, p in enumerate(prompts)})
        seen = [lanes.seen(i) for i in range(4)]
    for prompt, rows in zip(prompts, seen, strict=True):
        assert rows.shape == (1, 1, llm.n_embd())
        assert close(rows[0], llm.capture(prompt, [last])[last][-1:], 1e-3)


@pytest.mark.parametrize("since", [[], [1], [1] * 5, [0, 0, 0, -1], -3])
def test_since_of_another_length_or_below_zero_is_refused(model: Model, since: Any) -> None:
    llm = opened(model("llama"))
    with pytest.raises(PlanError, match="expected 4 positions from 0 on"):
        Lanes(llm, prompts_of(llm), [1], since)


# -- what is left behind -----------------------------------------------------------------------------


def left_behind(llm: SteeredLlama) -> tuple[Any, ...]:
    return llm.n_tokens, llm.kv_record(), llm._session._opened


NOTHING = (0, [], {})


@pytest.mark.parametrize("lane", [0, 2, 3])
def test_an_overflow_of_one_lane_leaves_the_others_as_they_would_have_been(model: Model, lane: int) -> None:
    path = model("llama")
    llm = opened(path)
    llm.steer(terms(path))
    prompts, more = prompts_of(llm), tokens_of(llm)[4:7]
    plans = plans_of(llm)
    too_much = [llm.steering * 1e38 if i == lane else plan for i, plan in enumerate(plans)]
    with pytest.raises(SteeringOverflow) as caught:
        fed(llm, prompts, more, too_much)
    assert caught.value.sequences == (lane,)
    assert left_behind(llm) == NOTHING
    nothing = [SteeringPlan() if i == lane else plan for i, plan in enumerate(plans)]
    lenient, expected = fed(llm, prompts, [], too_much, lenient=True), fed(llm, prompts, [], nothing)
    assert np.isnan(lenient[lane]).all()
    assert all(np.array_equal(lenient[i], expected[i]) for i in range(4) if i != lane)
    assert all(
        np.isfinite(rows).all() == (i != lane)
        for i, rows in enumerate(fed(llm, prompts, more, too_much, True))
    )


def test_beside_an_overflow_the_others_are_seen(model: Model) -> None:
    path = model("llama")
    llm, layers = opened(path), [1, 3]
    tokens = tokens_of(llm)
    prompts = [tokens[:5], tokens[:5], tokens[:3]]
    llm.steer(terms(path))
    plans = [llm.steering, llm.steering * 1e38, SteeringPlan()]

    def seen(plans: list[SteeringPlan]) -> list[F32]:
        with Lanes(llm, prompts, layers, plans=plans) as lanes:
            list(lanes.feed({i: p[-1:] for i, p in enumerate(prompts)}, lenient=True))
            if plans[1]:
                with pytest.raises(PlanError, match="lane 1: it overflowed"):
                    list(lanes.feed(dict.fromkeys(range(3), tokens[5:7])))
            list(lanes.feed(dict.fromkeys((0, 2), tokens[5:7]), lenient=True))
            return [lanes.seen(i) for i in range(3)]

    together, expected = seen(plans), seen([plans[0], SteeringPlan(), plans[2]])
    assert [h.shape for h in together] == [h.shape for h in expected]
    assert all(close(together[i], expected[i], 1e-3) for i in (0, 2))
    assert np.isnan(together[1][:, 4:]).all()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_error_between_two_feeds_leaves_nothing(model: Model, error: type[BaseException]) -> None:
    path = model("llama")
    llm = opened(path)
    llm.steer(terms(path))
    prompts = prompts_of(llm)
    expected = fed(llm, prompts, [], None)
    lanes = Lanes(llm, prompts, plans=plans_of(llm))
    lanes.__enter__()
    lanes.run({0: prompts[0][-1:]})
    lanes.__exit__(error, error(), None)
    assert left_behind(llm) == NOTHING
    assert same(expected, fed(llm, prompts, [], None))
