"""The rows of a file of items, whatever its kind.

In:  a path: JSON Lines or one JSON array of objects (`.jsonl`, `.json`), or a table with a header row (`.csv`,
`.tsv`). Out: Rows, which know where they stand and hand out their fields checked. What a field means is the
layouts' business.
"""

from __future__ import annotations

import collections
import csv
import itertools
import os
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesteer.errors import LearnError
from edgesteer.generate.text_file import json_value, read_lines, short

_EXPECTED = "expected a UTF-8 .jsonl, .json, .csv or .tsv file of multiple-choice items"
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
# No context is longer, and csv's own limit is near: beyond it something else than items was handed over.
LONGEST = 100_000


@dataclass(frozen=True, slots=True)
class Row:
    """One object of a file. is_text: from a table, where each value is text (a list stands there as JSON)."""

    where: str
    fields: dict[str, Any]
    is_text: bool = False

    def text(self, key: str) -> str:
        """A text that must be there, stripped."""
        return self.stripped(self.fields.get(key), f'"{key}"')

    def optional(self, key: str) -> str:
        """A text, or "" where the key, its value or any character is missing."""
        value = self.fields.get(key)
        return "" if value is None or value == "" or str(value).isspace() else self.text(key)

    def name(self, key: str) -> str | None:
        """A name, which may be written as a number; None where there is none."""
        value = self.fields.get(key)
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return str(value) if is_number else self.optional(key) or None

    def number(self, key: str) -> int | None:
        """A whole number (in a table: its digits), or None for any other value. True is no number."""
        value = self.fields.get(key)
        if self.is_text and isinstance(value, str):
            return int(value) if re.fullmatch("[0-9]{1,9}", value.strip()) else None
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def json(self, key: str) -> Any:
        """A list or an object; from a table, what the cell's JSON says."""
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
        """value without the white space around it; refused where it is no text that a model could be shown."""
        if not isinstance(value, str) or not value.strip():
            raise self.error(f"{name} is {short(value)}, expected text")
        if "\0" in value or len(value) > LONGEST:
            found = "holds a NUL character" if "\0" in value else f"has {len(value)} characters"
            raise self.error(f"{name} {found}, expected text of at most {LONGEST} characters")
        return value.strip()

    def error(self, message: str) -> LearnError:
        """What is wrong with this row, with its place in front."""
        return LearnError(f"{self.where}: {message}")


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of a file, in its order. Raises LearnError naming file and line."""
    where, kind = os.fspath(path), Path(path).suffix.lower()
    if kind not in (".jsonl", ".json", *_SEPARATORS):
        raise LearnError(f"{where}: the name ends in {kind or 'nothing'!r}; {_EXPECTED}")
    lines = read_lines(path, _EXPECTED)
    if kind in _SEPARATORS:
        rows = list(_table(lines, where, _SEPARATORS[kind]))
    elif next((line for line in lines if line.strip()), "").lstrip().startswith("["):
        rows = _array("\n".join(lines), where)
    else:
        rows = [_row(line, f"{where}:{n}") for n, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise LearnError(f"{where}: no items; {_EXPECTED}")
    return rows


def _row(line: str, where: str) -> Row:
    return _from_json(json_value(line, where, "expected one JSON object a line, or one array of them"), where)


def _array(text: str, where: str) -> list[Row]:
    values = json_value(text, where, "expected one array of JSON objects, or one JSON object a line")
    return [_from_json(value, f"{where}: item {number}") for number, value in enumerate(values, 1)]


def _from_json(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise LearnError(f"{where}: {short(value)}, expected a JSON object")
    return Row(where, value)


def _table(lines: list[str], where: str, separator: str) -> Iterator[Row]:
    header: list[str] = []
    for line, cells in _records(lines, where, separator):
        if not header:
            header = _header(cells, f"{where}:{line}")
        elif len(cells) != len(header):
            raise LearnError(
                f"{where}:{line}: {len(cells)} cells, expected {len(header)} as in the header row"
            )
        else:
            yield Row(f"{where}:{line}", _fields(dict(zip(header, cells, strict=True))), is_text=True)


def _records(lines: list[str], where: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of each record; a quoted cell may run over several lines, an empty line is no record."""
    reader = csv.reader((line + "\n" for line in lines), delimiter=separator, strict=True)
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise LearnError(f"{where}:{start}: not a table ({error}); {_EXPECTED}") from None
        if any(cell.strip() for cell in cells):
            yield start, cells


def _header(cells: list[str], where: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    named = collections.Counter(filter(None, names))
    if twice := [name for name, times in named.items() if times > 1]:
        raise LearnError(f"{where}: two columns are named {short(twice[0])}, expected a header row")
    return names


def _fields(cells: dict[str, str]) -> dict[str, Any]:
    """Cells with the columns A, B, ... or choice_0, choice_1, ... gathered as "choices"; a shorter item leaves
    its last ones empty."""
    columns = _series(cells, string.ascii_uppercase) or _series(cells, [f"choice_{n}" for n in range(27)])
    if not columns or "choices" in cells:
        return cells
    choices = [cells[column] for column in columns]
    while choices and not choices[-1].strip():
        choices.pop()
    return {key: value for key, value in cells.items() if key not in columns} | {"choices": choices}


def _series(cells: dict[str, str], names: str | list[str]) -> list[str]:
    found = list(itertools.takewhile(cells.__contains__, names))
    return found if len(found) > 1 else []
