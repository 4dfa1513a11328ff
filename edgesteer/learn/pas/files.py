"""Read labelled multiple-choice files, check them, and turn them into Items. Also the sets that ship.

In:  a path and the name of its layout. A file is JSON Lines or one JSON array of objects (`.jsonl`, `.json`),
     or a table with a header row (`.csv`, `.tsv`).
Out: Items in the file's order, checked: texts that are not empty, 2 to 26 different choices, a target among
     them. Every error is an InputError of one line: the place, what is there, and what was expected.

    plain       question, choices, answer; context and group if there are any
    bbq         BBQ (arXiv 2110.08193): the variants of one template are a group
    ethics      ETHICS, commonsense morality (arXiv 2008.02275): label 1 is wrong, 0 not wrong
    truthfulqa  TruthfulQA MC1 (arXiv 2109.07958)
    persona     model-written evaluations (arXiv 2212.09251): Yes or No, or choices inside the question
    sycophancy  the same with a biography in front: biographies before one question are a group
    lsat        AR-LSAT (arXiv 2104.06598) and AGIEval (arXiv 2304.06364): one group a passage
"""

from __future__ import annotations

import collections
import csv
import itertools
import os
import re
import string
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from edgesteer.errors import InputError
from edgesteer.generate.text_file import json_value, read_lines, short
from edgesteer.learn.pas.items import LETTERS, Item

SETS = {
    "agreeableness": "600 everyday situations: a warm, kind answer against a cold, rude one",
    "risk-taking": "600 everyday choices: a bold, adventurous answer against a careful one",
    "self-interest": "600 everyday choices: own gain against what is fair or good for others",
    "optimism": "600 everyday outlooks: a hopeful answer against a gloomy one",
    "helpful-yes-no": "400 statements, half of them an agreeable person's: Yes or No",
    "agreement": "648 opinions in few words: the answer agrees with the speaker or contradicts",
    "helpfulness": "540 requests in few words: the answer does what is asked or refuses",
    "sharing": "480 things in few words: the answer shares them or keeps them",
    "control": "120 easy questions of general ability, four choices each",
}

_EXPECTED = "expected a UTF-8 .jsonl, .json, .csv or .tsv file of multiple-choice items"
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
# No context is longer, and csv's own limit is near it: a longer text cannot be an item.
LONGEST = 100_000

ETHICS_QUESTION = "Is what the narrator does here morally wrong?"
ETHICS_CHOICES = ("It is not wrong.", "It is wrong.")  # in the order of the labels


def read_items(path: str | os.PathLike[str], format: str = "plain") -> list[Item]:
    """The items of a file. format: one of FORMATS. Raises InputError."""
    if format not in _LAYOUTS:
        raise InputError(f"format {format[:40]!r}, expected one of {', '.join(FORMATS)}")
    layout, items = _LAYOUTS[format], list[Item]()
    rows = _read_rows(path)
    for row in rows:
        if not layout.fits(row.fields):
            raise row.error(_unfit(row, rows[0], layout, format))
        items += layout.read(row)
    if not items:
        raise InputError(f"{os.fspath(path)}: no items, expected questions in it")
    return items


def set_path(name: str) -> Path:
    """The file of a set that ships. Raises InputError for a name that is not one of SETS.

    The behaviour sets have the layout `persona`, the control set `plain`. tests/make_sets.py writes the
    behaviour sets from hand-written templates.
    """
    if name not in SETS:
        raise InputError(f"{name!r} is not a set that ships, expected one of {', '.join(SETS)}")
    # The package is installed as plain files, so the resource is a path.
    return Path(str(resources.files("edgesteer.learn.pas").joinpath("sets", f"{name}.jsonl")))


