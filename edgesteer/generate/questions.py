"""Questions: the built-in ones for training, strengths and judges, or those of a file.

A file is text with one question per line, or JSON (one value a line, or one array) of questions or of
objects with "question" and optionally "reply": a reply that shows the trait, used instead of a sampled one,
or with "sign" -1 one that shows the opposite. Such a file may also hold the measures that `write_replies`
adds.
"""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from edgesteer.errors import EdgesteerWarning, InputError
from edgesteer.generate.text_file import MAX_BAD_ROWS, json_rows, read_lines, read_rows, short, sound

_KEYS = ("question", "reply", "sign", "trait", "coherence")
_EXPECTED = "expected a UTF-8 text file with one question a line"


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and optionally a written reply, which shows the trait or its opposite (sign -1)."""

    text: str
    reply: str | None = None
    sign: int = 1


def training_questions(n: int | None = None) -> list[str]:
    """The first `n` built-in training questions, or all of them: facts, advice, opinions, stories, maths,
    code, small talk, plans, and remarks and follow-ups such as "Are you sure about that?".

    Their order is random, so that any number of them is varied. None of them is among the questions that
    strengths are chosen on, judges are trained on, or reports ask.
    """
    return _shipped("questions.txt")[:n]


def strength_questions() -> list[str]:
    """Sixty questions to choose strengths on, as varied as the training questions."""
    return _shipped("questions_strength.txt")


def judge_questions() -> list[str]:
    """The questions that a trait judge is trained on, ordered by kind."""
    return _shipped("questions_judge.txt")


def _shipped(name: str) -> list[str]:
    text = resources.files("edgesteer.generate").joinpath(name).read_text("utf-8")
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_questions(path: str | os.PathLike[str]) -> list[Question]:
    """The questions of a file, in order; repeated ones are dropped with an EdgesteerWarning.

    So are bad lines, if they are at most a tenth of all. Raises InputError, which names file and line.
    """
    where, kind = os.fspath(path), Path(path).suffix.lower()
    if kind in (".csv", ".tsv"):
        raise InputError(f"{where}: a table; {_EXPECTED}, such as its column of questions")
    lines = read_lines(path, _EXPECTED, MAX_BAD_ROWS)
    first = next((line for line in lines if line.strip()), "")
    is_json = kind in (".jsonl", ".json") or re.match(r"\s*[\[{]\s*([\"{]|$)", first)
    texts = ((line, f"{where}:{number}") for number, line in enumerate(lines, 1) if line.strip())
    rows = json_rows(lines, where) if is_json else list(texts)
    if not rows:
        raise InputError(f"{where}: no questions, expected one a line")
    return _once(read_rows(rows, _question, where, MAX_BAD_ROWS)[0], where)


def _once(questions: list[Question], where: str) -> list[Question]:
    first = {(q.text.casefold(), q.reply, q.sign): q for q in reversed(questions)}
    kept = [q for q in questions if first[q.text.casefold(), q.reply, q.sign] is q]
    if dropped := len(questions) - len(kept):
        lines = "line that repeats" if dropped == 1 else "lines that repeat"
        warnings.warn(f"{where}: dropped {dropped} {lines} another one", EdgesteerWarning, stacklevel=3)
    return kept


def _question(row: tuple[Any, str]) -> Question:
    value, where = row
    if isinstance(value, InputError):
        raise value
    if isinstance(value, str):
        value = {"question": value}
    if not isinstance(value, dict):
        raise InputError(f'{where}: expected an object with "question" and optionally "reply"')
    if unknown := value.keys() - set(_KEYS):
        raise InputError(f"{where}: the key {short(min(unknown))}; expected only {', '.join(_KEYS)}")
    question = _text(value, "question", where)
    if question is None:
        raise InputError(f'{where}: no "question", expected text')
    return Question(question.strip(), _text(value, "reply", where), _sign(value, where))


def _text(item: dict[str, Any], key: str, where: str) -> str | None:
    value = item.get(key)
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise InputError(f'{where}: "{key}" is {short(value)}, expected text')
    return None if value is None else sound(value, f'{where}: "{key}"')


def _sign(item: dict[str, Any], where: str) -> int:
    value = item.get("sign", 1)
    if isinstance(value, bool) or value not in (1, -1):
        raise InputError(f'{where}: "sign" is {short(value)}, expected 1 (the trait) or -1 (its opposite)')
    if value == -1 and item.get("reply") is None:
        raise InputError(f'{where}: "sign" -1 without a "reply", expected the opposite\'s reply')
    return int(value)
