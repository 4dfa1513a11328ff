"""What a person or a pipe says to a chat, line by line, and Ctrl-C while the model answers.

In:  standard input. Out: whole inputs, a backslash at a line's end having joined it to the next.
Knows terminals and signals; knows nothing of what the inputs mean.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import click

MAX_LINE = 2**20
PROMPT, MORE = "> ", ". "

Complain = Callable[[str], None]


def is_terminal(stream: Any) -> bool:
    """Whether a person is at the stream; a closed one, which Python makes None, has nobody."""
    return stream is not None and stream.isatty()


def inputs(lines: Callable[[str], str | None]) -> Iterator[str]:
    """Whole inputs from `lines(prompt)`, which gives one line without its end, and None at the end."""
    said: list[str] = []
    while (line := lines(MORE if said else PROMPT)) is not None:
        if line.endswith("\\"):
            said.append(line[:-1])
            continue
        text = "\n".join([*said, line])
        said = []
        if text.strip():
            yield text
    if text := "\n".join(said).strip():
        yield text


def piped(stream: BinaryIO, complain: Complain) -> Callable[[str], str | None]:
    """Lines of a pipe or a file; one that is no UTF-8 or endless is left out, with a complaint."""

    def line(_prompt: str) -> str | None:
        while raw := stream.readline(MAX_LINE + 1):
            if len(raw) > MAX_LINE and not raw.endswith(b"\n"):
                _skip_line(stream)
                complain(f"a line of more than {MAX_LINE} bytes; expected a message; it was left out")
                continue
            try:
                return raw.decode("utf-8").removeprefix("\ufeff").rstrip("\r\n")
            except UnicodeDecodeError as error:
                complain(f"a line that is no UTF-8 ({error.reason} at byte {error.start}); it was left out")
        return None

    return line


def _skip_line(stream: BinaryIO) -> None:
    while (rest := stream.readline(MAX_LINE)) and not rest.endswith(b"\n"):
        pass


def typed(complain: Complain) -> Callable[[str], str | None]:
    """Lines from a terminal, edited with readline where Python has it. KeyboardInterrupt passes through."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - its import is what makes input() edit lines

    def line(prompt: str) -> str | None:
        while True:
            try:
                text = _ask(prompt)
                text.encode()  # bytes that are no UTF-8 arrive as lone surrogates, or not at all
                return text
            except EOFError:
                return None
            except UnicodeError:
                complain("a line that is no UTF-8; it was left out")

    return line


def half_typed() -> bool:
    """Whether the line that Ctrl-C cut off held something, as far as readline tells."""
    readline = sys.modules.get("readline")
    return bool(readline and readline.get_line_buffer())


def _ask(prompt: str) -> str:
    if is_terminal(sys.stdout):
        return input(prompt)
    click.echo(prompt, nl=False, err=True)  # standard output goes elsewhere and holds replies alone
    text = sys.stdin.readline()
    if not text:
        raise EOFError
    return text.rstrip("\n")


class Stop:
    """What Ctrl-C does while a reply streams: it asks for the end, which comes with the next token.

    Python may run a signal's handler between any two steps, so that an exception from there could leave
    a decode half noted. While `urgent` it is raised all the same: before the first token, which may be long
    in coming, and at the second press. The runtime is made for that.
    """

    def __init__(self) -> None:
        self.asked = False
        self.urgent = False
        self.flowing = False

    def __call__(self, *_: object) -> None:
        again, self.asked = self.asked, True
        if self.urgent and (again or not self.flowing):
            self.urgent = False
            raise KeyboardInterrupt


@contextlib.contextmanager
def stop_on_ctrl_c() -> Iterator[Stop]:
    """A Stop that gets Ctrl-C instead of the program, for the length of a `with`."""
    stop = Stop()
    before = signal.getsignal(signal.SIGINT)
    # A handler may be set in the main thread alone; under nohup and its like Ctrl-C stays ignored.
    if threading.current_thread() is not threading.main_thread() or before in (signal.SIG_IGN, None):
        yield stop
        return
    signal.signal(signal.SIGINT, stop)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
