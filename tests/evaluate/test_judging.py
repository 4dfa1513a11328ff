"""Relevance and judges in a head-to-head on a tiny random model, with a stub and embeddings as judges."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesteer import Bundle
from edgesteer.errors import InputError
from edgesteer.evaluate import Suite, Table, compare, head_to_head
from edgesteer.evaluate.embedding import Embedder
from edgesteer.evaluate.judging import N_TRAINING, questions_apart
from edgesteer.evaluate.llm_judge import Endpoint, LLMJudge
from edgesteer.evaluate.relevance import relevance
from edgesteer.generate import REPEAT_PENALTY, Chat, judge_questions
from tests.evaluate.stub_judge import Stub, serving

TRAIT = "You talk like a pirate, arr."
QUESTIONS = [f"What is {n} and one?" for n in range(8)]
OPTIONS: dict[str, Any] = {"questions": QUESTIONS, "max_tokens": 6, "timing": False}


@pytest.fixture(scope="module")
def plain_table(chat: Chat, bundle: Bundle) -> Table:
    return head_to_head(chat, TRAIT, [("x", [(bundle, 1.0)])], **OPTIONS)


@pytest.fixture(scope="module")
def embedder(model: Callable[[str], Path]) -> Iterator[Embedder]:
    with Embedder(model("bert"), n_threads=1) as embedder:
        yield embedder


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serving(Stub()) as stub:
        yield stub


class Recognises:
    """Embeds a text as a function of whether it is in `prompted`, and a little of its own."""

    def __init__(self) -> None:
        self.prompted: set[str] = set()

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        if not self.prompted:  # the first call is the training: the prompted replies, then the plain ones
            self.prompted = set(texts[: len(texts) // 2])
        rows = [(text in self.prompted, len(text) % 7 / 100) for text in texts]
        return np.array(rows, np.float32).reshape(len(texts), 2)


# -- relevance


def test_relevance_is_that_of_each_rows_replies(chat: Chat, plain_table: Table) -> None:
    with chat.llm.steered([]):
        prompts = [chat.prompt(question, TRAIT) for question in QUESTIONS]
        replies = chat.replies(prompts, 6, repeat_penalty=REPEAT_PENALTY)
    alone = relevance(chat, TRAIT, QUESTIONS, replies)
    prompt = plain_table.rows[1]
    assert prompt.by_reply["relevance"] == tuple(alone.nats.tolist())
    assert prompt.by_reply["question matched"] == tuple(alone.matched.tolist())
    assert plain_table.chance == alone.chance
    for row in plain_table.rows:
        own = row.estimates["relevance"]
        assert own.value == pytest.approx(np.mean(row.by_reply["relevance"]))
        assert own.low <= own.value <= own.high
        gap = row.minus_prompt["relevance"].value
        assert gap == pytest.approx(own.value - prompt.estimates["relevance"].value)
        assert 0 <= row.estimates["question matched"].value <= 1


@pytest.mark.filterwarnings("ignore:drawn:edgesteer.EdgesteerWarning")
def test_relevance_is_read_at_the_prompts_coherence_too(chat: Chat, bundle: Bundle) -> None:
    rows = [("x", [(bundle, 1.0)])]
    row = head_to_head(chat, TRAIT, rows, levels=(0.5,), **{**OPTIONS, "questions": QUESTIONS[:4]}).rows[2]
    assert row.matched is not None
    assert {"relevance", "question matched"} <= row.matched.estimates.keys()


@pytest.mark.parametrize("questions", [QUESTIONS[:2], [QUESTIONS[0], QUESTIONS[0], QUESTIONS[1]]])
def test_without_three_different_questions_there_is_no_relevance(chat: Chat, questions: list[str]) -> None:
    table = head_to_head(chat, TRAIT, [], **{**OPTIONS, "questions": questions})
    assert table.chance is None
    assert all("relevance" not in row.estimates for row in table.rows)


# -- the trait judge


def test_a_trait_judge_gives_a_probability_and_says_how_good_it_is(
    chat: Chat, bundle: Bundle, plain_table: Table
) -> None:
    table = head_to_head(chat, TRAIT, [("x", [(bundle, 1.0)])], judge=Recognises(), **OPTIONS)
    assert table.judge is not None
    assert not table.judge.abstains
    assert table.judge.auc is not None
    assert table.judge.auc.value > 0.9
    assert table.judge.questions == min(N_TRAINING, len(judge_questions()))
    for row, without in zip(table.rows, plain_table.rows, strict=True):
        assert len(row.by_reply["judge"]) == len(QUESTIONS)
        assert 0 < row.estimates["judge"].value < 1
        assert row.judged == {}
        assert row.estimates.items() >= without.estimates.items()  # the others' measures do not change
    read = json.loads(json.dumps(table.to_json(), allow_nan=False))
    assert read["judge"]["auc"]["value"] == table.judge.auc.value
    assert read["rows"][2]["minus_prompt"]["judge"]["low"] is not None


def test_a_trait_judge_that_is_chance_abstains(chat: Chat) -> None:
    class Blind:
        def embed(self, texts: Sequence[str]) -> np.ndarray:
            return np.ones((len(texts), 3), np.float32)

    table = head_to_head(chat, TRAIT, [], judge=Blind(), **OPTIONS)
    assert table.judge is not None
    assert table.judge.abstains
    assert "abstains" in table.judge.summary
    assert all("judge" not in row.estimates for row in table.rows)


def test_an_embedding_model_judges_and_the_same_again(chat: Chat, embedder: Embedder) -> None:
    first, again = (head_to_head(chat, TRAIT, [], judge=embedder, **OPTIONS) for _ in range(2))
    assert first.judge is not None
    assert first.to_json() == again.to_json()


def test_a_trait_judge_is_trained_on_other_questions() -> None:
    texts = judge_questions()
    apart = questions_apart([f" {texts[0].upper()} ", texts[3]])
    assert not {texts[0], texts[3]} & set(apart)
    assert set(apart) <= set(texts)
    with pytest.raises(
        InputError, match="7 built-in questions are not among those asked, expected at least 8"
    ):
        questions_apart(texts[7:])


# -- a language model


def answer(request: dict[str, Any]) -> str:
    """A score that depends on the reply, within the range that the judge is asked for."""
    prompt = request["messages"][0]["content"]
    highest = 100 if "from 0 to 100" in prompt else 2
    return json.dumps({"score": len(prompt) % (highest + 1)})


@pytest.mark.filterwarnings("ignore:drawn:edgesteer.EdgesteerWarning")
def test_a_language_model_rates_every_row_and_gives_the_trait_at_a_coherence(
    chat: Chat, bundle: Bundle, stub: Stub, tmp_path: Path
) -> None:
    stub.answer = answer
    judges = (LLMJudge(Endpoint(stub.url, pause=0.001), cache=tmp_path / "judge.jsonl") for _ in range(2))
    table, again = (
        head_to_head(chat, TRAIT, [("x", [(bundle, 1.0)])], levels=(0.5, 2.0), judge=judge, **OPTIONS)
        for judge in judges
    )
    unsteered, prompt, x = table.rows
    for row in table.rows:
        assert len(row.by_reply["judge: alignment"]) == len(QUESTIONS)
        assert 0 <= row.estimates["judge: coherence"].value <= 100
        assert 0 <= row.estimates["judge: harmonic"].value <= 2
    assert unsteered.judged == prompt.judged == {}
    assert set(x.judged) == {"TA@Cp", "TA@C80"}
    assert 0 <= x.judged["TA@Cp"].strength <= 2
    assert table.judge is not None
    assert (table.judge.name, table.judge.url) == ("stub", stub.url)
    assert table.judge.cost is not None
    assert table.judge.cost.calls > 0
    assert again.judge is not None
    assert again.judge.cost is not None
    assert again.judge.cost.calls == 0  # from the cache
    assert again == table
    assert again.to_json(timing=False) == table.to_json(timing=False)
    assert json.loads(json.dumps(table.to_json(), allow_nan=False))["judge"]["cost"]["calls"] > 0


def test_a_comparison_is_judged_too(chat: Chat, stub: Stub) -> None:
    stub.answer = answer
    suite = Suite("tiny", tuple(QUESTIONS), max_tokens=3)
    comparison = compare(chat, suite, TRAIT, [], judge=LLMJudge(Endpoint(stub.url)), timing=False)
    assert "judge: alignment" in comparison.table.rows[1].estimates
    assert comparison.to_json()["judge"]["name"] == "stub"


def test_a_judge_that_answers_prose_ends_it_before_the_questions(
    chat: Chat, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.answer = lambda request: "That is a lovely reply."
    monkeypatch.setattr(chat, "replies", None)
    with pytest.raises(InputError, match="lovely"):
        head_to_head(chat, TRAIT, [], judge=LLMJudge(Endpoint(stub.url)), **OPTIONS)


@pytest.mark.parametrize("questions", [QUESTIONS[:7], [*QUESTIONS[:7], QUESTIONS[0]]])
def test_too_few_questions_for_a_judge_are_refused(chat: Chat, stub: Stub, questions: list[str]) -> None:
    for judge in (Recognises(), LLMJudge(Endpoint(stub.url))):
        with pytest.raises(InputError, match="judge: 7 questions, expected at least 8"):
            head_to_head(chat, TRAIT, [], judge=judge, **{**OPTIONS, "questions": questions})
    assert stub.requests == []


def test_progress_with_a_judge_goes_up_to_one(chat: Chat, stub: Stub) -> None:
    stub.answer = answer
    for judge in (Recognises(), LLMJudge(Endpoint(stub.url))):
        seen: list[float] = []
        head_to_head(
            chat, TRAIT, [], judge=judge, progress=lambda _, part, seen=seen: seen.append(part), **OPTIONS
        )
        assert seen == sorted(seen)
        assert seen[-1] == 1
