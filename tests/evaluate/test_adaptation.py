"""The adaptation chart's laws on a tiny random model: what does nothing changes nothing; scores follow the
numbers."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesteer import Bundle
from edgesteer.bundle import StrengthRange
from edgesteer.errors import IncompatibleError, InputError
from edgesteer.evaluate.adaptation import Adaptation, Adapted, measure
from edgesteer.evaluate.adaptation.criteria import AXES, Data, Drift, Effect, Memory, Reversal, Speed
from edgesteer.evaluate.adaptation.lora import read_lora
from edgesteer.evaluate.adaptation.resources import Subject
from edgesteer.evaluate.adaptation.side_effects import (
    Passage,
    passages_of_the_project,
    plain_logits,
    reversal,
)
from edgesteer.evaluate.head_to_head import head_to_head
from edgesteer.evaluate.intervals import Estimate
from edgesteer.evaluate.way import Way
from edgesteer.generate import Chat
from tests.lora import write_lora

TRAIT = "You talk like a pirate, arr."
ASKED = ["Why is it so?", "What is a key?"]
TEXTS = [Passage("one", "A leaf makes sugar."), Passage("two", "2 and 2 is 4.")]


@pytest.fixture(scope="module")
def tiny(model: Callable[[str], Path]) -> Path:
    return model("llama")


def bundle_for(chat: Chat, name: str, gated: bool, **training: Any) -> Bundle:
    info, rng = chat.llm.model_info, np.random.default_rng(0)
    drawn = rng.standard_normal(info.n_embd).astype(np.float32)
    gate = [(0.1 * rng.standard_normal((info.n_embd, 1)).astype(np.float32), np.ones(1, dtype=np.float32))]
    return Bundle.build(
        name=name,
        directions={1: drawn, 2: drawn},
        model=info,
        strength=StrengthRange(1.0, 0.0, 3.0),
        training=training,
        **({"gate": {1: gate, 2: gate}} if gated else {}),
    )


@pytest.fixture(scope="module")
def found(chat: Chat, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Adaptation:
    folder = tmp_path_factory.mktemp("lora")
    constant = bundle_for(chat, "constant", False)
    psr = bundle_for(chat, "psr", True, method="psr", trait="Arr.", kept=3, tokens=44)
    both = [(constant, 0.5), (psr, 1.0)]
    return measure(
        chat,
        TRAIT,
        [("constant", [(constant, 1.0)]), ("psr", [(psr, 1.0)]), ("zero", [(psr, 0.0)]), ("both", both)],
        lora=read_lora(write_lora(folder / "idle.gguf", tiny, scale=0), tiny),
        questions=ASKED,
        max_tokens=4,
        passages=TEXTS,
    )


def rows(found: Adaptation) -> dict[str, Adapted]:
    return {row.name: row for row in found.rows}


def test_a_row_each_and_what_they_are(found: Adaptation) -> None:
    kinds = [(row.name, row.kind) for row in found.rows]
    assert kinds == [
        ("unadapted", "unadapted"),
        ("prompt", "prompt"),
        ("constant", "constant"),
        ("psr", "A-PSR"),
        ("zero", "A-PSR"),
        ("both", "sum"),
        ("idle", "LoRA"),
    ]


def test_what_does_nothing_changes_nothing(found: Adaptation) -> None:
    by_name = rows(found)
    base = by_name["unadapted"]
    for idle in (base, by_name["zero"], by_name["idle"]):
        assert idle.drift.kl == Estimate(0.0, 0.0, 0.0)
        assert set(idle.drift.by_passage.values()) == {0.0}
        assert idle.drift.same_top == 1.0
        assert idle.effect == base.effect
        assert idle.scores["specificity"] == 1.0
        assert idle.scores["effect"] == 0.0
    for active in (by_name["prompt"], by_name["constant"], by_name["psr"]):
        assert active.drift.kl.value > 0
        assert active.drift.kl.low <= active.drift.kl.value <= active.drift.kl.high


def test_all_go_back_bit_for_bit_and_only_the_lora_reads_the_model_again(found: Adaptation) -> None:
    for row in found.rows:
        assert row.reversal.bitwise
        assert row.reversal.largest_difference == 0
        assert row.reversal.seconds > 0
        assert bool(row.reversal.reloaded_bytes) == (row.kind == "LoRA")
        assert (row.reversal.kept_difference is None) == (row.kind == "LoRA")


def test_a_logit_that_differs_is_no_reversal(chat: Chat) -> None:
    subject = Subject(Way("unsteered", [chat.prompt(ASKED[0])]), chat)
    never = plain_logits(chat, ASKED[0])
    assert reversal(subject, ASKED[0], never).bitwise
    never[7] = np.nextafter(never[7], np.float32(np.inf))
    back = reversal(subject, ASKED[0], never)
    assert not back.bitwise
    assert 0 < back.largest_difference < 1e-5


def test_effects_are_those_of_the_head_to_head(chat: Chat, found: Adaptation) -> None:
    table = head_to_head(chat, TRAIT, [], questions=ASKED, max_tokens=4, timing=False)
    for row, other in zip(found.rows, table.rows, strict=False):
        assert row.effect.trait == other.estimates["trait"]
        assert row.effect.coherence == other.estimates["coherence"]
        assert row.effect.example == other.replies[0]


def test_memory_and_data_are_what_the_files_say(chat: Chat, found: Adaptation) -> None:
    by_name = rows(found)
    n_embd = chat.llm.model_info.n_embd
    assert by_name["constant"].memory.held_bytes == 2 * 4 * n_embd
    assert by_name["psr"].memory.held_bytes > 2 * 4 * n_embd
    assert by_name["idle"].memory.held_bytes == by_name["idle"].memory.artifact_bytes > 0
    prompt = by_name["prompt"]
    assert prompt.data is not None
    assert prompt.data.given_tokens == len(chat.llm.tokenize(TRAIT.encode(), add_bos=False))
    assert (prompt.memory.artifact_bytes, prompt.memory.held_bytes) == (len(TRAIT), 0)
    assert prompt.memory.kv_bytes > 0
    psr = by_name["psr"].data
    assert psr is not None
    assert (psr.replies, psr.tokens) == (3, 44)
    assert by_name["unadapted"].data is None
    both = by_name["both"]
    assert both.memory.held_bytes == by_name["constant"].memory.held_bytes + by_name["psr"].memory.held_bytes
    assert both.data is not None
    assert both.data.tokens is None  # of one of the two it is not stated
    assert "method psr" in both.data.source
    for silent in ("constant", "idle"):
        assert by_name[silent].scores["data"] is None


def test_speed_is_against_the_unadapted_model(found: Adaptation) -> None:
    for row in found.rows:
        assert row.speed is not None
        assert row.speed.reply_ratio > 0
        assert row.speed.own_context == (row.kind == "LoRA")
    base = found.rows[0].speed
    assert base is not None
    assert (base.first_token_ratio, base.token_ratio, base.reply_ratio) == (1.0, 1.0, 1.0)


def test_json_is_finite_and_says_how_each_axis_was_measured(found: Adaptation) -> None:
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert list(told["axes"]) == [axis.name for axis in AXES]
    assert all(axis["measured"] and axis["score"] for axis in told["axes"].values())
    for row in told["rows"]:
        assert list(row["scores"]) == list(told["axes"])
        assert all(v is None or 0 <= v <= 1 for v in row["scores"].values())
    empty = dataclasses.replace(found.rows[1], effect=dataclasses.replace(A_ROW.effect, trait=NOTHING))
    told = dataclasses.replace(found, rows=(empty,)).to_json()
    json.dumps(told, allow_nan=False)
    assert told["rows"][0]["scores"]["effect"] is None


def test_the_plan_in_force_returns_and_nothing_but_the_clock_changes(chat: Chat, found: Adaptation) -> None:
    psr = bundle_for(chat, "psr", True)
    with chat.llm.steered(psr, 0.5):
        before = chat.llm.steering.fingerprint
        again = measure(
            chat, TRAIT, [("constant", [(bundle_for(chat, "constant", False), 1.0)])], questions=ASKED, max_tokens=4,
            passages=TEXTS,
        )  # fmt: skip
        assert chat.llm.steering.fingerprint == before
    for one, other in zip(again.rows, found.rows, strict=False):
        assert (one.drift, one.effect, one.memory, one.data) == (
            other.drift,
            other.effect,
            other.memory,
            other.data,
        )
        assert one.reversal.bitwise


def test_progress_goes_up_to_one(chat: Chat) -> None:
    seen: list[float] = []
    measure(
        chat,
        TRAIT,
        [],
        questions=ASKED[:1],
        max_tokens=2,
        passages=TEXTS[:1],
        progress=lambda _, f: seen.append(f),
    )
    assert seen == sorted(seen)
    assert seen[-1] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"questions": []}, "no questions"),
        ({"passages": []}, "no passages"),
        ({"trait": " "}, "trait is empty"),
        ({"max_tokens": 0}, "expected at least 1"),
        ({"passages": [Passage("long", "word " * 2000)]}, "expected at most"),
    ],
)
def test_bad_input_is_refused_in_one_line(chat: Chat, change: dict[str, Any], message: str) -> None:
    options = {"trait": TRAIT, "questions": ASKED[:1], "max_tokens": 2, "passages": TEXTS, **change}
    with pytest.raises(InputError, match=message) as caught:
        measure(chat, options.pop("trait"), [], **options)
    assert "\n" not in str(caught.value)


def test_a_bundle_for_another_model_is_refused_before_anything_is_asked(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = dataclasses.replace(chat.llm.model_info, n_embd=32)
    other = Bundle.build(name="other", directions={1: np.ones(32, dtype=np.float32)}, model=info)
    monkeypatch.setattr(chat, "replies", None)
    with pytest.raises(IncompatibleError):
        measure(chat, TRAIT, [("other", [(other, 1.0)])], questions=ASKED)


# -- scores, without a model ------------------------------------------------------------------

NOTHING = Estimate(math.nan, math.nan, math.nan)


def exactly(value: float) -> Estimate:
    return Estimate(value, value, value)


A_ROW = Adapted(
    name="row",
    kind="constant",
    strength=1.0,
    reversal=Reversal(True, 0.0, 0.1, 0.0, 0),
    drift=Drift(exactly(0.1), {"one": 0.1}, 0.9, 10),
    effect=Effect(exactly(0.5), exactly(1.0), 0.9, 0.0, 0.8, "Arr."),
    speed=Speed(0.1, 0.01, 1.0, 1.0, 1.1, False),
    memory=Memory(100, 100, 0.0, 0.0, 10_000),
    data=Data(10, 3, 100, "method psr"),
)


def changed(part: str, **values: Any) -> Adapted:
    return dataclasses.replace(A_ROW, **{part: dataclasses.replace(getattr(A_ROW, part), **values)})


WORSE: dict[str, list[Adapted]] = {
    "reversibility": [
        *(changed("reversal", reloaded_bytes=n) for n in (0, 100)),
        changed("reversal", bitwise=False, largest_difference=1e-6),
    ],
    "specificity": [changed("drift", kl=exactly(v)) for v in (0.0, 0.01, 0.1, 5.0)],
    "effect": [changed("effect", trait=exactly(v)) for v in (3.0, 1.0, 0.2, -1.0)],
    "coherence": [changed("effect", coherence=exactly(v)) for v in (0.8, 0.9, 1.5, 9.0)],
    "compute": [changed("speed", reply_ratio=v) for v in (1.0, 1.01, 2.0, 50.0)],
    "memory": [changed("memory", held_bytes=v) for v in (0, 10, 1000, 10**9)],
    "data": [changed("data", tokens=v) for v in (0, 100, 10_000, 10**9)],
}


@pytest.mark.parametrize("axis", [axis.name for axis in AXES])
def test_scores_fall_strictly_with_what_they_measure(axis: str) -> None:
    found = [row.scores[axis] for row in WORSE[axis]]
    assert all(better > worse for better, worse in itertools.pairwise(found))
    assert all(0 <= score <= 1 for score in found)


def test_the_clock_does_not_move_the_reversibility() -> None:
    assert changed("reversal", seconds=100.0).scores == changed("reversal", seconds=0.01).scores


def test_better_than_the_unadapted_model_is_no_better_than_best() -> None:
    assert changed("speed", reply_ratio=0.9).scores["compute"] == 1
    assert changed("effect", coherence=exactly(0.1)).scores["coherence"] == 1
    assert changed("effect", trait=exactly(-9.0)).scores["effect"] == 0


def test_what_has_no_number_has_no_score() -> None:
    assert dataclasses.replace(A_ROW, speed=None).scores["compute"] is None
    assert changed("memory", kv_bytes=None).scores["memory"] is None
    assert changed("data", tokens=None).scores["data"] is None
    assert changed("drift", kl=NOTHING).scores["specificity"] is None
    assert changed("effect", trait=NOTHING).scores["effect"] is None
    assert changed("effect", coherence=NOTHING).scores["coherence"] is None


def test_the_projects_passages_are_many_kinds_of_text() -> None:
    texts = passages_of_the_project()
    assert len({text.title for text in texts}) == len(texts) >= 6
    assert all(len(text.text) > 200 and "\n\n" not in text.text for text in texts)
    assert any("\n" in text.text for text in texts)
