"""Where a chat's words go: replies to stdout, all else to stderr, nothing that would drive the terminal.

In:  pieces of replies, notes, failures, steering maps. Out: text or lines of JSON; a count of failures.
Knows streams and their encodings; knows nothing of models.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import unicodedata

import click

from edgesteer.cli.chat_input import is_terminal
from edgesteer.cli.conversation import Exchange
from edgesteer.report.cells import visible
from edgesteer.steering_map import SteeringMap


class OutputLostError(Exception):
    """Standard output takes no more; its argument is the OSError."""


class Screen:
    """Where a chat's words go: replies to stdout, the rest to stderr. Counts what failed."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.failures = 0
        self._replies = 0
        self._dialogue = is_terminal(sys.stdin) and is_terminal(sys.stdout)  # prompts part the replies
        self._utf8 = "utf" in (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
        if not self._utf8 and hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="backslashreplace")  # rather than a traceback at the first "é"
        # A model may say an escape sequence: a file gets it as it is, a terminal must not obey it.
        self._seen = _tamed if is_terminal(sys.stdout) else str

    def begin(self) -> None:
        """Before a reply's first piece."""
        if self._replies and not self._dialogue and not self.as_json:
            self._write("\n")
        self._replies += 1

    def piece(self, text: str) -> None:
        if not self.as_json:
            self._write(self._seen(text))

    def end(self) -> None:
        if not self.as_json:
            self._write("\n")

    def reply(self, exchange: Exchange) -> None:
        """The whole reply as one line of JSON, where that was asked for."""
        if self.as_json and exchange.facts:
            told = {"reply": exchange.reply, **exchange.facts.to_json()}
            self._write(json.dumps(told, ensure_ascii=not self._utf8, allow_nan=False) + "\n")

    def note(self, text: str) -> None:
        click.echo(f"[{visible(text)}]", err=True)

    def fail(self, text: str) -> None:
        self.failures += 1
        click.echo(f"edgesteer: error: {visible(' '.join(text.split()))}", err=True)

    def show_map(self, steering_map: SteeringMap) -> None:
        from edgesteer.report.terminal import show

        if sys.stderr is not None:
            with contextlib.redirect_stdout(sys.stderr):
                show(steering_map)

    def _write(self, text: str) -> None:
        try:
            click.echo(text, nl=False)
        except OSError as error:
            _discard_stdout()
            raise OutputLostError(error) from error


def _tamed(text: str) -> str:
    return "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else visible(c) for c in text)


def _discard_stdout() -> None:
    """What is still buffered goes nowhere: else the interpreter's end would complain about it again."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
