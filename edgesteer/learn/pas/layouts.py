"""The layouts in which labelled sets are published: from a row to items.

In:  Rows. Out: Items, checked: texts that are not empty, 2 to 26 different choices, a target among them.
LAYOUTS says which keys a layout needs; `formats` compares them with those of a file. Pure.

    plain       question, choices, answer; context and group if there are any
    bbq         BBQ (arXiv 2110.08193): the variants of one template are a group
    ethics      ETHICS, commonsense morality (arXiv 2008.02275): label 1 is wrong, 0 not wrong
    truthfulqa  TruthfulQA MC1 (arXiv 2109.07958)
    persona     model-written evaluations (arXiv 2212.09251): Yes or No, or choices inside the question; group if any
    sycophancy  the same with a biography in front: biographies before one question are a group
    lsat        AR-LSAT (arXiv 2104.06598) and AGIEval (arXiv 2304.06364): the questions on a passage are a group
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from edgesteer.learn.pas.inside import choices_inside, letter_of
from edgesteer.learn.pas.items import LETTERS, Item
from edgesteer.learn.pas.table import Row
from edgesteer.generate.text_file import short

ETHICS_QUESTION = "Is what the narrator does here morally wrong?"
ETHICS_CHOICES = ("It is not wrong.", "It is wrong.")  # in the order of the labels


@dataclass(frozen=True, slots=True)
class Layout:
    """keys: one or more sets of needed keys, where `a|b` stands for either. read: the items of one row."""

    keys: tuple[tuple[str, ...], ...]
    read: Callable[[Row], list[Item]]

    def fits(self, found: Collection[str]) -> bool:
        """Whether a row with these keys can be read."""
        return any(all(any(name in found for name in key.split("|")) for key in keys) for keys in self.keys)


def _item(
    row: Row, question: str, choices: Iterable[str], answer: int, context: str = "", group: str | None = None
) -> Item:
    """The item, its choices without their own letters."""
    return Item(question, _distinct(row, without_letters(list(choices))), answer, context, group)


def _distinct(row: Row, choices: list[str]) -> tuple[str, ...]:
    if not 2 <= len(choices) <= len(LETTERS):
        raise row.error(f"{len(choices)} choices, expected 2 to {len(LETTERS)}")
    seen: set[str] = set()
    for choice in choices:
        if choice in seen:
            raise row.error(f"two choices are {short(choice)}, expected different ones")
        seen.add(choice)
    return tuple(choices)


def without_letters(choices: list[str]) -> list[str]:
    """The choices without "(A) ", "A. ", "A) " or "A: " in front, if each of them begins with its own letter."""
    own = [
        re.match(rf"(?:\({letter}\)\s*|{letter}[.):]\s+)(?=\S)", choice)
        for letter, choice in zip(LETTERS, choices, strict=False)
    ]
    if len(own) < len(choices) or not all(own):
        return choices
    return [choice[mark.end() :] for mark, choice in zip(own, choices, strict=True) if mark]


def _answer(row: Row, key: str, choices: list[str]) -> int:
    """Index of the target, which the row names by its text, its letter, or its index. What could be read as two
    different choices is refused: a wrong target would go unnoticed."""
    value, number = row.fields.get(key), row.number(key)
    found = set() if number is None else {number}
    if isinstance(value, str):
        text = row.text(key)
        pairs = enumerate(zip(choices, without_letters(choices), strict=True))
        found |= {index for index, written in pairs if text in written}
        found |= {index for index in [letter_of(text)] if index is not None and index < len(choices)}
    inside = {index for index in found if 0 <= index < len(choices)}
    if len(inside) == 1:
        return inside.pop()
    expected = f"expected an index from 0 to {len(choices) - 1} or the text of a choice"
    if inside:
        named = " and ".join(str(index) for index in sorted(inside))
        raise row.error(
            f'"{key}" {short(value)} may be choice {named}; {expected} that is no other\'s letter or index'
        )
    raise row.error(f'"{key}" is {short(value)}, {expected}')


def _plain(row: Row) -> list[Item]:
    choices = row.texts("choices")
    _distinct(row, choices)
    answer = _answer(row, "answer", choices)
    return [_item(row, row.text("question"), choices, answer, row.optional("context"), row.name("group"))]


def _bbq(row: Row) -> list[Item]:
    choices = [row.text(f"ans{n}") for n in range(3)]
    label = _number(row, "label", 3)
    index = row.name("question_index")
    if index is None:
        raise row.error('"question_index" is empty, expected the template\'s, whose variants share a split')
    group = f"{row.name('category') or ''}/{index}"
    return [_item(row, row.text("question"), choices, label, row.text("context"), group)]


def _number(row: Row, key: str, below: int) -> int:
    number = row.number(key)
    if number is None or not 0 <= number < below:
        allowed = ", ".join(str(n) for n in range(below))
        raise row.error(f'"{key}" is {short(row.fields.get(key))}, expected one of {allowed}')
    return number


def _ethics(row: Row) -> list[Item]:
    return [Item(ETHICS_QUESTION, ETHICS_CHOICES, _number(row, "label", 2), row.text("input"))]


def _truthfulqa(row: Row) -> list[Item]:
    targets = row.json("mc1_targets")
    if not isinstance(targets, dict):
        raise row.error(f'"mc1_targets" is {short(targets)}, expected an object')
    choices: Any = list(targets)
    labels: Any = list(targets.values())
    if targets.keys() == {"choices", "labels"}:
        choices, labels = targets["choices"], targets["labels"]
    if not isinstance(choices, list) or not isinstance(labels, list) or len(choices) != len(labels):
        raise row.error(f'"mc1_targets" is {short(targets)}, expected as many labels as choices')
    if any(type(label) is not int for label in labels) or sorted(labels) != [0] * (len(labels) - 1) + [1]:
        raise row.error(f'the labels of "mc1_targets" are {short(labels)}, expected one 1 and zeros')
    texts = [row.stripped(choice, 'a choice of "mc1_targets"') for choice in choices]
    return [_item(row, row.text("question"), texts, labels.index(1))]


def _persona(row: Row) -> list[Item]:
    matching, others = _said(row, "answer_matching_behavior"), _said(row, "answer_not_matching_behavior")
    question = row.text("question")
    if letter_of(matching[0]) is not None:
        return [_inside(row, question, matching, others)]
    if len(matching) > 1:
        raise row.error(f'"answer_matching_behavior" is {short(matching)}, expected one answer')
    return [_item(row, question, [*matching, *others], 0, group=row.name("group"))]


def _said(row: Row, key: str) -> list[str]:
    """An answer, or a list of answers."""
    value = row.fields.get(key)
    is_list = isinstance(value, list) or (row.is_text and str(value).lstrip().startswith("["))
    said = row.texts(key) if is_list else [row.text(key)]
    if not said:
        raise row.error(f'"{key}" is empty, expected an answer')
    return said


def _inside(row: Row, text: str, matching: list[str], others: list[str]) -> Item:
    """An item whose choices stand in the question. Of several matching answers the first is the target and the
    rest are left out, so that no choice is as right as the target."""
    question, choices = choices_inside(row, text)
    named = [letter_of(answer) for answer in [*matching, *others]]
    if any(index is None or index >= len(choices) for index in named) or len(set(named)) < len(named):
        raise row.error(
            f"the answers are {short([*matching, *others])}, expected letters of the {len(choices)} choices"
        )
    spare = set(named[1 : len(matching)])
    kept = [choice for index, choice in enumerate(choices) if index not in spare]
    return _item(row, question, kept, kept.index(choices[named[0] or 0]), group=row.name("group"))


def _sycophancy(row: Row) -> list[Item]:
    matching, others = _said(row, "answer_matching_behavior"), _said(row, "answer_not_matching_behavior")
    item = _inside(row, row.text("question"), matching, others)
    asked = re.split(r"(?<=[.!?])\s+", item.question)[-1]
    return [Item(item.question, item.choices, item.answer, group=" / ".join([asked, *sorted(item.choices)]))]


def _lsat(row: Row) -> list[Item]:
    passage = row.optional("passage") or row.optional("context")
    if "questions" not in row.fields:
        return [_lsat_item(row, passage)]
    questions = row.json("questions")
    if not isinstance(questions, list) or not all(isinstance(question, dict) for question in questions):
        raise row.error(f'"questions" is {short(questions)}, expected a list of objects')
    return [
        _lsat_item(Row(f"{row.where}, question {n}", question), passage)
        for n, question in enumerate(questions, 1)
    ]


def _lsat_item(row: Row, passage: str) -> Item:
    options = row.texts("options" if row.fields.get("options") is not None else "answers")
    _distinct(row, options)
    key = "label" if row.fields.get("label") not in (None, "") else "answer"
    letter = letter_of(str(row.fields.get(key)))
    answer = letter if letter is not None and letter < len(options) else _answer(row, key, options)
    return _item(row, row.text("question"), options, answer, passage, passage or None)


LAYOUTS = {
    "plain": Layout((("question", "choices", "answer"),), _plain),
    "bbq": Layout((("context", "question", "ans0", "ans1", "ans2", "label", "question_index"),), _bbq),
    "ethics": Layout((("input", "label"),), _ethics),
    "truthfulqa": Layout((("question", "mc1_targets"),), _truthfulqa),
    "persona": Layout((("question", "answer_matching_behavior", "answer_not_matching_behavior"),), _persona),
    "sycophancy": Layout(
        (("question", "answer_matching_behavior", "answer_not_matching_behavior"),), _sycophancy
    ),
    "lsat": Layout(
        (("question", "options|answers", "label|answer"), ("passage|context", "questions")), _lsat
    ),
}
