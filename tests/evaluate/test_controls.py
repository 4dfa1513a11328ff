"""Controls: equal norms and other directions; the ends of guided decoding; what a snapshot saves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesteer import Bundle, SteeredLlama
from edgesteer.bundle import encode_directions, gate_weights_gguf, read_gate_gguf
from edgesteer.errors import InputError
from edgesteer.evaluate import head_to_head
from edgesteer.evaluate.controls import (
    CONTROLS,
    GUIDANCE,
    controls_of,
    guided_replies,
    random_control,
)
from edgesteer.evaluate.matched import LEVELS
from edgesteer.evaluate.snapshot import snapshot_cost
from edgesteer.evaluate.way import Way
from edgesteer.generate import Chat, Reply
from edgesteer.report.head_to_head import lines
from edgesteer.runtime import Lanes
from tests.runtime.support import psr, vector

TRAIT = "You are a pirate."
QUESTIONS = ["Why?", "The weather in the west", "ships", "Who was it?", "1 + 1", "you and he", "Who?"]
N = 20


@pytest.fixture(scope="module")
def alone(model: Callable[[str], Path]) -> Iterator[Chat]:
    llm = SteeredLlama(str(model("llama")), n_ctx=256, n_threads=1, n_threads_batch=1)
    yield Chat(llm)
    llm.close()


def prompts(chat: Chat) -> tuple[list[list[int]], list[list[int]]]:
    return [chat.prompt(q) for q in QUESTIONS], [chat.prompt(q, TRAIT) for q in QUESTIONS]


def same(a: list[Reply], b: list[Reply]) -> None:
    """The same tokens; keys and values are cached as F16, so that batches of other shapes give log-probabilities
    that differ by a few 1e-4."""
    assert [(r.tokens, r.end) for r in a] == [(r.tokens, r.end) for r in b]
    for one, other in zip(a, b, strict=True):
        assert np.allclose(one.log_probs, other.log_probs, atol=2e-3)


def logits(chat: Chat, prompt: list[int]) -> np.ndarray:
    """Those behind the prompt."""
    with Lanes(chat.llm, [prompt]) as lanes:
        return np.concatenate([row.copy() for _, row in lanes.feed({0: prompt[-1:]})])


# -- random directions -----------------------------------------------------------------------------


@pytest.mark.parametrize("make", [vector, psr])
def test_random_directions_have_the_same_norms_and_point_elsewhere(
    make: Callable[[Path], Bundle], model: Callable[[str], Path]
) -> None:
    bundle = make(model("llama"))
    control = random_control(bundle)
    assert control.layers == bundle.layers
    for n, z in bundle.directions.items():
        other = control.directions[n]
        assert np.linalg.norm(other) == pytest.approx(np.linalg.norm(z), rel=1e-6)
        assert abs(z @ other) / (z @ z) < 0.5
    assert (control.kind, control.scope, control.model) == (bundle.kind, bundle.scope, bundle.model)
    assert control.strength == bundle.strength


def test_random_directions_follow_from_the_seed(model: Callable[[str], Path]) -> None:
    bundle = psr(model("llama"))
    assert random_control(bundle, 3) == random_control(bundle, 3)
    assert random_control(bundle, 3).digest != random_control(bundle, 4).digest
    with pytest.raises(ValueError, match="non-negative"):
        random_control(bundle, -1)


def test_bundles_that_add_up_have_random_directions_of_their_own(model: Callable[[str], Path]) -> None:
    path = model("llama")
    way = Way.of("both", [], [(vector(path), 1.0), (vector(path, seed=1), 1.0)])
    control = controls_of(way, [])[0]
    for n in way.bundles[0].layers:
        a, b = (bundle.directions[n] for bundle in control.bundles)
        assert abs(a @ b) < 0.5 * np.linalg.norm(a) * np.linalg.norm(b)


def test_a_gate_stays_and_acts(chat: Chat) -> None:
    """gate.onnx is the same but for the directions that it names, gate.gguf to the byte."""
    bundle = psr(Path(chat.llm.model_path), size=0.5)
    control = random_control(bundle)
    assert control.gate_gguf == bundle.gate_gguf
    assert control.gate is not None
    assert bundle.gate is not None
    assert len(control.gate) == len(bundle.gate)
    weights = read_gate_gguf(control.gate_gguf or b"", control.layers, control.n_embd)
    assert gate_weights_gguf(weights) == bundle.gate_gguf
    tokens = chat.prompt(QUESTIONS[0])
    first = bundle.layers[0]
    added = []
    for each in (bundle, control):
        plain = chat.llm.capture(tokens, [first])[first]
        with chat.llm.steered(each, 1.0):
            added.append(np.linalg.norm(chat.llm.capture(tokens, [first])[first] - plain, axis=1))
    assert added[0].max() > 0
    assert np.allclose(added[0], added[1], atol=1e-4)


def test_a_bare_control_vector_has_a_control_too(chat: Chat) -> None:
    bundle = vector(Path(chat.llm.model_path))
    bare = Bundle.from_control_vector(encode_directions(bundle.directions, "llama"), "bare")
    control = random_control(bare)
    assert (control.members, control.architecture_hint) == ({}, "llama")
    assert control.digest != bare.digest
    zeros = Bundle.build(
        name="zeros",
        directions={1: np.zeros(bundle.n_embd), 2: bundle.directions[2]},
        model=chat.llm.model_info,
    )
    assert random_control(zeros).acting == (2,)


# -- guided decoding -------------------------------------------------------------------------------


def test_the_ends_of_guided_decoding_are_the_plain_and_the_prompted_replies(chat: Chat) -> None:
    """Seven pairs in a context of four sequences, so in groups. Bit for bit, where both are decoded beside
    each other."""
    plain, prompted = prompts(chat)
    beside = [prompt for pair in zip(plain, prompted, strict=True) for prompt in pair]
    for penalty in (1.0, 1.1):
        expected = chat.replies(beside, N, repeat_penalty=penalty)
        for alpha, own in ((0, plain), (1, prompted)):
            replies = guided_replies(chat, plain, prompted, alpha, N, repeat_penalty=penalty)
            for reply, other in zip(replies, expected[alpha::2], strict=True):
                assert reply.tokens == other.tokens
                assert reply.log_probs.tolist() == other.log_probs.tolist()
            same(replies, chat.replies(own, N, repeat_penalty=penalty))


def test_guided_decoding_amplifies_what_the_prompt_changes(chat: Chat) -> None:
    plain, prompted = prompts(chat)
    one, two = (guided_replies(chat, plain, prompted, alpha, N) for alpha in (1, 2))
    assert [r.tokens for r in one] != [r.tokens for r in two]
    again = guided_replies(chat, plain, prompted, 2, N)
    assert [r.tokens for r in again] == [r.tokens for r in two]
    for p, q, reply in zip(plain, prompted, two, strict=True):  # the first token, by hand
        a, b = (logits(chat, each) for each in (p, q))
        assert reply.all_tokens[0] == int((a + 2 * (b - a)).argmax())
        assert len(reply.log_probs) == len(reply.all_tokens)


def test_guided_decoding_where_both_prompts_are_the_same_changes_nothing(chat: Chat) -> None:
    plain, _ = prompts(chat)
    same(
        guided_replies(chat, plain, plain, 3.0, N, repeat_penalty=1.0),
        chat.replies(plain, N),
    )


def test_what_steers_is_set_aside(chat: Chat) -> None:
    plain, prompted = prompts(chat)
    expected = guided_replies(chat, plain, prompted, 1.5, N)
    with chat.llm.steered(vector(Path(chat.llm.model_path), size=1.0), 1.0):
        same(guided_replies(chat, plain, prompted, 1.5, N), expected)


def test_what_cannot_be_guided_is_refused(chat: Chat, alone: Chat) -> None:
    plain, prompted = prompts(chat)
    with pytest.raises(ValueError, match="7 plain and 6 prompted"):
        guided_replies(chat, plain, prompted[1:])
    for alpha in (float("nan"), float("inf")):
        with pytest.raises(InputError, match="expected a finite number"):
            guided_replies(chat, plain, prompted, alpha)
    with pytest.raises(InputError, match="takes two sequences"):
        guided_replies(alone, plain, prompted)
    with pytest.raises(InputError, match="expected at most 1024"):
        guided_replies(chat, plain, prompted, 1.5, 600)
    assert guided_replies(chat, [], []) == []


# -- the prompt's KV, kept -------------------------------------------------------------------------


def test_a_snapshot_saves_the_prefill_of_the_cells_that_it_takes(chat: Chat) -> None:
    plain, prompted = prompts(chat)
    cost = snapshot_cost(chat, TRAIT, QUESTIONS)
    assert cost.prefill["prompt"] - cost.prefill["snapshot"] == pytest.approx(cost.cells)
    assert cost.prefill["prompt"] == pytest.approx(np.mean([len(p) for p in prompted]))
    assert cost.prefill["unsteered"] == pytest.approx(np.mean([len(p) for p in plain]))
    assert cost.cells >= len(chat.llm.tokenize(TRAIT.encode(), add_bos=False))
    assert cost.kv_bytes == cost.cells * 4 * 2 * 2 * 16 * 2  # blocks, keys and values, heads, width, F16
    for seconds in (cost.first_token_seconds, cost.token_seconds):
        assert seconds is not None
        assert seconds.keys() == cost.prefill.keys()
        assert min(seconds.values()) > 0
    untimed = snapshot_cost(chat, TRAIT, QUESTIONS[:1], timing=False)
    assert (untimed.cells, untimed.first_token_seconds) == (cost.cells, None)


def test_what_cannot_be_kept_is_refused(chat: Chat, alone: Chat) -> None:
    with pytest.raises(InputError, match="takes two sequences"):
        snapshot_cost(alone, TRAIT, QUESTIONS)
    with pytest.raises(InputError, match="expected at most 1024"):
        snapshot_cost(chat, TRAIT * 100, QUESTIONS)
    with pytest.raises(InputError, match="no questions"):
        snapshot_cost(chat, TRAIT, [])


def test_prompts_that_begin_with_the_question_leave_nothing_to_keep(model: Callable[[str], Path]) -> None:
    llm = SteeredLlama(str(model("gpt2")), n_ctx=256, n_threads=1, n_threads_batch=1, n_seq_max=2)
    chat = Chat(llm, template="{question} {system}")
    try:
        with pytest.raises(InputError, match="no beginning in common"):
            snapshot_cost(chat, TRAIT, QUESTIONS)
    finally:
        llm.close()


# -- in a head-to-head -----------------------------------------------------------------------------


def test_controls_are_rows_of_the_table(chat: Chat) -> None:
    bundle = psr(Path(chat.llm.model_path), size=0.5)
    rows = [("own", [(bundle, 1.0)])]
    options: dict[str, Any] = {"questions": QUESTIONS, "max_tokens": 8, "timing": False}
    table = head_to_head(chat, TRAIT, rows, **options, levels=LEVELS, controls=True)
    own, drawn, guided = table.rows[2:]
    assert (drawn.name, guided.name) == CONTROLS
    assert drawn.strength == own.strength
    assert (guided.strength, guided.sources) == (GUIDANCE, ())
    assert all(row.matched is not None for row in (own, drawn, guided))
    assert own.replies != drawn.replies
    assert guided.context_tokens == np.mean([len(chat.prompt(q, TRAIT)) for q in QUESTIONS])
    assert table.rows[:3] == head_to_head(chat, TRAIT, rows, **options, levels=LEVELS).rows  # no others change
    assert table.snapshot == snapshot_cost(chat, TRAIT, QUESTIONS, timing=False)
    shown = list(lines(table))
    assert max(map(len, shown)) <= 100
    assert sum(line.startswith("prompt, its KV kept") for line in shown) == 1
    assert "first_token_seconds" not in json.loads(json.dumps(table.to_json(timing=False)))["snapshot"]


def test_controls_that_cannot_be_shown_are_refused(chat: Chat, alone: Chat) -> None:
    bundle = psr(Path(chat.llm.model_path), size=0.5)
    for name in CONTROLS:
        with pytest.raises(InputError, match="two rows are named"):
            head_to_head(chat, TRAIT, [(name, [(bundle, 1.0)])], controls=True)
    with pytest.raises(InputError, match="no rows, expected at least one"):
        head_to_head(chat, TRAIT, [], controls=True)
    with pytest.raises(InputError, match="takes two sequences, found one"):
        head_to_head(alone, TRAIT, [("own", [(bundle, 1.0)])], controls=True)
