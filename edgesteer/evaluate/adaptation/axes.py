"""What is measured, and on which model: Subjects; their compute, memory and data.

In:  Subjects: the unadapted model first, then each way to adapt it. Out: the values of `adaptation_values`.

Whatever steers a subject's model at the moment is set aside and returns.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from edgesteer.bundle import Bundle
from edgesteer.evaluate.adaptation.lora import Lora
from edgesteer.evaluate.adaptation.values import Data, Memory, Speed
from edgesteer.generate.chat import Chat
from edgesteer.evaluate.cost import Cost, costs, kv_bytes_per_token
from edgesteer.evaluate.ways import Way
from edgesteer.runtime import SteeredLlama

# How often the model under a LoRA and the one without take turns.
_TURNS = 3


@dataclass(frozen=True, slots=True)
class Subject:
    """A way to adapt, and the model that it is measured on: of its own for a LoRA. system: its system prompt."""

    way: Way
    chat: Chat
    system: str | None = None
    lora: Lora | None = None

    def steered(self) -> AbstractContextManager[SteeredLlama]:
        return self.way.steered(self.chat)

    def prompt(self, question: str) -> list[int]:
        return self.chat.prompt(question, self.system)


# -- compute ----------------------------------------------------------------------------------


def speeds(subjects: Sequence[Subject], max_tokens: int) -> tuple[list[Cost], list[Speed | None]]:
    """Costs of the subjects that share the first one's model, then of the others; and their speed against the first."""
    together = [s for s in subjects if s.chat is subjects[0].chat]
    spent = costs(together[0].chat, [s.way for s in together])
    out = [_speed(cost, spent[0], max_tokens, False) for cost in spent]
    for other in subjects[len(together) :]:
        cost, base = _in_turns(other, subjects[0])
        spent.append(cost)
        out.append(_speed(cost, base, max_tokens, True))
    return spent, out


def _in_turns(subject: Subject, base: Subject) -> tuple[Cost, Cost]:
    rounds = [[costs(s.chat, [s.way])[0] for s in (subject, base)] for _ in range(_TURNS)]
    return _median([own for own, _ in rounds]), _median([plain for _, plain in rounds])


def _median(found: Sequence[Cost]) -> Cost:
    first, each = (
        [seconds for cost in found if (seconds := getattr(cost, name)) is not None]
        for name in ("first_token_seconds", "token_seconds")
    )
    one = found[0]
    return Cost(
        one.context_tokens,
        statistics.median(first) if first else None,
        statistics.median(each) if each else None,
        one.artifact_bytes,
        one.kv_bytes,
    )


def _speed(cost: Cost, base: Cost, max_tokens: int, own_context: bool) -> Speed | None:
    a, b, a0, b0 = cost.first_token_seconds, cost.token_seconds, base.first_token_seconds, base.token_seconds
    if a is None or b is None or a0 is None or b0 is None:
        return None
    more = max_tokens - 1
    return Speed(a, b, a / a0, b / b0, (a + more * b) / (a0 + more * b0), own_context)


# -- memory and data --------------------------------------------------------------------------


def memory(subject: Subject, cost: Cost) -> Memory:
    """What is held, by its size: what a process takes is another process's luck."""
    llm, file, held = subject.chat.llm, cost.artifact_bytes, held_bytes(subject.way.bundle)
    kv: float | None = 0.0
    if subject.lora is not None:
        file = held = subject.lora.file_bytes
    elif subject.system is not None:
        file, each = len(subject.system.encode()), kv_bytes_per_token(llm)
        kv = None if each is None else each * max(0.0, cost.context_tokens)
    return Memory(file, held, kv, cost.context_tokens, Path(llm.model_path).stat().st_size)


def held_bytes(bundle: Bundle | None) -> int:
    """Directions in float32, and the gate as it is read."""
    if bundle is None:
        return 0
    return sum(d.nbytes for d in bundle.directions.values()) + len(bundle.members.get("gate.onnx", b""))


def data(subject: Subject) -> Data | None:
    """What it was learnt from; None for the unadapted model."""
    if subject.lora is not None:
        return Data(None, None, None, subject.lora.learnt_from or "not stated in the file")
    if subject.system is not None:
        return Data(_tokens(subject.chat, subject.system), None, 0, "its own words")
    if subject.way.bundle is None:
        return None
    training = subject.way.bundle.training
    trait, replies, tokens = training.get("trait"), training.get("kept"), training.get("tokens")
    given = _tokens(subject.chat, trait) if isinstance(trait, str) else None
    method = training.get("method")
    told = f"method {method}" if isinstance(method, str) else "not stated in the manifest"
    return Data(given, _whole(replies), _whole(tokens), told)


def _tokens(chat: Chat, text: str) -> int:
    return len(chat.llm.tokenize(text.encode(), add_bos=False))


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
