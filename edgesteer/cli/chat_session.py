"""The turns of a chat: between what was typed and SteeredLlama.

In:  one input at a time. Out: replies on stdout; notes, failures and the steering map on stderr.

It owns the model's plan and the conversation while the chat lasts. It asks the model for no more than
`create_chat_completion`, `record`, `steer` and `steering`, so that a stand-in serves in tests.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesteer.cli.chat_commands import HELP, parse, parse_steer, parse_strength, path_of
from edgesteer.cli.chat_input import Stop, stop_on_ctrl_c
from edgesteer.cli.chat_reply import Reply
from edgesteer.cli.chat_screen import OutputLostError, Screen
from edgesteer.cli.chat_template import Count
from edgesteer.cli.conversation import Conversation, Exchange, Facts
from edgesteer.cli.dial import Dial
from edgesteer.errors import EdgesteerError
from edgesteer.steering_map import SteeringMap

if TYPE_CHECKING:
    from edgesteer.plan import SteeringPlan
    from edgesteer.runtime import SteeredLlama


class ChatSession:
    def __init__(
        self,
        llm: SteeredLlama,
        conversation: Conversation,
        count: Count,
        scope: str | None,
        sampling: dict[str, Any],
        screen: Screen,
    ) -> None:
        """count: the tokens of messages in the model's template. sampling: for create_chat_completion."""
        self.llm, self.conversation, self.screen = llm, conversation, screen
        self._count, self._scope, self._sampling = count, scope, sampling
        self._longest: int = sampling["max_tokens"]
        self._room = min(llm.n_ctx(), len(llm.input_ids))  # llama.cpp rounds n_ctx up, llama_cpp does not
        self._dial = Dial()
        self._map: SteeringMap | None = None
        self._commands: dict[str, Callable[[str], None]] = {
            "steer": self._steer,
            "strength": self._strength,
            "off": lambda _: self._say_steering(Dial()),
            "map": lambda _: self._show_map(),
            "save": lambda name: self._save(name, force=False),
            "save!": lambda name: self._save(name, force=True),
            "reset": lambda _: self._reset(),
            "help": lambda _: click.echo(HELP, err=True),
        }

    def greeting(self) -> str:
        told = len(self.conversation.exchanges)
        going_on = f", {_exchanges(told)} so far" if told else ""
        return f"{Path(self.llm.model_path).name}{going_on}, steering: {_words(self.llm.steering)}"

    def take(self, text: str) -> bool:
        """Do what one input asks for; False when it asks to leave. Failures are told, not raised."""
        try:
            asked = parse(text)
            if isinstance(asked, str):
                self._answer(asked)
            elif asked.name == "quit":
                return False
            else:
                self._commands[asked.name](asked.argument)
        except OutputLostError as lost:
            raise lost.args[0] from None
        except BrokenPipeError:
            raise
        except (EdgesteerError, OSError) as error:
            self.screen.fail(str(error))
        except Exception as error:  # llama_cpp and a template's own code raise what they like
            if os.environ.get("EDGESTEER_DEBUG"):
                raise
            self.screen.fail(f"{type(error).__name__}: {error}")
        return True

    def turn_to(self, dial: Dial) -> None:
        """Put the dial's plan into force, or raise and leave dial and plan as they were."""
        with stop_on_ctrl_c():  # put off: half a plan is none
            self.llm.steer(list(dial.pairs), scope=self._scope)
            self._dial = dial

    # -- a turn ---------------------------------------------------------------------------------

    def _answer(self, message: str) -> None:
        with stop_on_ctrl_c() as stop:
            exchange = self._exchange(message, stop)
        if exchange is None:
            self.screen.note("stopped before the first token; the message is forgotten")
            return
        self.conversation.exchanges.append(exchange)
        self.screen.reply(exchange)
        self._explain(exchange)

    def _explain(self, exchange: Exchange) -> None:
        assert exchange.facts is not None
        if exchange.facts.finish_reason == "stopped":
            self.screen.note("stopped; what was said stays")
        elif exchange.facts.finish_reason == "length" and exchange.facts.tokens < self._longest:
            self.screen.note("cut short: the context is full")

    def _make_room(self, message: str) -> int:
        """Drop what the context cannot hold; how many tokens the reply may have."""
        reserve = min(self._longest, self._room // 4)
        dropped = self.conversation.fit(message, self._count, self._room, reserve)
        if dropped:
            self.screen.note(
                f"the context of {self._room} tokens is full: the model no longer sees the oldest "
                f"{_exchanges(dropped)} that it saw before"
            )
        return min(self._longest, self._room - self._count(self.conversation.messages(message)))

    def _exchange(self, message: str, stop: Stop) -> Exchange | None:
        """One reply, shown as it comes; None where Ctrl-C came before its first token."""
        sampling = {**self._sampling, "max_tokens": self._make_room(message)}
        told: list[Any] = [*self.conversation.messages(message)]  # llama_cpp wants its own kind of dict
        reply = Reply(self.screen, stop)
        with self.llm.record() as steering_map:
            reply.read(lambda: self.llm.create_chat_completion(told, stream=True, **sampling))
        if reply.finish_reason == "stopped" and not reply.pieces:
            return None
        self._map = steering_map
        # The last token was said but not decoded, unless the model ended the reply behind it.
        n_tokens = len(steering_map) - steering_map.n_prompt + (reply.finish_reason != "stop")
        plan = self.llm.steering
        facts = Facts(repr(plan), plan.fingerprint, n_tokens, reply.finish_reason)
        return Exchange(message, "".join(reply.pieces), facts)

    # -- commands -------------------------------------------------------------------------------

    def _steer(self, argument: str) -> None:
        from edgesteer.bundle import load
        from edgesteer_models import resolve_bundle

        if not argument:
            self.screen.note(f"steering: {self._state()}")
            return
        name, strength = parse_steer(argument)
        bundle = load(resolve_bundle(name))
        self._say_steering(self._dial.put(bundle, bundle.strength.default if strength is None else strength))

    def _strength(self, argument: str) -> None:
        strength = parse_strength(argument)
        if not self._dial.pairs:
            self.screen.note("no bundles to set a strength of; /steer FILE adds one")
            return
        self._say_steering(self._dial.at(strength))

    def _say_steering(self, dial: Dial) -> None:
        self.turn_to(dial)
        self.screen.note(f"steering: {self._state()}")

    def _state(self) -> str:
        asleep = [bundle.name for bundle, strength in self._dial.pairs if strength == 0]
        remembered = f"; at strength 0: {', '.join(asleep)}" if asleep else ""
        return _words(self.llm.steering) + remembered

    def _show_map(self) -> None:
        if self._map is None:
            self.screen.note("no reply yet, so there is no steering map")
        elif not self._map.coefficients.any():
            self.screen.note("nothing was steered in the last reply")
        else:
            self.screen.show_map(self._map)

    def _save(self, name: str, *, force: bool) -> None:
        path = Path(path_of(name))
        self.conversation.save(path, Path(self.llm.model_path).name, force)
        self.screen.note(f"{path}: {_exchanges(len(self.conversation.exchanges))} saved")

    def _reset(self) -> None:
        self.conversation.reset()
        self._map = None
        self.screen.note(f"the history is forgotten; steering: {self._state()}")


def _exchanges(n: int) -> str:
    return f"{n} exchange{'' if n == 1 else 's'}"


def _words(plan: SteeringPlan) -> str:
    return ", ".join(f"{t.bundle.name} x {t.strength:g} ({t.scope})" for t in plan.terms) or "none"