# -- rows ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """One object of a file, whose fields are checked as they are read.

    where: file and line. is_text: whether it is from a table, where each value is text and lists are JSON
        text.
    """

    where: str
    fields: dict[str, Any]
    is_text: bool = False

    def text(self, key: str) -> str:
        """A text that must not be missing, stripped."""
        return self.stripped(self.fields.get(key), f'"{key}"')

    def optional(self, key: str) -> str:
        """A text, or "" where it is missing or blank."""
        value = self.fields.get(key)
        return "" if value is None or value == "" or str(value).isspace() else self.text(key)

    def name(self, key: str) -> str | None:
        """A name, which may be written as a number; None where it is missing."""
        value = self.fields.get(key)
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return str(value) if is_number else self.optional(key) or None

    def number(self, key: str) -> int | None:
        """A whole number (in a table, its digits), or None for any other value; True is not a number."""
        value = self.fields.get(key)
        if self.is_text and isinstance(value, str):
            return int(value) if re.fullmatch("[0-9]{1,9}", value.strip()) else None
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def json(self, key: str) -> Any:
        """A list or an object; in a table, parsed from the cell."""
        value = self.fields.get(key)
        if not self.is_text or not isinstance(value, str):
            return value
        return json_value(value, f'{self.where}: "{key}"', "expected JSON in the cell")

    def texts(self, key: str) -> list[str]:
        """A list of texts, each stripped."""
        values = self.json(key)
        if not isinstance(values, list):
            raise self.error(f'"{key}" is {short(values)}, expected a list of texts')
        return [self.stripped(value, f'text {number} of "{key}"') for number, value in enumerate(values, 1)]

    def stripped(self, value: Any, name: str) -> str:
        """The text without surrounding white space; refused if it is not text that a model can read."""
        if not isinstance(value, str) or not value.strip():
            raise self.error(f"{name} is {short(value)}, expected text")
        if "\0" in value or len(value) > LONGEST:
            fault = "holds a NUL character" if "\0" in value else f"has {len(value)} characters"
            raise self.error(f"{name} {fault}, expected text of at most {LONGEST} characters")
        return value.strip()

    def error(self, message: str) -> InputError:
        """The error to raise; its message begins with the row's place."""
        return InputError(f"{self.where}: {message}")


