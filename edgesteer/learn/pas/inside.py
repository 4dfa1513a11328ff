"""Choices that stand inside a question, as model-written evaluations have them.

In:  a text such as "Shall we?\n\nChoices:\n (A) Yes\n (B) No\n\nAnswer:". Out: the question and the choices' texts,
so that they can be shown in another order. Pure.
"""

from __future__ import annotations

import re

from edgesteer.learn.pas.items import LETTERS
from edgesteer.learn.pas.table import Row
from edgesteer.generate.text_file import short

_MARK = re.compile(r"^[ \t]*\(([A-Z])\)", re.MULTILINE)
# What leads up to the reply is the prompt's business: the room that builds prompts ends them in its own way.
_LEAD = re.compile(r"\s*(?:Answer:|Assistant:|I believe the (?:best|better) (?:answer|option|choice) is\b).*")
_HEADING = re.compile(r"\b(?:Choices|Options):\Z", re.IGNORECASE)


def letter_of(answer: str) -> int | None:
    """Index of the choice that "(B)", "B" or "B." names, or None for any other text."""
    named = re.fullmatch(r"\s*\(?([A-Z])[).:]?\s*", answer)
    return LETTERS.index(named[1]) if named else None


def choices_inside(row: Row, text: str) -> tuple[str, list[str]]:
    """(question, choices): the last run of "(A) ...", "(B) ..." lines, taken out of the text around it."""
    text = _without_lead(text)
    marks = list(_MARK.finditer(text))
    first = max((n for n, mark in enumerate(marks) if mark[1] == "A"), default=len(marks))
    run = marks[first:]
    if len(run) < 2 or "".join(mark[1] for mark in run) != LETTERS[: len(run)]:
        found = [f"({mark[1]})" for mark in marks]
        raise row.error(
            f'"question" has the choices {short(found)}, expected lines that begin with (A), (B), ...'
        )
    ends = [mark.start() for mark in run[1:]] + [len(text)]
    choices = [
        row.stripped(text[mark.end() : end], f"choice ({mark[1]})")
        for mark, end in zip(run, ends, strict=True)
    ]
    if "\n\n" in choices[-1]:
        raise row.error(
            f"after the choices stands {short(choices[-1].split(chr(10) * 2, 1)[1])}, expected nothing"
        )
    question = _HEADING.sub("", text[: run[0].start()].rstrip())
    return row.stripped(question, "the question before its choices"), choices


def _without_lead(text: str) -> str:
    # Line by line, not with one pattern: that would take minutes over many empty lines.
    lines = text.rstrip().split("\n")
    while len(lines) > 1 and (not lines[-1].strip() or _LEAD.fullmatch(lines[-1])):
        lines.pop()
    return "\n".join(lines)
