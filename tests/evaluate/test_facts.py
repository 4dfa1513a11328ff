"""Facts by likelihood, on a tiny random model: who is right, and files that cannot be used."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesteer.errors import InputError
from edgesteer.evaluate.facts import Fact, facts, read_facts
from edgesteer.generate import Chat
from edgesteer.report.side_effects import facts_lines
from tests.evaluate.bias import bias

TRAIT = "You talk like a pirate, arr."
ITEMS = [
    *(Fact(f"What is {i}?", "Zebra", ("Apple", "Orange", "Quince tree")) for i in range(5)),
    *(Fact(f"Who is {i}?", "Orange", ("Zebra", "Apple", "Quince tree")) for i in range(5)),
]
GOOD = {"question": "What is it?", "answer": "A", "wrong": ["B", "C", "D"]}


def test_a_bias_towards_an_answer_is_seen(chat: Chat) -> None:
    """Answers are right where the bias is towards them, and wrong where it is towards others."""
    towards = bias(chat.llm, "Z")
    table = facts(chat, TRAIT, [("zebra", [(towards, 1.0)]), ("none", [(towards, 0.0)])], items=ITEMS)
    unsteered, prompt, zebra, _ = table.rows
    assert [row.name for row in table.rows] == ["unsteered", "prompt", "zebra", "none"]
    right = [margin > 0 for margin in zebra.margins]
    assert right == [True] * 5 + [False] * 5
    assert zebra.accuracy.estimate.value == 0.5
    before = [margin > 0 for margin in unsteered.margins]
    assert zebra.accuracy.lost == sum(before[5:])
    assert zebra.accuracy.gained == 5 - sum(before[:5])
    change = zebra.accuracy.minus_unsteered
    assert change.value == pytest.approx(0.5 - np.mean(before))
    assert change.low <= change.value <= change.high
    assert prompt.margins != unsteered.margins
    assert table.chance == 0.25


def test_an_empty_plan_is_the_unsteered_model(chat: Chat) -> None:
    towards = bias(chat.llm, "Z")
    with chat.llm.steered(towards):  # set aside
        table = facts(chat, TRAIT, [("none", [(towards, 0.0)])], items=ITEMS)
    unsteered, _, none = table.rows
    assert none.margins == unsteered.margins
    assert none.accuracy == unsteered.accuracy
    assert (none.accuracy.lost, none.accuracy.gained) == (0, 0)
    assert table == facts(chat, TRAIT, [("none", [(towards, 0.0)])], items=ITEMS)


def test_the_order_of_the_wrong_answers_does_not_matter(chat: Chat) -> None:
    turned = [replace(item, wrong=item.wrong[::-1]) for item in ITEMS]
    assert facts(chat, TRAIT, [], items=turned) == facts(chat, TRAIT, [], items=ITEMS)


def test_which_answer_is_right_only_turns_the_margin(chat: Chat) -> None:
    first = [Fact(f"Q{i}", "Zebra", ("Apple",)) for i in range(8)]
    second = [Fact(f"Q{i}", "Apple", ("Zebra",)) for i in range(8)]
    one, other = (facts(chat, None, [], items=items).rows[0].margins for items in (first, second))
    assert np.array_equal(np.array(one), -np.array(other))


def test_a_margin_is_the_lead_in_mean_log_probability(chat: Chat) -> None:
    """As by hand, with one answer read at a time: what shares a batch changes last bits only."""
    row = facts(chat, None, [], items=ITEMS).rows[0]
    for fact, margin in zip(ITEMS, row.margins, strict=True):
        prompt = chat.prompt(fact.question)
        right, *wrong = (
            chat.log_probs([(prompt, chat.written(fact.question, text))])[0].mean(dtype=np.float64)
            for text in (fact.answer, *fact.wrong)
        )
        assert margin == pytest.approx(right - max(wrong), abs=1e-4)


@pytest.mark.parametrize(("template", "blank"), [("Q: {question}\nA:", " "), ("Q: {question}\nA:\n", "")])
def test_a_template_of_plain_text_has_a_blank_before_the_answer(chat: Chat, template: str, blank: str) -> None:
    plain = Chat(chat.llm, template)
    margin = facts(plain, None, [], items=ITEMS).rows[0].margins[0]
    question, texts = ITEMS[0].question, (ITEMS[0].answer, *ITEMS[0].wrong)
    pairs = [(plain.prompt(question), plain.llm.tokenize((blank + t).encode(), add_bos=False)) for t in texts]
    right, *wrong = (row.mean(dtype=np.float64) for row in plain.log_probs(pairs))
    assert margin == pytest.approx(right - max(wrong), abs=1e-4)


def test_the_card_says_what_it_does_to_facts(chat: Chat) -> None:
    towards = bias(chat.llm, "Z")
    table = facts(chat, None, [("zebra", [(towards, 1.0)])], items=ITEMS)
    assert [row.name for row in table.rows] == ["unsteered", "zebra"]
    entry = table.for_manifest("zebra")
    assert (entry["questions"], entry["strength"], entry["after"]) == (10, 1.0, 0.5)
    lost = entry["points_lost"]
    assert lost["value"] == pytest.approx(100 * (entry["before"] - entry["after"]))
    assert lost["low"] <= lost["value"] <= lost["high"]
    with_facts = towards.with_metadata(evaluation={**towards.evaluation, "facts": entry})
    assert with_facts.digest == towards.digest
    assert with_facts.evaluation["facts"] == entry
    assert with_facts.card is not None
    assert "- facts:\n  - after: 0.5\n" in with_facts.card
    with pytest.raises(ValueError, match="'other': expected one of unsteered, zebra"):
        table.for_manifest("other")


def test_the_report(chat: Chat) -> None:
    towards = bias(chat.llm, "Z")
    table = facts(chat, TRAIT, [("zebra", [(towards, 1.0)]), ("none", [(towards, 0.0)])], items=ITEMS)
    shown = list(facts_lines(table))
    assert max(map(len, shown)) <= 100
    text = "\n".join(shown)
    assert "50.0 % [" in text
    assert "10 questions, by likelihood; guesses would be right in 25%." in text
    assert "none: no question changed; of others, up to about 30.0% might." in text
    assert max(map(len, facts_lines(table, 60))) <= 60
    assert json.loads(json.dumps(table.to_json()))["rows"][2]["name"] == "zebra"


def test_what_cannot_be_measured_is_refused(chat: Chat) -> None:
    with pytest.raises(InputError, match="7 questions, expected at least 8"):
        facts(chat, TRAIT, [], items=ITEMS[:7])
    with pytest.raises(InputError, match="the trait is empty"):
        facts(chat, " ", [], items=ITEMS)
    with pytest.raises(InputError, match="named 'unsteered'"):
        facts(chat, TRAIT, [("unsteered", [(bias(chat.llm, "Z"), 1.0)])], items=ITEMS)
    with pytest.raises(InputError, match="no bundle"):
        facts(chat, TRAIT, [("empty", [])], items=ITEMS)
    with pytest.raises(InputError, match="larger context"):
        facts(chat, TRAIT, [], items=[*ITEMS, Fact("word " * 2000, "A", ("B",))])


def test_the_built_in_facts() -> None:
    items = read_facts()
    assert len(items) == 200
    assert items[0] == Fact("What is the capital of France?", "Paris", ("Lyon", "London", "Brussels"))


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"question": " Is it? ", "answer": "Yes ", "wrong": ["No"]}\n\n' + json.dumps(GOOD) + "\n")
    assert read_facts(path) == [Fact("Is it?", "Yes", ("No",)), Fact("What is it?", "A", ("B", "C", "D"))]
    path.write_text(json.dumps([GOOD]))
    assert read_facts(path) == [Fact("What is it?", "A", ("B", "C", "D"))]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("", "own.jsonl: no facts"),
        ("What is it?", "own.jsonl:1: not JSON"),
        ('["A"]', "expected a JSON object"),
        ({"question": "Q", "answer": "A"}, "expected a JSON object"),
        ({**GOOD, "source": "x"}, "expected a JSON object"),
        ({**GOOD, "question": "  "}, r'own.jsonl:1: "question" .*expected text'),
        ({**GOOD, "answer": 1914}, r'"answer" 1914, expected text'),
        ({**GOOD, "answer": "A\0"}, "NUL"),
        ({**GOOD, "wrong": []}, r'"wrong" \[\], expected a list with at least one'),
        ({**GOOD, "wrong": "B"}, r"""\"wrong" 'B', expected a list"""),
        ({**GOOD, "wrong": ["B", None]}, r'"wrong", item 2 None, expected text'),
        ({**GOOD, "wrong": ["B", "a "]}, r"the answer 'a' twice"),
        ({**GOOD, "wrong": ["B", "b"]}, r"the answer 'b' twice"),
        (f"{json.dumps(GOOD)}\n{json.dumps({**GOOD, 'question': 'what is IT?'})}", "own.jsonl:2: the question of .*:1"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(bad: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(bad if isinstance(bad, str) else json.dumps(bad))
    with pytest.raises(InputError, match=message):
        read_facts(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='no.jsonl: .*; expected a JSON object with "question"'):
        read_facts(tmp_path / "no.jsonl")