def _read_rows(path: str | os.PathLike[str]) -> list[Row]:
    where, kind = os.fspath(path), Path(path).suffix.lower()
    if kind not in (".jsonl", ".json", *_SEPARATORS):
        raise InputError(f"{where}: the name ends in {kind or 'nothing'!r}; {_EXPECTED}")
    lines = read_lines(path, _EXPECTED)
    if kind in _SEPARATORS:
        rows = list(_table(lines, where, _SEPARATORS[kind]))
    elif next((line for line in lines if line.strip()), "").lstrip().startswith("["):
        values = json_value(
            "\n".join(lines), where, "expected one array of JSON objects, or one object a line"
        )
        rows = [_object(value, f"{where}: item {n}") for n, value in enumerate(values, 1)]
    else:
        rows = [_line(line, f"{where}:{n}") for n, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise InputError(f"{where}: no items; {_EXPECTED}")
    return rows


def _line(text: str, where: str) -> Row:
    return _object(json_value(text, where, "expected one JSON object a line, or one array of them"), where)


def _object(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise InputError(f"{where}: {short(value)}, expected a JSON object")
    return Row(where, value)


def _table(lines: list[str], where: str, separator: str) -> Iterator[Row]:
    header: list[str] = []
    for line, cells in _records(lines, where, separator):
        if not header:
            header = _header(cells, f"{where}:{line}")
        elif len(cells) != len(header):
            raise InputError(
                f"{where}:{line}: {len(cells)} cells, expected {len(header)} as in the header row"
            )
        else:
            yield Row(f"{where}:{line}", _fields(dict(zip(header, cells, strict=True))), is_text=True)


def _records(lines: list[str], where: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of each record. A quoted cell may run over several lines; empty lines are skipped."""
    reader = csv.reader((line + "\n" for line in lines), delimiter=separator, strict=True)
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(f"{where}:{start}: not a table ({error}); {_EXPECTED}") from None
        if any(cell.strip() for cell in cells):
            yield start, cells


def _header(cells: list[str], where: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    named = collections.Counter(filter(None, names))
    if twice := [name for name, times in named.items() if times > 1]:
        raise InputError(f"{where}: two columns are named {short(twice[0])}, expected a header row")
    return names


def _fields(cells: dict[str, str]) -> dict[str, Any]:
    """The cells, with the columns A, B, ... or choice_0, choice_1, ... gathered as "choices".

    An item with fewer choices leaves the last columns empty.
    """
    columns = _series(cells, string.ascii_uppercase) or _series(cells, [f"choice_{n}" for n in range(27)])
    if not columns or "choices" in cells:
        return cells
    choices = [cells[column] for column in columns]
    while choices and not choices[-1].strip():
        choices.pop()
    return {key: value for key, value in cells.items() if key not in columns} | {"choices": choices}


def _series(cells: dict[str, str], names: str | list[str]) -> list[str]:
    columns = list(itertools.takewhile(cells.__contains__, names))
    return columns if len(columns) > 1 else []


# -- layouts ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Layout:
    """A layout of files. keys: sets of required keys, of which a row has one; `a|b` stands for either.

    read: makes the items of a row.
    """

    keys: tuple[tuple[str, ...], ...]
    read: Callable[[Row], list[Item]]

    def fits(self, names: Collection[str]) -> bool:
        """Whether a row with these keys can be read."""
        return any(all(any(one in names for one in key.split("|")) for key in keys) for keys in self.keys)


def _unfit(row: Row, first: Row, layout: Layout, format: str) -> str:
    expected = " or ".join(", ".join(keys).replace("|", "/") for keys in layout.keys)
    message = f"the keys are {_keys(row)}; expected {expected} (format {format})"
    if row is not first:
        return f"{message}, which the first item has; a file has one layout"
    if others := [name for name, other in _LAYOUTS.items() if other.fits(row.fields)]:
        return f"{message}; they fit --format {' or '.join(others)}"
    if row.is_text:
        return f"{message} in the header row, separated by commas (.csv) or tabs (.tsv)"
    return f"{message}; rename the keys, or give --format with one of {', '.join(FORMATS)}"


def _keys(row: Row) -> str:
    shown = [key if len(key) <= 24 else key[:21] + "..." for key in map(repr, row.fields)]
    return (", ".join(shown[:7]) or "none") + (f" and {len(shown) - 7} more" if len(shown) > 7 else "")


def _item(
    row: Row, question: str, choices: Iterable[str], answer: int, context: str = "", group: str | None = None
) -> Item:
    """An item from a row; letters in front of its choices are removed."""
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
    """The choices without "(A) ", "A. ", "A) " or "A: " in front, if each begins with its letter."""
    marks = [
        re.match(rf"(?:\({letter}\)\s*|{letter}[.):]\s+)(?=\S)", choice)
        for letter, choice in zip(LETTERS, choices, strict=False)
    ]
    if len(marks) < len(choices) or not all(marks):
        return choices
    return [choice[mark.end() :] for mark, choice in zip(marks, choices, strict=True) if mark]


def _answer(row: Row, key: str, choices: list[str]) -> int:
    """The index of the target, which the row names by text, letter or index.

    A name that fits two choices is refused: a wrong target would go unnoticed.
    """
    value, number = row.fields.get(key), row.number(key)
    named = set() if number is None else {number}
    if isinstance(value, str):
        text = row.text(key)
        pairs = enumerate(zip(choices, without_letters(choices), strict=True))
        named |= {index for index, spellings in pairs if text in spellings}
        named |= {index for index in [_letter_index(text)] if index is not None}
    valid = sorted(index for index in named if 0 <= index < len(choices))
    if len(valid) == 1:
        return valid[0]
    expected = f"expected an index from 0 to {len(choices) - 1} or the text of a choice"
    if valid:
        raise row.error(
            f'"{key}" {short(value)} may be choice {" and ".join(map(str, valid))}; {expected} that is not '
            "another one's letter or index"
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
    matching, others = (
        _answers(row, "answer_matching_behavior"),
        _answers(row, "answer_not_matching_behavior"),
    )
    question = row.text("question")
    if _letter_index(matching[0]) is not None:
        return [_embedded(row, question, matching, others)]
    if len(matching) > 1:
        raise row.error(f'"answer_matching_behavior" is {short(matching)}, expected one answer')
    return [_item(row, question, [*matching, *others], 0, group=row.name("group"))]


def _answers(row: Row, key: str) -> list[str]:
    """One answer or several."""
    value = row.fields.get(key)
    is_list = isinstance(value, list) or (row.is_text and str(value).lstrip().startswith("["))
    answers = row.texts(key) if is_list else [row.text(key)]
    if not answers:
        raise row.error(f'"{key}" is empty, expected an answer')
    return answers


def _embedded(row: Row, text: str, matching: list[str], others: list[str]) -> Item:
    """An item whose choices are part of the question.

    Of several matching answers the first is the target and the others are left out, so that only one choice
    is right.
    """
    question, choices = _take_choices(row, text)
    named = [_letter_index(answer) for answer in [*matching, *others]]
    if any(index is None or index >= len(choices) for index in named) or len(set(named)) < len(named):
        raise row.error(
            f"the answers are {short([*matching, *others])}, expected letters of the {len(choices)} choices"
        )
    spare = set(named[1 : len(matching)])
    kept = [choice for index, choice in enumerate(choices) if index not in spare]
    return _item(row, question, kept, kept.index(choices[named[0] or 0]), group=row.name("group"))


def _sycophancy(row: Row) -> list[Item]:
    matching, others = (
        _answers(row, "answer_matching_behavior"),
        _answers(row, "answer_not_matching_behavior"),
    )
    item = _embedded(row, row.text("question"), matching, others)
    last = re.split(r"(?<=[.!?])\s+", item.question)[-1]  # the question itself, after the biography
    return [replace(item, group=" / ".join([last, *sorted(item.choices)]))]


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
    letter = _letter_index(str(row.fields.get(key)))
    answer = letter if letter is not None and letter < len(options) else _answer(row, key, options)
    return _item(row, row.text("question"), options, answer, passage, passage or None)


# -- choices inside a question ------------------------------------------------------------------------

_MARK = re.compile(r"^[ \t]*\(([A-Z])\)", re.MULTILINE)
# Text that leads up to the reply is removed: the prompt has its own ending.
_LEAD = re.compile(r"\s*(?:Answer:|Assistant:|I believe the (?:best|better) (?:answer|option|choice) is\b).*")
_HEADING = re.compile(r"\b(?:Choices|Options):\Z", re.IGNORECASE)


def _letter_index(answer: str) -> int | None:
    """The index of the choice that "(B)", "B" or "B." names, or None for any other text."""
    named = re.fullmatch(r"\s*\(?([A-Z])[).:]?\s*", answer)
    return LETTERS.index(named[1]) if named else None


def _take_choices(row: Row, text: str) -> tuple[str, list[str]]:
    """(question, choices): the last run of "(A) ...", "(B) ..." lines, and the text without it."""
    text = _without_lead(text)
    marks = list(_MARK.finditer(text))
    first = max((n for n, mark in enumerate(marks) if mark[1] == "A"), default=len(marks))
    run = marks[first:]
    if len(run) < 2 or "".join(mark[1] for mark in run) != LETTERS[: len(run)]:
        present = short([f"({mark[1]})" for mark in marks])
        raise row.error(f'"question" has the choices {present}, expected lines that begin with (A), (B), ...')
    ends = [mark.start() for mark in run[1:]] + [len(text)]
    choices = [
        row.stripped(text[mark.end() : end], f"choice ({mark[1]})")
        for mark, end in zip(run, ends, strict=True)
    ]
    if "\n\n" in choices[-1]:
        rest = choices[-1].split("\n\n", 1)[1]
        raise row.error(f"{short(rest)} follows the choices, expected nothing")
    question = _HEADING.sub("", text[: run[0].start()].rstrip())
    return row.stripped(question, "the question before its choices"), choices


def _without_lead(text: str) -> str:
    # Line by line: one pattern for all of it would take minutes over many empty lines.
    lines = text.rstrip().split("\n")
    while len(lines) > 1 and (not lines[-1].strip() or _LEAD.fullmatch(lines[-1])):
        lines.pop()
    return "\n".join(lines)


_LAYOUTS = {
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

FORMATS = tuple(_LAYOUTS)
