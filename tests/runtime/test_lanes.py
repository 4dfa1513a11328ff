"""Lanes: what each gives is what it gives alone, whatever runs beside it and however prompts are shared."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesteer import PlanError, SteeredLlama, SteeringOverflow
from edgesteer.runtime import Lanes
from tests.runtime.support import F32, close, plain, psr, tokens_of, vector

Model = Callable[[str], Path]
# One ubatch per decode of this size, and F32 weights: batches of other shapes agree to rounding.
ONE: dict[str, Any] = {"n_ctx": 512, "n_threads": 1, "n_threads_batch": 1}
ARCHS = ["llama", "gemma3", "gpt2", "mamba"]


def opened(path: Path, lanes: int = 4, **options: Any) -> SteeredLlama:
    return SteeredLlama(path, n_seq_max=lanes, **{**ONE, **options})


def prompts_of(llm: SteeredLlama) -> list[list[int]]:
    """Two of a kind, one that begins as they do, one of its own."""
    tokens = tokens_of(llm, n=20)
    return [tokens[:9], tokens[:9], [*tokens[:6], *tokens[12:16]], tokens[3:15]]


def fed(llm: SteeredLlama, prompts: Sequence[Sequence[int]], more: Sequence[int]) -> list[F32]:
    """Per lane float32 [1 + len(more), n_vocab]: behind the prompt, and behind each token of `more`."""
    out: list[list[F32]] = [[] for _ in prompts]
    with Lanes(llm, prompts) as lanes:
        for lane, row in lanes.feed({i: [p[-1]] for i, p in enumerate(prompts)}):
            out[lane].append(row.copy())
        for token in more:
            for lane, row in lanes.feed({i: [token] for i in range(len(prompts))}):
                out[lane].append(row.copy())
    return [np.array(rows) for rows in out]


def alone(path: Path, prompt: Sequence[int], more: Sequence[int], plan: Any) -> F32:
    llm = SteeredLlama(path, logits_all=True, **ONE)
    llm.steer(plan)
    llm.eval([*prompt, *more], prompt_len=len(prompt))
    return llm.scores[len(prompt) - 1 : len(prompt) + len(more)].copy()


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("scope", ["all", "response"])
@pytest.mark.parametrize("kind", [vector, psr])
def test_a_lane_gives_what_a_context_of_its_own_gives(
    model: Model, arch: str, scope: str, kind: Callable[..., Any]
) -> None:
    path = model(arch)
    llm, plan = opened(path), kind(path, scope=scope)
    prompts, more = prompts_of(llm), tokens_of(llm)[4:8]
    llm.steer(plan)
    for prompt, rows in zip(prompts, fed(llm, prompts, more), strict=True):
        assert close(rows, alone(path, prompt, more, plan), 1e-3)


@pytest.mark.parametrize("arch", ARCHS)
def test_the_same_call_gives_the_same_bits(model: Model, arch: str) -> None:
    path = model(arch)
    llm = opened(path)
    llm.steer(psr(path, scope="response"))
    prompts, more = prompts_of(llm), tokens_of(llm)[:3]
    first = fed(llm, prompts, more)
    llm.eval(prompts[2])  # what the context held before makes no difference
    assert all(np.array_equal(a, b) for a, b in zip(first, fed(llm, prompts, more), strict=True))


def test_parts_may_be_of_any_length_and_lanes_may_end(model: Model) -> None:
    llm = opened(model("llama"))
    prompts = prompts_of(llm)
    tokens = tokens_of(llm)
    together: dict[int, list[F32]] = {i: [] for i in range(4)}
    with Lanes(llm, prompts) as lanes:
        parts = {i: [prompts[i][-1], *tokens[: 2 * i]] for i in range(4)}
        for lane, row in lanes.feed(parts):
            together[lane].append(row.copy())
        lanes.drop(0)
        for lane, row in lanes.feed({3: tokens[6:8]}):
            together[lane].append(row.copy())
    for i in range(4):
        expected = alone(model("llama"), prompts[i], tokens[: 2 * i + 2 * (i == 3)], [])
        assert close(np.array(together[i]), expected, 1e-3)


@pytest.mark.parametrize("n_batch", [512, 5])
def test_a_batch_may_be_cut_anywhere(model: Model, n_batch: int) -> None:
    path = model("llama")
    llm = opened(path, n_batch=n_batch, n_ubatch=n_batch)
    llm.steer(psr(path))
    prompts, more = prompts_of(llm), tokens_of(llm)[:2]
    for prompt, rows in zip(prompts, fed(llm, prompts, more), strict=True):
        assert close(rows, alone(path, prompt, more, psr(path)), 1e-3)


# -- activations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("since", [0, 7])
@pytest.mark.parametrize("steer", [False, True])
def test_what_is_seen_is_what_capture_sees(model: Model, since: int, steer: bool) -> None:
    path = model("llama")
    llm, layers = opened(path), [1, 2, 3]
    if steer:
        llm.steer(psr(path))
    prompts, more = prompts_of(llm), tokens_of(llm)[4:8]
    with Lanes(llm, prompts, layers, since) as lanes:
        lanes.run({i: [p[-1], *more] for i, p in enumerate(prompts)})
        seen = [lanes.seen(i) for i in range(len(prompts))]
    for prompt, rows in zip(prompts, seen, strict=True):
        expected = llm.capture([*prompt, *more], layers, prompt_len=len(prompt))
        for i, layer in enumerate(layers):
            assert close(rows[i], expected[layer][since:], 1e-3)


def test_forced_rows_are_seen_as_they_arrive_and_replaced(model: Model) -> None:
    """The next block sees what was put in place: with the rows of another text it gives that text's."""
    path = model("llama")
    llm, layers = opened(path), [1, 2]
    prompts = prompts_of(llm)[2:]
    more = tokens_of(llm)[4:7]
    rng = np.random.default_rng(0)
    given = {i: rng.standard_normal((2, 1 + len(more), llm.n_embd())).astype(np.float32) for i in range(2)}
    with Lanes(llm, prompts, layers, since=0) as lanes:
        lanes.run({i: [p[-1], *more] for i, p in enumerate(prompts)}, forced=given)
        seen = [lanes.seen(i)[:, len(p) - 1 :] for i, p in enumerate(prompts)]
    for i, prompt in enumerate(prompts):
        text = [*prompt, *more]
        natural = llm.capture(text, layers)
        full = {layer: natural[layer].copy() for layer in layers}
        for k, layer in enumerate(layers):
            full[layer][len(prompt) - 1 :] = given[i][k]
        expected = llm.forced(text, full)
        for k, layer in enumerate(layers):
            assert close(seen[i][k], expected[layer][len(prompt) - 1 :], 1e-3)


