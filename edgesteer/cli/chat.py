"""`edgesteer chat`: a conversation of many turns, steered, with the dial at hand.

In:  messages and commands, from a terminal or a pipe. Out: replies on stdout, all else on stderr.

It owns the order of a turn: room is made in the context, the reply streams under a record, the history
grows only by what was said. A turn that fails leaves the history as it was, and the chat goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from edgesteer.cli.options import (
    STEER_KEYS,
    load_steering,
    model_argument,
    reply_options,
    sampling_options,
    scope_option,
)


@click.command()
@model_argument
@click.option("--system", help="A system message, to stand before the conversation.")
@click.option("--load", "load_from", metavar="FILE", help="Go on with a conversation that /save wrote.")
@sampling_options
@scope_option
@reply_options
def command(
    model: str,
    system: str | None,
    load_from: str | None,
    scope: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Chat with MODEL (a GGUF or a registry name), and turn the steering while you do.

    Commands begin with a slash, /help lists them: /steer FILE [STRENGTH], /strength X, /off, /map, /save FILE,
    /reset, /quit. Ctrl-C stops a reply. In a pipe every line is a message or a command, and stdout holds replies
    alone, a blank line between them; with --json each is an object on a line.

    \b
    Examples:
      edgesteer chat smollm2-135m-instruct --steer pirate
      printf 'Who are you?\\n/strength 0\\nWho are you?\\n' | edgesteer chat smollm2-135m-instruct --steer pirate
    """
    from edgesteer.cli.chat_input import is_terminal
    from edgesteer.cli.chat_screen import Screen
    from edgesteer.cli.chat_session import ChatSession
    from edgesteer.cli.chat_template import check_template
    from edgesteer.cli.dial import Dial
    from edgesteer.cli.opening import open_model

    steering = {key: options.pop(key) for key in STEER_KEYS}
    sampling = {k: options.pop(k) for k in ("max_tokens", "seed", "repeat_penalty")}
    sampling["temperature"] = options.pop("temp")
    conversation = _conversation(load_from, system)
    dial = Dial.of(load_steering(**steering))
    llm = open_model(model, **options)
    count = check_template(llm, conversation)
    session = ChatSession(llm, conversation, count, scope, sampling, Screen(as_json))
    session.turn_to(dial)
    interactive = is_terminal(sys.stdin)
    _converse(session, interactive)
    if session.screen.failures and not interactive:
        raise click.exceptions.Exit(1)


def _conversation(load_from: str | None, system: str | None) -> Any:
    from edgesteer.cli.conversation import Conversation, ConversationError, load_conversation

    if load_from is None:
        return Conversation(system or None)
    conversation = load_conversation(Path(load_from))
    if system and conversation.system not in (None, system):
        raise ConversationError(
            f"{load_from}: has another system message than --system; leave --system out, or edit the file"
        )
    conversation.system = conversation.system or system or None
    return conversation


def _converse(session: Any, interactive: bool) -> None:
    """Take inputs until the end or /quit."""
    from edgesteer.cli.chat_input import half_typed, inputs, piped, typed

    screen = session.screen
    if not interactive:
        if sys.stdin is not None:
            for text in inputs(piped(sys.stdin.buffer, screen.fail)):
                if not session.take(text):
                    return
        return
    screen.note(f"{session.greeting()}; /help lists the commands")
    _person(session, lambda: inputs(typed(screen.fail)), half_typed)


def _person(session: Any, start: Callable[[], Iterator[str]], half_typed: Callable[[], bool]) -> None:
    """Inputs of a person: Ctrl-C at the prompt clears the line; on an empty one, twice, it leaves."""
    pressed, coming = False, start()
    while True:
        try:
            text = next(coming, None)
        except KeyboardInterrupt:
            click.echo(err=True)
            if pressed and not half_typed():
                return
            pressed, coming = True, start()  # the interrupt has ended the old one
            session.screen.note("Ctrl-C again, Ctrl-D or /quit leaves; /help lists the commands")
            continue
        if text is None:
            click.echo(err=True)
            return
        pressed = False
        try:
            if not session.take(text):
                return
        except KeyboardInterrupt:
            session.screen.note("interrupted")
