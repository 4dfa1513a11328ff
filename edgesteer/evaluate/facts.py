"""What steering does to facts: which of a few answers to a short question the model finds likeliest.

In:  a Chat, the trait, rows of bundles; facts, which are questions with a right and some wrong answers.
Out: for each way to ask, the share of right answers, and what changed since the unsteered model.

    {"question": "What is the capital of France?", "answer": "Paris", "wrong": ["Lyon", "London", "Brussels"]}

An answer is scored as the beginning of a reply, by its tokens' mean log-probability; nothing is generated.
This shows what the model knows under steering, but not whether a steered reply would say it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from edgesteer.errors import InputError
from edgesteer.evaluate.shares import Share, ways_to_ask
from edgesteer.evaluate.table import named, plain_values
from edgesteer.evaluate.way import Sources, Way
from edgesteer.generate import Chat, Tokens
from edgesteer.generate.progress import Done, Progress, Stages, no_progress
from edgesteer.generate.text_file import read_records, short, sound

_EXPECTED = 'expected a JSON object with "question", "answer" and "wrong" on each line'
_KEYS = ("question", "answer", "wrong")


@dataclass(frozen=True, slots=True)
class Fact:
    """A question, its right answer, and wrong ones, all different."""

    question: str
    answer: str
    wrong: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FactsRow:
    """How one way to ask does.

    strength: None if nothing steers. accuracy: the share of right answers.
    margins: for each question, by how much the right answer leads the likeliest wrong one, in nats per token;
        the model is right where it is above 0.
    """

    name: str
    strength: float | None
    accuracy: Share
    margins: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class FactsTable:
    """A row for each way to ask; the first is unsteered. chance: the accuracy of guesses."""

    questions: tuple[str, ...]
    chance: float
    rows: tuple[FactsRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        out: dict[str, Any] = plain_values(dataclasses.asdict(self))
        return out

    def for_manifest(self, name: str) -> dict[str, Any]:
        """What the manifest of the row's bundle says as `evaluation.facts`; accuracies are shares.

        Raises ValueError if there is no row of that name.
        """
        row, before = named(self.rows, name), self.rows[0].accuracy
        return {"strength": row.strength, **row.accuracy.for_manifest(before, len(self.questions))}


def read_facts(path: str | os.PathLike[str] | None = None) -> list[Fact]:
    """The facts of a JSON Lines file, in order; None: the built-in 200.

    Raises InputError, which names file and line, for an answer that occurs twice in a fact (case does not
    matter) and for a question that occurs twice.
    """
    built_in = resources.files("edgesteer.evaluate").joinpath("facts.jsonl")
    records = read_records(path, built_in, _fact, "facts", _EXPECTED)
    first: dict[str, str] = {}
    for place, fact in records.items():
        if (before := first.setdefault(fact.question.casefold(), place)) != place:
            raise InputError(f"{place}: the question of {before} again, expected each once")
    return list(records.values())


def facts(
    chat: Chat,
    trait: str | None,
    rows: Sequence[tuple[str, Sources]],
    *,
    items: Sequence[Fact] | None = None,
    progress: Progress = no_progress,
) -> FactsTable:
    """How many facts are right unsteered, with the trait as system prompt, and in each of the rows.

    rows: as for `head_to_head`. trait: None leaves the prompted row out. items: None for `read_facts()`.
    The plan in force is set aside. A question's answers are read together, so its prompt is read once.
    Raises InputError for fewer than 8 facts, an empty trait, or a prompt that does not fit the context;
    IncompatibleError for a bundle of another model; SteeringOverflow.
    """
    items = read_facts() if items is None else list(items)
    ways = ways_to_ask(chat, [fact.question for fact in items], trait, rows)
    answers = [[_written(chat, fact.question, text) for text in (fact.answer, *fact.wrong)] for fact in items]
    stages = Stages(progress, len(ways))
    margins = [_margins(chat, way, answers, stages.enter(way.name)) for way in ways]
    progress("done", 1.0)
    right = [[margin > 0 for margin in each] for each in margins]
    return FactsTable(
        questions=tuple(fact.question for fact in items),
        chance=float(np.mean([1 / (1 + len(fact.wrong)) for fact in items])),
        rows=tuple(
            FactsRow(way.name, way.strength, Share.of(yes, right[0]), tuple(each))
            for way, each, yes in zip(ways, margins, right, strict=True)
        ),
    )


def _margins(chat: Chat, way: Way, answers: Sequence[Sequence[Tokens]], progress: Done) -> list[float]:
    """answers: for each question the tokens of its answers, the right one first."""
    # The order in a batch decides on last bits, so it must not be the file's.
    texts = [sorted({tuple(answer) for answer in each}) for each in answers]
    pairs = [(prompt, text) for prompt, each in zip(way.prompts, texts, strict=True) for text in each]
    with way.steered(chat):
        means = [float(row.mean(dtype=np.float64)) for row in chat.log_probs(pairs, progress)]
    known, out = iter(means), []
    for each, (right, *wrong) in zip(texts, answers, strict=True):
        mean = {text: next(known) for text in each}
        out.append(mean[tuple(right)] - max(mean[tuple(answer)] for answer in wrong))
    return out


def _written(chat: Chat, question: str, answer: str) -> list[int]:
    """The answer's tokens behind the prompt. After a template of plain text they begin with a blank."""
    joined = chat.template is None or chat.template[-1:].isspace()
    return chat.written(question, answer if joined else f" {answer}")


def _fact(row: tuple[Any, str]) -> Fact:
    value, where = row
    if not isinstance(value, dict) or value.keys() != set(_KEYS):
        raise InputError(f"{where}: {short(value)}, {_EXPECTED}")
    question, answer = (_text(value[key], f'{where}: "{key}"') for key in _KEYS[:2])
    if not isinstance(value["wrong"], list) or not value["wrong"]:
        raise InputError(
            f'{where}: "wrong" {short(value["wrong"])}, expected a list with at least one answer'
        )
    wrong = tuple(_text(item, f'{where}: "wrong", item {i}') for i, item in enumerate(value["wrong"], 1))
    alike = [text.casefold() for text in (answer, *wrong)]
    if again := [text for text in alike if alike.count(text) > 1]:
        raise InputError(f"{where}: the answer {short(again[0])} twice, expected different ones")
    return Fact(question, answer, wrong)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where} {short(value)}, expected text")
    return sound(value.strip(), where)
