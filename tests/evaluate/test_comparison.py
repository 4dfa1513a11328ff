"""The comparison on a tiny random model: it is the head-to-head and more, and asks for nothing twice."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgesteer import Bundle
from edgesteer.bundle import StrengthRange
from edgesteer.errors import InputError
from edgesteer.evaluate import Comparison, Suite, compare, head_to_head
from edgesteer.evaluate.comparison import CURVE_TOKENS, N_CURVE
from edgesteer.generate import Chat

TRAIT = "You talk like a pirate, arr."
SUITE = Suite("tiny", ("Why is it so?", "Tell me a tale.", "What is a key?"), counts=("e",), max_tokens=6)


@pytest.fixture(scope="module")
def bundle(chat: Chat) -> Bundle:
    return made(chat, "drawn", 1.0)


def made(chat: Chat, name: str, size: float) -> Bundle:
    drawn = np.random.default_rng(0).standard_normal(chat.llm.model_info.n_embd).astype(np.float32)
    return Bundle.build(
        name=name,
        directions={1: size * drawn, 2: size * drawn},
        model=chat.llm.model_info,
        strength=StrengthRange(1.0, 0.0, 3.0),
    )


@pytest.fixture(scope="module")
def compared(chat: Chat, bundle: Bundle) -> Comparison:
    return compare(chat, SUITE, TRAIT, [("drawn", [(bundle, 2.0)])])


def test_it_holds_the_head_to_head(chat: Chat, bundle: Bundle, compared: Comparison) -> None:
    alone = head_to_head(
        chat,
        TRAIT,
        [("drawn", [(bundle, 2.0)])],
        questions=SUITE.questions,
        max_tokens=6,
        counts=["e"],
        timing=False,
    )
    assert compared.table == alone
    assert [(row.name, method.name, method.kind) for row, method in compared] == [
        ("unsteered", "unsteered", "unsteered"),
        ("prompt", "prompt", "prompt"),
        ("drawn", "drawn", "constant"),
    ]


def test_tokens_make_up_the_replies_and_their_scores(chat: Chat, compared: Comparison) -> None:
    for row, method in compared:
        for i, scored in enumerate(row.scores.by_token):
            pieces = method.pieces[i]
            assert len(pieces) == len(scored.tokens) == len(scored.trait) == len(scored.coherence)
            assert "".join(pieces) == row.replies[i]  # tiny models never end
            assert np.mean(scored.trait) == pytest.approx(row.scores.trait[i], abs=1e-4)
            assert np.mean(scored.coherence) == pytest.approx(row.scores.coherence[i], abs=1e-4)


def test_costs_are_those_of_the_row(compared: Comparison) -> None:
    unsteered, prompt, steered = compared.methods
    for row, method in compared:
        assert method.cost.context_tokens == row.context_tokens
        assert method.cost.first_token_seconds == row.first_token_seconds
        assert method.cost.token_seconds is not None
    assert prompt.prompt_bytes == len(TRAIT)
    assert unsteered.prompt_bytes == steered.prompt_bytes == 0
    assert prompt.cost.kv_bytes
    assert steered.cost.artifact_bytes > 0


def test_curves_share_questions_and_pass_through_what_is_known(compared: Comparison) -> None:
    assert compared.curve_questions == (0, 1, 2)  # all of so few
    unsteered, prompt, steered = compared.methods
    assert [point.strength for point in steered.curve] == [0, 1.0, 1.5, 2.0, 2.5]
    assert steered.curve[0] == unsteered.curve[0]
    for method, row in zip(compared.methods, compared.table.rows, strict=True):
        own = next(point for point in method.curve if point.strength == (row.strength or 0))
        assert (own.trait, own.coherence) == pytest.approx((row.trait, row.coherence), abs=1e-6)
    assert len(prompt.curve) == 1


def test_what_is_known_is_not_asked_again(
    chat: Chat, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = Suite("many", tuple(f"What is {i}?" for i in range(11)), max_tokens=2, strengths=(0.0, 2.0, 3.0))
    asked: list[int] = []
    replies = chat.replies
    monkeypatch.setattr(
        chat, "replies", lambda prompts, *a, **k: asked.append(len(prompts)) or replies(prompts, *a, **k)
    )
    found = compare(chat, many, TRAIT, [("drawn", [(bundle, 2.0)])], timing=False)
    assert asked == [11, 11, 11, N_CURVE]
    assert len(found.curve_questions) == N_CURVE
    assert [point.strength for point in found.methods[2].curve] == [0, 2, 3]


def test_curves_are_of_the_first_tokens_alone(chat: Chat, bundle: Bundle) -> None:
    suite = Suite("long", SUITE.questions[:1], max_tokens=CURVE_TOKENS + 4)
    found = compare(chat, suite, TRAIT, [("drawn", [(bundle, 2.0)])], timing=False)
    assert found.curve_tokens == CURVE_TOKENS
    row, method = found.table.rows[2], found.methods[2]
    own = next(point for point in method.curve if point.strength == 2)
    assert own.trait == pytest.approx(np.mean(row.scores.by_token[0].trait[:CURVE_TOKENS]), abs=1e-5)


def test_an_overflow_on_the_curve_is_a_point_without_numbers(chat: Chat) -> None:
    suite = Suite("s", SUITE.questions[:1], max_tokens=2, strengths=(1.0, 1e30))
    found = compare(chat, suite, TRAIT, [("drawn", [(made(chat, "huge", 1e9), 0.0)])], timing=False)
    last = found.methods[2].curve[-1]
    assert np.isnan(last.trait)
    assert np.isinf(last.coherence)
    json.dumps(found.to_json(), allow_nan=False)


def test_the_same_call_gives_the_same_json_but_for_the_clock(
    chat: Chat, bundle: Bundle, compared: Comparison
) -> None:
    again = compare(chat, SUITE, TRAIT, [("drawn", [(bundle, 2.0)])])
    told = compared.to_json(timing=False)
    assert again.to_json(timing=False) == told
    assert "seconds" not in json.dumps(told)
    row = json.loads(json.dumps(compared.to_json(), allow_nan=False))["rows"][2]
    assert row["kind"] == "constant"
    assert row["cost"]["token_seconds"] > 0
    assert "".join(text for text, _, _ in row["tokens"][0]) == row["replies"][0]


def test_progress_goes_up_to_one(chat: Chat, bundle: Bundle) -> None:
    seen: list[float] = []
    suite = Suite("s", SUITE.questions[:1], max_tokens=2)
    compare(chat, suite, TRAIT, [("drawn", [(bundle, 1.0)])], progress=lambda _, done: seen.append(done))
    assert seen == sorted(seen)
    assert seen[-1] == 1


def test_without_bundles_prompt_and_unsteered_are_left(chat: Chat) -> None:
    assert len(compare(chat, SUITE, TRAIT, [], timing=False).methods) == 2


@pytest.mark.parametrize(
    ("suite", "trait", "message"),
    [
        (Suite("s", ()), TRAIT, "no questions"),
        (SUITE, "  ", "trait is empty"),
        (Suite("s", ("word " * 2000,)), TRAIT, "expected at most"),
        (Suite("s", ("Why?",), counts=("(",)), TRAIT, "not a regular expression"),
    ],
)
def test_bad_input_is_refused_in_one_line(chat: Chat, suite: Suite, trait: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        compare(chat, suite, trait, [])
    assert "\n" not in str(caught.value)
