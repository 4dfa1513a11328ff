"""A suite: the questions that ways to ask are compared on, and what is counted in the replies.

In:  the path of a JSON suite, of a text or JSON Lines file of questions, or the name of a suite that ships.
Out: a Suite. Every error in a file is an InputError of one line.

    {"trait": "You are a pirate.", "questions": ["Why is the sky blue?"], "counts": ["pirate"],
     "sentiment": true, "max_tokens": 64, "strengths": [0.5, 1, 1.5]}

Only `questions` is required. The bundle or the command decides what the suite leaves open (None).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from edgesteer.errors import InputError
from edgesteer.evaluate import text_measures
from edgesteer.generate import read_questions
from edgesteer.generate.text_file import json_value, read_lines, short

Item = TypeVar("Item")

SUITES = {"pirate": "24 questions that no bundle of ours was learnt from, and the pirate's words"}

MOST_TOKENS, MOST_STRENGTHS = 4096, 16
_TEXT_FILE = 'expected a JSON object with "questions", or a file with one question a line'


@dataclass(frozen=True, slots=True)
class Suite:
    """The values of a suite file; trait, max_tokens and strengths are None if it does not say.

    name: the file's, without its extension. strengths: those at which each bundle's curve is measured.
    """

    name: str
    questions: tuple[str, ...]
    trait: str | None = None
    counts: tuple[str, ...] = ()
    sentiment: bool = False
    max_tokens: int | None = None
    strengths: tuple[float, ...] | None = None


def read_suite(source: str | os.PathLike[str]) -> Suite:
    """The suite in a file, or if there is no such file the shipped suite of that name. Raises InputError."""
    where, path = os.fspath(source), _path(source)
    if path.suffix.lower() != ".json":
        return _of_questions(path, where)
    lines = read_lines(path, _TEXT_FILE)
    if _is_question(lines):
        return _of_questions(path, where)
    return _of_json("\n".join(lines), path.stem, where)


def _path(source: str | os.PathLike[str]) -> Path:
    """The path of a suite; a bare name without an extension is that of a shipped suite."""
    path = Path(source)
    if path.is_file() or path.suffix or len(path.parts) != 1:
        return path
    if path.name not in SUITES:
        raise InputError(
            f"{path}: no file, and no suite that ships; expected a file or one of {', '.join(SUITES)}"
        )
    # The package is installed as plain files, so the resource is a path.
    return Path(str(resources.files("edgesteer.evaluate").joinpath("suites", f"{path.name}.json")))


def _is_question(lines: list[str]) -> bool:
    """Whether the first line that is not blank is a JSON Lines question: such files may end in .json too."""
    first = next((line for line in lines if line.strip()), "")
    try:
        value = json_value(first, "", "")
    except InputError:
        return False
    return isinstance(value, dict) and "question" in value


def _of_questions(path: Path, where: str) -> Suite:
    return Suite(
        path.stem, _once([q.text for q in read_questions(path)], f"{where}: questions", str.casefold)
    )


def _of_json(text: str, name: str, where: str) -> Suite:
    value = json_value(text, where, "expected a suite, a JSON object")
    if not isinstance(value, dict):
        raise InputError(f'{where}: {short(value)}, expected a suite, a JSON object with "questions"')
    if unknown := [key for key in value if key not in _READERS]:
        raise InputError(f"{where}: unknown key {short(unknown[0])}, expected {', '.join(_READERS)}")
    if "questions" not in value:
        raise InputError(f'{where}: no "questions", expected a list with at least one')
    values = {key: _READERS[key](item, f'{where}: "{key}"') for key, item in value.items()}
    return Suite(name, **values)


# Each reads one key's value; `where` names the file and the key.


def _read_text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _wrong(value, where, "text")
    return value.strip()


def _read_texts(value: Any, where: str) -> list[str]:
    if not isinstance(value, list):
        raise _wrong(value, where, "a list of texts")
    return [_read_text(item, f"{where}, item {i}") for i, item in enumerate(value, 1)]


def _read_questions(value: Any, where: str) -> tuple[str, ...]:
    texts = _read_texts(value, where)
    if not texts:
        raise InputError(f"{where}: empty, expected at least one question")
    return _once(texts, where, str.casefold)


def _read_counts(value: Any, where: str) -> tuple[str, ...]:
    texts = _read_texts(value, where)
    for text in texts:
        try:
            text_measures.expression(text)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    return _once(texts, where, str)


def _read_flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(value, where, "true or false")
    return value


def _read_max_tokens(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_TOKENS:
        raise _wrong(value, where, f"a whole number from 1 to {MOST_TOKENS}")
    return value


def _read_strengths(value: Any, where: str) -> tuple[float, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MOST_STRENGTHS:
        raise _wrong(value, where, f"a list of 1 to {MOST_STRENGTHS} numbers")
    for i, item in enumerate(value, 1):
        if isinstance(item, bool) or not isinstance(item, (int, float)) or not _is_finite(item):
            raise _wrong(item, f"{where}, item {i}", "a finite number")
    return tuple(sorted(_once([float(item) for item in value], where, float)))


_READERS: dict[str, Callable[[Any, str], Any]] = {
    "trait": _read_text,
    "questions": _read_questions,
    "counts": _read_counts,
    "sentiment": _read_flag,
    "max_tokens": _read_max_tokens,
    "strengths": _read_strengths,
}


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


def _once(items: list[Item], where: str, alike: Callable[[Item], object]) -> tuple[Item, ...]:
    """The items as a tuple; refuses repeated ones. alike: the key by which items are compared."""
    first: dict[object, int] = {}
    for i, item in enumerate(items, 1):
        if (before := first.setdefault(alike(item), i)) != i:
            raise InputError(f"{where}: item {i} repeats item {before}, expected each once")
    return tuple(items)


def _wrong(value: Any, where: str, expected: str) -> InputError:
    return InputError(f"{where}: {short(value)}, expected {expected}")
