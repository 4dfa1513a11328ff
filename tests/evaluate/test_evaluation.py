"""Several measurements in one: what is measured at which strength, by which judge, and what a card holds."""

from __future__ import annotations

from typing import Any

import pytest

from edgesteer import Bundle
from edgesteer.errors import InputError
from edgesteer.evaluate.evaluation import Selection, measure
from edgesteer.generate import Chat
from tests.evaluate.stub_judge import Stub, serving

TRAIT = "You talk like a pirate, arr."
QUESTIONS = tuple(f"What is {n} and one?" for n in range(8))
SMALL: dict[str, Any] = {"questions": QUESTIONS, "max_tokens": 4}


def test_one_judge_judges_replies_and_turns(chat: Chat, bundle: Bundle) -> None:
    from edgesteer.evaluate.llm_judge import Endpoint, LLMJudge

    steps: list[float] = []
    with serving(Stub()) as stub:
        judge = LLMJudge(Endpoint(stub.url))
        chosen = Selection(turns=2, **SMALL)
        result = measure(
            chat, TRAIT, [("own", [(bundle, 1.0)])], chosen, judge, lambda stage, part: steps.append(part)
        )
    assert result.replies is not None
    assert result.conversations is not None
    assert "judge: alignment" in result.replies.rows[2].estimates
    assert "judge: alignment" in result.conversations.rows[2].turns
    assert steps == sorted(steps)
    assert steps[-1] == 1.0


def test_the_manifest_of_a_row(chat: Chat, bundle: Bundle) -> None:
    result = measure(chat, TRAIT, [("own", [(bundle, 1.0)])], Selection(turns=1, **SMALL))
    entries = result.for_manifest("own")
    assert list(entries) == ["replies", "conversations"]
    assert entries["replies"]["steered"].keys() == {"trait", "coherence", "relevance"}
    assert entries["replies"]["steered"]["trait"].keys() == {"value", "low", "high"}
    written = bundle.with_metadata(evaluation=entries)
    assert written.digest == bundle.digest
    assert "not evaluated; meant for" in (written.card or "")  # one strength is no range
    with pytest.raises(ValueError, match="row 'other': expected one of unsteered, prompt, own"):
        result.for_manifest("other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"turns": 10, "max_tokens": 4000}, "turns of .* take at least"),
        ({"turns": 11}, "has 10 turns, expected at least 11"),
        ({"transfer": True, "strength": 0.0}, "transfer: drawn at strength 0 steers nothing"),
        ({"turns": 2, "questions": QUESTIONS[:7]}, "judge: 7 questions, expected at least 8"),
        ({"turns": 1}, "judge: 6 questions, expected at least 8"),
    ],
)
def test_what_any_measurement_refuses_is_refused_before_the_first_begins(
    chat: Chat, bundle: Bundle, change: dict[str, Any], message: str
) -> None:
    from edgesteer.evaluate.llm_judge import Endpoint, LLMJudge

    def begun(stage: str, part: float) -> None:
        pytest.fail(f"{stage} has begun")

    rows = [("own", [(bundle, change.pop("strength", 1.0))])]
    judge = LLMJudge(Endpoint("http://127.0.0.1:1/v1"))
    with pytest.raises(InputError, match=message):
        measure(chat, TRAIT, rows, Selection(**{**SMALL, **change}), judge, begun)
