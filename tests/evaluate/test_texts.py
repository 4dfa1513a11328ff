"""The texts that learning and evaluation use: how many, none twice in any file, the held-out ones apart."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from edgesteer.evaluate import held_out_questions, read_suite
from edgesteer.evaluate.instructions import KINDS, read_instructions
from edgesteer.generate import judge_questions, strength_questions, training_questions

ROOT = Path(__file__).resolve().parents[2]

# Words that only give a question its form.
FORM = set(
    re.findall(
        r"\w+",
        """a about all an and any are at be better by can could did do does explain for from get give good had has
        have he her him his how i if in is it its make may me mean means my of on one or our out plan please she
        short should so some someone something story tell that the their them then there they this time to up use
        was we what when where which who why will with word would write you your""",
    )
)


def lines(room: str, name: str) -> list[str]:
    return resources.files(room).joinpath(name).read_text("utf-8").splitlines()


def rows(name: str) -> list[Any]:
    return [json.loads(line) for line in lines("edgesteer.evaluate", name)]


TRAINING = training_questions()
POOL = [*TRAINING, *strength_questions()]
FACTS = rows("facts.jsonl")
CONVERSATIONS = rows("conversations.jsonl")
INSTRUCTIONS = read_instructions()
TURNS = [turn for conversation in CONVERSATIONS for turn in conversation["turns"]]
HELD_OUT = sorted({*held_out_questions(), *read_suite("pirate").questions})
EVALUATED = [*HELD_OUT, *(fact["question"] for fact in FACTS), *(i.prompt for i in INSTRUCTIONS), *TURNS]


def bare(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def subject(text: str) -> set[str]:
    return {word.rstrip("s") for word in bare(text).split() if word not in FORM}


def alike(one: str, other: str) -> bool:
    """Whether two questions share at least half of the words that name their subjects."""
    a, b = subject(one), subject(other)
    return bool(a and b) and 2 * len(a & b) >= len(a | b)


def test_no_text_is_in_the_files_twice() -> None:
    counts = Counter(map(bare, [*POOL, *judge_questions(), *EVALUATED]))
    assert [text for text, n in counts.items() if n > 1] == []


def test_the_pool_is_large_and_of_single_sentences() -> None:
    assert len(TRAINING) >= 420
    assert len(strength_questions()) == 60
    assert len(judge_questions()) >= 48
    assert [line for line in POOL if line != line.strip() or not re.fullmatch(r'.+[.?!]"?', line)] == []
    assert [line for line in POOL if len(line) > 90 or re.search(r"[.?!] [A-Z]", line)] == []


@pytest.mark.parametrize("n", [50, 100, 200])
def test_every_prefix_of_the_pool_is_mixed(n: int) -> None:
    kinds = {"how": r"How ", "what": r"What ", "story": r".*\bstory\b", "plan": r".*\b[Pp]lan\b", "sum": r".*\d"}
    kinds |= {"write": r"Write ", "describe": r"Describe ", "list": r"(List|Name|Give me) ", "feeling": r"I "}
    for pattern in kinds.values():
        share = sum(re.match(pattern, line) is not None for line in TRAINING) / len(TRAINING)
        first = sum(re.match(pattern, line) is not None for line in TRAINING[:n]) / n
        assert abs(first - share) < 0.05


def test_no_question_of_the_pool_is_like_a_held_out_one() -> None:
    assert [(one, other) for one in POOL for other in HELD_OUT if alike(one, other)] == []


def test_the_facts() -> None:
    assert len(FACTS) == 200
    for fact in FACTS:
        assert fact.keys() == {"question", "answer", "wrong"}
        answers = [fact["answer"], *fact["wrong"]]
        assert len(answers) == len(set(map(str.casefold, answers))) == 4
        assert all(answer == answer.strip() and 1 <= len(answer.split()) <= 3 for answer in answers)
        # None gives itself away by its form: all are digits or none, all begin with a capital.
        assert len({answer.isdigit() for answer in answers}) == 1
        assert all(answer[0].isdigit() or answer[0].isupper() for answer in answers)
        assert f" {bare(fact['answer'])} " not in f" {bare(fact['question'])} "


def test_the_wrong_answers_are_as_long_as_the_right_ones() -> None:
    right = sum(len(fact["answer"]) for fact in FACTS) / len(FACTS)
    wrong = sum(len(answer) for fact in FACTS for answer in fact["wrong"]) / (3 * len(FACTS))
    assert right == pytest.approx(wrong, rel=0.05)


def test_the_instructions_use_every_kind() -> None:
    assert len(INSTRUCTIONS) == 60
    kinds = Counter(instruction.check["kind"] for instruction in INSTRUCTIONS)
    assert kinds.keys() == KINDS.keys()
    assert min(kinds.values()) >= 2


def test_the_prompts_name_what_is_checked() -> None:
    for instruction in INSTRUCTIONS:
        check = instruction.check
        for text in (check.get("text", ""), *check.get("words", ()), *check.get("keys", ()), *check.get("options", ())):
            assert text in instruction.prompt or text == "?"


def test_the_conversations() -> None:
    assert len(CONVERSATIONS) == 6
    assert len({conversation["name"] for conversation in CONVERSATIONS}) == 6
    for conversation in CONVERSATIONS:
        assert conversation.keys() == {"name", "turns"}
        assert len(conversation["turns"]) == 10
        assert all(turn and turn == turn.strip() for turn in conversation["turns"])


@pytest.mark.parametrize("room", ["generate", "evaluate"])
def test_the_texts_are_in_the_wheel(room: str) -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]
    texts = {path for path in (ROOT / "edgesteer" / room).iterdir() if path.suffix in (".txt", ".jsonl")}
    shipped = {path for pattern in data[f"edgesteer.{room}"] for path in (ROOT / "edgesteer" / room).glob(pattern)}
    assert texts
    assert texts <= shipped
