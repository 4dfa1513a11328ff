"""What may be typed in a chat: messages, and commands that begin with a slash. Pure text in, values out."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass

from edgesteer.errors import EdgesteerError
from edgesteer.report.cells import visible

USAGE = {
    "steer": ("/steer FILE [STRENGTH]", "add a bundle, or replace it; alone: show the steering"),
    "strength": ("/strength X", "set every bundle to strength X; 0 is off, and they are remembered"),
    "off": ("/off", "clear the steering; the history stays"),
    "map": ("/map", "show where steering acted on the last reply"),
    "save": ("/save FILE", "write the conversation as JSON; /save! FILE overwrites"),
    "reset": ("/reset", "forget the history; the steering stays"),
    "help": ("/help", "show this"),
    "quit": ("/quit", "leave, as Ctrl-D does"),
}
HELP = "\n".join(
    [
        *(f"  {usage:<24}{meaning}" for usage, meaning in USAGE.values()),
        "  //...                   a message that begins with a slash",
        "  ...\\                    a backslash at the end of a line: the message goes on in the next",
        "  Ctrl-C                  stop the reply; at the prompt, twice: leave",
    ]
)
_WITHOUT_ARGUMENT = frozenset({"off", "map", "reset", "help", "quit"})
_WITH_ARGUMENT = frozenset({"strength", "save", "save!"})


class CommandError(EdgesteerError):
    """A command that is not known, or not typed as it must be."""


@dataclass(frozen=True, slots=True)
class Command:
    name: str
    argument: str


def parse(text: str) -> Command | str:
    """A command, or the message: `//x` is the message `/x`. Raises CommandError."""
    if not text.startswith("/"):
        return text
    if text.startswith("//"):
        return text[1:]
    name = "" if text[1:2].isspace() else (text[1:].split(maxsplit=1) or [""])[0]
    argument = text[1 + len(name) :].strip()
    if name not in USAGE and name != "save!":
        known = " ".join(f"/{known}" for known in USAGE)
        raise CommandError(
            f"/{short(name)}: no such command; there are {known}, and // for a message with a slash"
        )
    if bool(argument) and name in _WITHOUT_ARGUMENT:
        raise CommandError(
            f"/{name}: found {short(argument)!r} behind it, expected nothing; type /{name} alone"
        )
    if not argument and name in _WITH_ARGUMENT:
        usage = USAGE[name.rstrip("!")][0].replace("/save", f"/{name}")
        raise CommandError(f"/{name}: found nothing behind it, expected {usage}")
    return Command(name, argument)


def parse_strength(text: str) -> float:
    """A finite number. Raises CommandError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise CommandError(f"strength is {short(text)!r}, expected a finite number, such as 1.2")
    return value


def parse_steer(text: str, exists: Callable[[str], bool] = os.path.exists) -> tuple[str, float | None]:
    """`FILE`, `FILE STRENGTH` or `FILE:STRENGTH` -> (file, strength or None); spaces belong to the file.

    A file that has the whole text as its name wins. Quotes around the name are taken off, `~` is the home
    folder. Raises CommandError for a strength that is not finite.
    """
    if exists(path_of(text)):
        return path_of(text), None
    for head, tail in (_split(text, None), _split(text, ":")):
        if head and _is_number(tail):
            return path_of(head), parse_strength(tail)
    return path_of(text), None


def _split(text: str, separator: str | None) -> tuple[str, str]:
    """Head and tail at the last separator (None: white space); no head where there is none."""
    parts = text.rsplit(separator, maxsplit=1)
    return (parts[0], parts[1]) if len(parts) == 2 else ("", text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def path_of(text: str) -> str:
    """A file name as typed: quotes around it off, `~` expanded."""
    quoted = len(text) > 2 and text[0] == text[-1] and text[0] in "'\""
    return os.path.expanduser(text[1:-1] if quoted else text)


def short(text: str) -> str:
    """What was typed, as it may stand in a message: no control character reaches the terminal."""
    seen = visible(text[:41])
    return seen if len(text) <= 40 else f"{visible(text[:40])}..."