def test_forced_rows_act_where_none_are_kept(model: Model) -> None:
    llm, layers = opened(model("llama")), [1, 2]
    tokens = tokens_of(llm)
    given = {0: np.ones((2, 2, llm.n_embd()), np.float32)}
    out = []
    for since in (0, 100):
        with Lanes(llm, [tokens[:5]], layers, since) as lanes:
            out.append([row.copy() for _, row in lanes.feed({0: tokens[4:6]}, forced=given)])
    assert np.array_equal(*out)


# -- what is refused, and what is left behind --------------------------------------------------------


def test_the_context_is_empty_before_and_after(model: Model) -> None:
    llm = opened(model("llama"), logits_all=True)
    tokens = tokens_of(llm)
    original = plain(model("llama"), **ONE)
    original.eval(tokens)
    llm.eval(tokens)
    with Lanes(llm, prompts_of(llm)) as lanes:
        lanes.run({0: tokens[:3]})
    assert (llm.n_tokens, llm.kv_record()) == (0, [])
    with contextlib.suppress(ZeroDivisionError), Lanes(llm, prompts_of(llm)):
        raise ZeroDivisionError
    llm.eval(tokens)
    assert np.array_equal(llm.scores[: len(tokens)], original.scores[: len(tokens)])


def test_an_overflow_in_one_lane_ends_all_and_poisons_nothing(model: Model) -> None:
    path = model("llama")
    llm = opened(path)
    prompts = prompts_of(llm)
    before = fed(llm, prompts, [])
    llm.steer(psr(path), 1e38)
    with pytest.raises(SteeringOverflow):
        fed(llm, prompts, [])
    llm.clear_steering()
    assert all(np.array_equal(a, b) for a, b in zip(before, fed(llm, prompts, []), strict=True))


def test_bad_input(model: Model) -> None:
    llm = opened(model("llama"))
    for prompts in ([], [[]], [[3], []]):
        with pytest.raises(PlanError, match="at least one token"):
            Lanes(llm, prompts)
    with pytest.raises(PlanError, match=r"5 prompts, expected at most 4; .* n_seq_max"):
        Lanes(llm, [[3]] * 5)
    with Lanes(llm, [[3]], [1]) as lanes, pytest.raises(PlanError, match="513 tokens, expected at most 512"):
        lanes.run({0: [3] * 513})
    with Lanes(llm, [[3]], [1]) as lanes:
        wrong = {0: np.zeros((1, 2, llm.n_embd()), np.float32)}
        with pytest.raises(PlanError, match=r"shape \(1, 2, 64\), expected \(1, 1, 64\)"):
            lanes.run({0: [3]}, forced=wrong)
    for n in (0, -1, 10**6):
        with pytest.raises(ValueError, match="n_seq_max"):
            opened(model("llama"), lanes=n)


@pytest.mark.parametrize("options", [{"n_batch": 4}, {"n_ctx": 4}])
def test_more_sequences_than_a_batch_holds_are_refused_and_do_not_end_the_process(
    model: Model, options: dict[str, int]
) -> None:
    with pytest.raises(ValueError, match=r"n_seq_max 5: expected at most n_batch and n_ctx \(4\)"):
        SteeredLlama(model("llama"), n_seq_max=5, n_threads=1, **options)


def test_room_for_lanes_goes_along_with_siblings_and_pickles(model: Model) -> None:
    llm = opened(model("llama"))
    assert llm.sibling().n_seq_max == 4
    assert llm.sibling(n_seq_max=2).n_seq_max == 2
    again = pickle.loads(pickle.dumps(llm))  # our own
    assert again.n_seq_max == 4
    assert np.array_equal(fed(again, prompts_of(llm), [])[3], fed(llm, prompts_of(llm), [])[3])
