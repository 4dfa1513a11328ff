"""The head-to-head on a tiny random model: who is asked what, and how the rows relate."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

import numpy as np
import pytest

from edgesteer import Bundle
from edgesteer.errors import IncompatibleError, InputError, MissingExtra
from edgesteer.evaluate import head_to_head
from edgesteer.generate import Chat

TRAIT = "You talk like a pirate, arr."
ASKED = ["Why is it so?", "Tell me a tale.", "What is a key?"]
APART = ["Who are you?", "What is rain?", ASKED[0]]


def test_strength_zero_is_the_unsteered_row(chat: Chat, bundle: Bundle) -> None:
    ways = [("zero", [(bundle, 0.0)]), ("full", [(bundle, 3.0)])]
    table = head_to_head(chat, TRAIT, ways, questions=ASKED, max_tokens=8, counts=["e"])
    unsteered, prompt, zero, full = table.rows
    assert [row.name for row in table.rows] == ["unsteered", "prompt", "zero", "full"]
    assert zero.replies == unsteered.replies
    assert zero.scores == unsteered.scores
    assert zero.estimates == unsteered.estimates
    assert full.replies != unsteered.replies
    assert [row.context_tokens > 0 for row in table.rows] == [False, True, False, False]
    assert all(row.first_token_seconds is not None for row in table.rows)
    for row in table.rows:
        assert row.coherence <= row.nll0
        assert all(e.low <= e.value <= e.high for e in row.estimates.values())
        assert row.estimates["e per 100 words"].value == pytest.approx(row.counts["e"].per_100_words)
        assert row.estimates["e in replies"].value == pytest.approx(row.counts["e"].share)
    for key, own in prompt.minus_prompt.items():
        assert (own.value, own.low, own.high) == (0, 0, 0), key
    gap = full.minus_prompt["trait"]
    assert gap.value == pytest.approx(full.trait - prompt.trait)


@pytest.mark.filterwarnings("ignore:drawn:edgesteer.EdgesteerWarning")
def test_levels_give_each_bundle_a_reading_at_the_prompts_coherence(chat: Chat, bundle: Bundle) -> None:
    options: dict[str, Any] = {"questions": ASKED, "max_tokens": 6, "timing": False, "counts": ["e"]}
    ways = [("x", [(bundle, 1.0)]), ("zero", [(bundle, 0.0)]), ("minus", [(bundle, -1.0)])]
    table = head_to_head(chat, TRAIT, ways, levels=(0.5, 2.0), **options)
    unsteered, prompt, x, zero, minus = table.rows
    assert (unsteered.matched, prompt.matched, zero.matched) == (None, None, None)  # nothing steers
    assert x.matched is not None
    assert minus.matched is not None
    assert -2 <= minus.matched.strength <= 0 <= x.matched.strength <= 2
    assert x.matched.estimates.keys() == x.estimates.keys()
    at_levels = [head_to_head(chat, TRAIT, [("x", [(bundle, s)])], **options).rows[2] for s in (0.5, 2.0)]
    traits = [row.trait for row in (unsteered, x, *at_levels)]
    assert min(traits) - 1e-9 <= x.matched.estimates["trait"].value <= max(traits) + 1e-9
    alone = head_to_head(chat, TRAIT, ways, **options)
    assert [dataclasses.replace(row, matched=None) for row in table.rows] == list(alone.rows)
    assert json.loads(json.dumps(table.to_json()))["rows"][2]["matched"]["strength"] == x.matched.strength


def test_a_level_that_overflows_or_leaves_the_range_does_not_cost_the_table(
    chat: Chat, bundle: Bundle
) -> None:
    options: dict[str, Any] = {"questions": ASKED, "max_tokens": 6, "timing": False}
    ways = [("x", [(bundle, 2.0)])]
    # a warning is an error in these tests
    beyond = head_to_head(chat, TRAIT, ways, levels=(0.5, 2.0), **options).rows[2]
    one = head_to_head(chat, TRAIT, ways, levels=(0.5,), **options).rows[2]
    assert beyond.matched is not None
    assert one.matched is not None
    assert head_to_head(chat, TRAIT, ways, levels=(0.5, 1e38), **options).rows[2] == one
    assert head_to_head(chat, TRAIT, ways, levels=(1e38,), **options).rows[2].matched is None


@pytest.mark.parametrize("levels", [(1.0,), (0.5, 0.5), (0.5, 1.0), (0.0, 2.0), (-1.0, 2.0), (float("nan"),)])
def test_levels_that_make_no_curve_are_refused(chat: Chat, bundle: Bundle, levels: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="levels .* expected different multiples"):
        head_to_head(chat, TRAIT, [("x", [(bundle, 1.0)])], questions=ASKED, levels=levels)


def test_a_row_does_not_depend_on_the_others(chat: Chat, bundle: Bundle) -> None:
    alone = head_to_head(chat, TRAIT, [], questions=ASKED, max_tokens=6, timing=False)
    beside = head_to_head(chat, TRAIT, [("x", [(bundle, 2.0)])], questions=ASKED, max_tokens=6, timing=False)
    assert beside.rows[:2] == alone.rows


def test_a_row_is_a_plan(chat: Chat, bundle: Bundle) -> None:
    """Several bundles add up, as one bundle of their sum would; the dial multiplies all of them."""

    def times(factor: float) -> Bundle:
        return dataclasses.replace(
            bundle, name="other", directions={n: factor * v for n, v in bundle.directions.items()}
        )

    options: dict[str, Any] = {"questions": ASKED, "max_tokens": 6, "timing": False, "levels": (0.5,)}
    rows = [
        ("sum", [(bundle, 3.0), (times(np.float32(-2)), 0.5)]),
        ("same", [(bundle, 2.0)]),
        ("none", [(bundle, 2.0), (times(np.float32(-1)), 2.0)]),
    ]
    unsteered, _, both, same, none = head_to_head(chat, TRAIT, rows, **options).rows
    assert both.replies == same.replies != unsteered.replies == none.replies
    assert (both.strength, same.strength) == (1.0, 2.0)
    assert dict(both.sources) == {"drawn": 3.0, "other": 0.5}
    assert (none.sources, none.matched) == ((), None)
    assert both.matched is not None
    assert same.matched is not None
    at, alone = (found.estimates["trait"].value for found in (both.matched, same.matched))
    assert at == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize(
    ("names", "message"),
    [(["x", "x"], "two rows are named 'x'"), (["prompt"], "two rows are named 'prompt'")],
)
def test_names_that_are_alike_are_refused(chat: Chat, bundle: Bundle, names: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        head_to_head(chat, TRAIT, [(name, [(bundle, 1.0)]) for name in names], questions=ASKED)


def test_a_row_without_a_bundle_is_refused(chat: Chat) -> None:
    with pytest.raises(InputError, match="row 'x' has no bundle"):
        head_to_head(chat, TRAIT, [("x", [])], questions=ASKED)


def test_the_plan_in_force_is_set_aside_and_returns(chat: Chat, bundle: Bundle) -> None:
    calm = head_to_head(chat, TRAIT, [], questions=ASKED[:1], max_tokens=6)
    with chat.llm.steered(bundle, 0.7):
        before = chat.llm.steering.fingerprint
        assert head_to_head(chat, TRAIT, [], questions=ASKED[:1], max_tokens=6) == calm
        assert chat.llm.steering.fingerprint == before


def test_table_is_json_and_the_clock_can_be_left_out(chat: Chat) -> None:
    table = head_to_head(chat, TRAIT, [], questions=ASKED[:1], max_tokens=4, counts=["pirate", "a|e", "a|e"])
    read = json.loads(json.dumps(table.to_json(), allow_nan=False))
    assert read["questions"] == ASKED[:1]
    assert list(read["rows"][0]["counts"]) == ["pirate", "a|e"]
    assert set(read["rows"][0]["counts"]["pirate"]) == {"per_100_words", "share"}
    assert read["rows"][0]["first_token_seconds"] > 0
    again = head_to_head(chat, TRAIT, [], questions=ASKED[:1], max_tokens=4, counts=["pirate", "a|e"])
    assert again.to_json(timing=False) == table.to_json(timing=False)
    assert "first_token_seconds" not in json.dumps(table.to_json(timing=False))


def test_sentiment_is_measured_where_asked_for(chat: Chat) -> None:
    pytest.importorskip("vaderSentiment")
    table = head_to_head(
        chat, TRAIT, [], questions=ASKED[:2], max_tokens=4, with_sentiment=True, timing=False
    )
    assert all(row.sentiment is not None and -1 <= row.sentiment <= 1 for row in table.rows)
    assert head_to_head(chat, TRAIT, [], questions=ASKED[:1], max_tokens=2).rows[0].sentiment is None


def test_progress_goes_up_to_one(chat: Chat, bundle: Bundle) -> None:
    seen: list[float] = []
    head_to_head(
        chat,
        TRAIT,
        [("x", [(bundle, 1.0)])],
        questions=ASKED[1:2],
        max_tokens=3,
        progress=lambda _, done: seen.append(done),
    )
    assert seen == sorted(seen)
    assert seen[-1] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"questions": []}, "no questions"),
        ({"trait": " "}, "trait is empty"),
        ({"max_tokens": 0}, "expected at least 1"),
        ({"counts": ["pirate", "("]}, "not a regular expression"),
        ({"counts": [""]}, "nothing to count"),
        ({"questions": ["word " * 2000]}, "expected at most"),
    ],
)
def test_bad_input_is_refused_in_one_line(chat: Chat, change: dict[str, Any], message: str) -> None:
    options = {"trait": TRAIT, "questions": ASKED, "max_tokens": 4, **change}
    with pytest.raises(InputError, match=message) as caught:
        head_to_head(chat, options.pop("trait"), [], **options)
    assert "\n" not in str(caught.value)


def test_a_bundle_of_another_model_is_refused_before_anything_is_asked(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = dataclasses.replace(chat.llm.model_info, n_embd=8)
    other = Bundle.build(name="other", directions={1: np.ones(8, np.float32)}, model=info)
    monkeypatch.setattr(chat, "replies", None)
    with pytest.raises(IncompatibleError, match="other"):
        head_to_head(chat, TRAIT, [("other", [(other, 1.0)])], questions=ASKED)


def test_without_vader_nothing_is_asked(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    monkeypatch.setattr(chat, "replies", None)
    with pytest.raises(MissingExtra, match="sentiment"):
        head_to_head(chat, TRAIT, [], questions=ASKED, with_sentiment=True)
