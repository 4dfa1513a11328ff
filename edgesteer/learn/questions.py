"""Training questions: the built-in ones, or a person's file.

A file is text with one question a line, or JSON Lines (`.jsonl`, `.json`) of objects with "question" and
optionally "reply": a reply that has the trait, used in place of a sampled one.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from edgesteer.errors import LearnError


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and how a reply with the trait reads if somebody wrote one."""

    text: str
    reply: str | None = None


def built_in() -> list[Question]:
    """The project's own questions: facts, advice, how-to, opinion, stories, maths, code, small talk, definitions,
    plans."""
    text = resources.files("edgesteer.learn").joinpath("questions.txt").read_text("utf-8")
    return [Question(line.strip()) for line in text.splitlines() if line.strip()]


def read_questions(path: str | os.PathLike[str]) -> list[Question]:
    """The questions of a file, in its order. Raises LearnError naming file and line."""
    where = os.fspath(path)
    try:
        lines = Path(path).read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise LearnError(f"{where}: {reason}; expected a text file with one question a line") from None
    json_lines = Path(path).suffix in (".jsonl", ".json")
    found = [
        _from_json(line, f"{where}:{number}") if json_lines else Question(line.strip())
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not found:
        raise LearnError(f"{where}: no questions, expected one a line")
    return found


def _from_json(line: str, where: str) -> Question:
    try:
        item: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise LearnError(f"{where}: not JSON ({error.msg}), expected one JSON object a line") from None
    if not isinstance(item, dict) or not item.keys() <= {"question", "reply"}:
        raise LearnError(f'{where}: expected an object with "question" and optionally "reply"')
    question, reply = item.get("question"), item.get("reply")
    if not isinstance(question, str) or not question.strip():
        raise LearnError(f'{where}: "question" is {question!r}, expected text')
    if reply is not None and (not isinstance(reply, str) or not reply.strip()):
        raise LearnError(f'{where}: "reply" is {reply!r}, expected text or nothing')
    return Question(question.strip(), reply)
