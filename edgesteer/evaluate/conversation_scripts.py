"""The scripts of conversations: their file, whether they can be held, and the prompt at a turn."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from edgesteer.errors import InputError
from edgesteer.evaluate.way import require_trait
from edgesteer.generate import Chat
from edgesteer.generate.chat import DAY
from edgesteer.generate.text_file import read_records, short, sound

_EXPECTED = 'expected a JSON object with "name" and "turns" on each line'

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Script:
    """What the user says, turn after turn."""

    name: str
    turns: tuple[str, ...]


def read_scripts(path: str | os.PathLike[str] | None = None) -> list[Script]:
    """The scripts of a JSON Lines file, in order; None: the built-in six of ten turns. Raises InputError."""
    built_in = resources.files("edgesteer.evaluate").joinpath("conversations.jsonl")
    records = read_records(path, built_in, _script, "conversations", _EXPECTED)
    return list(records.values())


def _script(row: tuple[Any, str]) -> Script:
    value, where = row
    if not isinstance(value, dict) or value.keys() != {"name", "turns"}:
        raise InputError(f"{where}: {short(value)}, {_EXPECTED}")
    name, turns = value["name"], value["turns"]
    if not isinstance(turns, list) or not turns:
        raise InputError(f'{where}: "turns" is {short(turns)}, expected a list of texts')
    for text in (name, *turns):
        if not isinstance(text, str) or not text.strip():
            raise InputError(f'{where}: {short(text)}, expected text as "name" and in "turns"')
        sound(text, where)
    return Script(name, tuple(turns))


def prompt_of(chat: Chat, history: Sequence[Message], system: str | None) -> list[int]:
    """The prompt for the next reply; for a single question, that of `Chat.prompt`."""
    form = chat.llm.chat_template
    assert form is not None
    messages = [] if system is None else [{"role": "system", "content": system}]
    return form.tokens(form.text([*messages, *history], now=DAY, think=chat.reasoning == "keep"))


def check_conversations(
    chat: Chat,
    trait: str,
    scripts: Sequence[Script],
    turns: int,
    max_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> None:
    """Raise what `conversations` would refuse of these, before the minutes of work."""
    require_trait(trait)
    if chat.template is not None or chat.llm.chat_template is None:
        other = "it has none" if chat.template is None else "--template or the bundle gives another"
        raise InputError(
            f"{chat.llm.model_path}: conversations need the model's own chat template, but {other}; leave "
            "them out"
        )
    least = {"turns": (turns, 1), "max_tokens": (max_tokens, 1), "temperature": (temperature, 0)}
    for name, (value, at_least) in {**least, "seed": (seed, 0)}.items():
        if not at_least <= value < float("inf"):
            raise InputError(f"conversations: {name} {value}, expected at least {at_least}")
    if not scripts:
        raise InputError("conversations: no scripts, expected at least one")
    names = [script.name for script in scripts]
    if again := [name for name in names if names.count(name) > 1]:
        raise InputError(f"conversations: two scripts are named {again[0]!r}, expected a name for each")
    for script in scripts:
        if len(script.turns) < turns:
            raise InputError(
                f"conversations: {script.name!r} has {len(script.turns)} turns, expected at least {turns}"
            )
        _check_room(chat, trait, script, turns, max_tokens)


def _check_room(chat: Chat, trait: str, script: Script, turns: int, max_tokens: int) -> None:
    """Refuse a script that cannot fit, even if all its replies are as short as can be."""
    history: list[Message] = []
    for question in script.turns[: turns - 1]:
        history += {"role": "user", "content": question}, {"role": "assistant", "content": "."}
    history.append({"role": "user", "content": script.turns[turns - 1]})
    need, room = len(prompt_of(chat, history, trait)) + max_tokens, chat.llm.n_ctx()
    if need > room:
        raise InputError(
            f"{chat.llm.model_path}: {turns} turns of {script.name!r} take at least {need} tokens, expected "
            f"at most {room}; load it with a larger context, or take fewer turns or shorter replies"
        )
