"""Heads: lanes that begin with what prompts left in the context before give the same bits as those that evaluate them,
and nothing is taken that was steered, or that belongs to another group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesteer import SteeredLlama
from edgesteer.errors import StateError
from edgesteer.runtime import Heads, Lanes
from tests.runtime.support import F32, close, tokens_of, vector
from tests.runtime.test_lanes import ARCHS, fed, opened, prompts_of

Model = Callable[[str], Path]


def begun(llm: SteeredLlama, prompts: Sequence[Sequence[int]], heads: Heads, **options: Any) -> list[F32]:
    """Logits [n_vocab] behind each prompt, then behind one token more."""
    out: list[F32] = []
    with Lanes(llm, prompts, heads=heads, **options) as lanes:
        for more in ([p[-1] for p in prompts], [7] * len(prompts)):
            out += [row.copy() for _, row in lanes.feed({i: [token] for i, token in enumerate(more)})]
    return out


def decoded(monkeypatch: pytest.MonkeyPatch, llm: SteeredLlama) -> list[int]:
    """The tokens of each decode from here on."""
    counts: list[int] = []
    inner = llm._ctx.decode

    def decode(batch: Any) -> None:
        counts.append(batch.batch.n_tokens)
        inner(batch)

    monkeypatch.setattr(llm._ctx, "decode", decode)
    return counts


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("steered", [False, True])
def test_a_second_time_gives_the_same_bits_without_the_prompts(
    model: Model, arch: str, steered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = model(arch)
    llm, heads = opened(path), Heads()
    llm.steer(vector(path, scope="response") if steered else [])
    prompts = prompts_of(llm)
    first, plainly = begun(llm, prompts, heads), fed(llm, prompts, [7])
    counts = decoded(monkeypatch, llm)
    second = begun(llm, prompts, heads)
    assert sum(counts) == 2 * len(prompts)  # each one's last token, and one more
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    for lane, rows in enumerate(plainly):
        assert close(first[lane], rows[0])
        assert close(first[len(prompts) + lane], rows[1])


def test_other_groups_do_not_change_what_one_gives(model: Model) -> None:
    llm = opened(model("llama"))
    one, other = prompts_of(llm), [tokens_of(llm, n=15)[3:], tokens_of(llm, n=9)]
    alone, heads = begun(llm, one, Heads()), Heads()
    begun(llm, other, heads)
    begun(llm, one[:2], heads)
    assert all(np.array_equal(a, b) for a, b in zip(begun(llm, one, heads), alone, strict=True))


def test_heads_that_a_plan_reaches_or_somebody_looks_at_are_not_kept(model: Model) -> None:
    path = model("llama")
    llm, heads = opened(path), Heads()
    prompts = prompts_of(llm)
    begun(llm, prompts, heads)
    group = tuple(tuple(prompt[:-1]) for prompt in prompts)
    assert group in heads
    unsteered = begun(llm, prompts, heads)
    with llm.steered(vector(path, scope="all")):
        steered, expected = begun(llm, prompts, heads), fed(llm, prompts, [7])
    assert not np.array_equal(steered[0], unsteered[0])
    assert all(np.array_equal(steered[i], rows[0]) for i, rows in enumerate(expected))
    with Lanes(llm, prompts, [1], heads=Heads()) as lanes:
        assert lanes.seen(0).shape[1] == len(prompts[0]) - 1


def test_a_plan_changed_in_between_acts_on_the_reply_alone(model: Model) -> None:
    path = model("llama")
    llm, heads = opened(path), Heads()
    prompts, plan = prompts_of(llm), vector(path, scope="response")
    begun(llm, prompts, heads)
    with llm.steered(plan):
        assert all(
            np.array_equal(a, b)
            for a, b in zip(begun(llm, prompts, heads), begun(llm, prompts, Heads()), strict=True)
        )


def test_the_oldest_go_when_there_is_no_room(model: Model) -> None:
    llm = opened(model("llama"))
    prompts = prompts_of(llm)
    groups = [(prompts[i], prompts[3]) for i in (0, 2)]
    keys = [tuple(tuple(prompt[:-1]) for prompt in group) for group in groups]
    whole = Heads()
    begun(llm, groups[0], whole)
    size = len(whole._states[keys[0]])
    small, none = Heads(limit=int(1.5 * size)), Heads(limit=size // 2)
    for group in groups:
        begun(llm, group, small)
    assert [key in small for key in keys] == [False, True]
    first = begun(llm, groups[0], none)
    assert keys[0] not in none
    assert all(close(a, b) for a, b in zip(first, begun(llm, groups[0], whole), strict=True))


def test_a_state_that_is_not_taken_back_is_said_and_leaves_an_empty_context(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm, heads = opened(model("llama")), Heads()
    prompts = prompts_of(llm)
    monkeypatch.setattr("edgesteer.runtime.heads.llama_h.llama_state_set_data", lambda ctx, state, size: 0)
    with pytest.raises(StateError, match="took 0 bytes back, expected"):
        begun(llm, prompts, heads)
    monkeypatch.undo()
    assert llm.n_tokens == 0
    begun(llm, prompts, Heads())
