"""The prompt's KV, computed once and kept: the prompt without its prefill, at the cost of its cells.

In:  a Chat, the trait, questions. Out: what the snapshot costs and saves.

Conversations would begin as forks of one sequence that holds the trait's system turn, and give the prompt's
replies. The plan in force is set aside.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgesteer.errors import InputError
from edgesteer.evaluate.controls import require_sequences
from edgesteer.evaluate.cost import kv_bytes_per_token
from edgesteer.generate import Chat
from edgesteer.runtime import Sequence as Held
from edgesteer.runtime import Sequences

# Questions that are timed, and tokens generated for each.
_N_TIMED, _N_TOKENS = 5, 8

# What prompts begin with that differ in these questions belongs to the trait and the template.
_UNLIKE = ("Why?", "1 + 1")


@dataclass(frozen=True, slots=True)
class SnapshotCost:
    """What it costs to keep the KV of the trait's system turn, and what that saves.

    cells: tokens that the snapshot takes in the context, once for all conversations that begin from it; as
        many need no prefill at each question. kv_bytes: their size; None if the model does not say.
    prefill: tokens evaluated before a reply, on average: "snapshot", "prompt" (without one), "unsteered".
    first_token_seconds: medians of the time from a prompt to the first token, by the same names; to make the
        snapshot is not counted. token_seconds: of each further token. None if not timed. These three take
        turns, so their times can be compared with each other, but with nothing else.
    """

    cells: int
    kv_bytes: float | None
    prefill: dict[str, float]
    first_token_seconds: dict[str, float] | None
    token_seconds: dict[str, float] | None


def snapshot_cost(chat: Chat, trait: str, questions: Sequence[str], *, timing: bool = True) -> SnapshotCost:
    """Measure the snapshot against the prompt and the plain question, for at most 5 of the questions.

    timing: False decodes nothing.
    Raises InputError for no questions, a model opened for a single sequence, prompts that have no beginning
    in common, and, if it is timed, a prompt that does not fit the context.
    """
    if not questions:
        raise InputError("a snapshot: no questions, expected at least one")
    require_sequences(chat, "a snapshot")
    plain = [chat.prompt(question) for question in questions]
    prompts = [chat.prompt(question, trait) for question in questions]
    head = _common_head(chat, trait, prompts)
    ways = {
        "snapshot": (head, [prompt[len(head) :] for prompt in prompts]),
        "prompt": ([], prompts),
        "unsteered": ([], plain),
    }
    first: dict[str, list[float]] = {name: [] for name in ways}
    each: dict[str, list[float]] = {name: [] for name in ways}
    if timing:
        chat.groups(prompts[:_N_TIMED], 1 + _N_TOKENS)  # what does not fit is refused before
        for i in range(min(_N_TIMED, len(questions))):
            for j in range(len(ways)):
                name = list(ways)[(i + j) % len(ways)]
                kept, rest = ways[name]
                seconds = _seconds(chat, kept, rest[i])
                first[name].append(seconds[0])
                each[name] += seconds[1:]
    per_token = kv_bytes_per_token(chat.llm)
    return SnapshotCost(
        cells=len(head),
        kv_bytes=None if per_token is None else len(head) * per_token,
        prefill={name: float(np.mean([len(rest) for rest in rests])) for name, (_, rests) in ways.items()},
        first_token_seconds=_medians(first) if timing else None,
        token_seconds=_medians(each) if timing else None,
    )


def _common_head(chat: Chat, trait: str, prompts: Sequence[list[int]]) -> list[int]:
    """What every prompt with this trait begins with, whatever the question; at least a token less than
    each."""
    several = [*prompts, *(chat.prompt(question, trait) for question in _UNLIKE)]
    least, most = min(several), max(several)
    alike = next((i for i, (a, b) in enumerate(zip(least, most, strict=False)) if a != b), len(least))
    head = least[: min(alike, *(len(prompt) - 1 for prompt in several))]
    if not head:
        raise InputError("a snapshot: prompts with this trait have no beginning in common, nothing to keep")
    return head


def _run(sequences: Sequences, parts: dict[Held, list[int]]) -> None:
    """Feed tokens whose logits nobody wants."""
    for _ in sequences.feed(parts, wanted=False):
        pass


def _seconds(chat: Chat, kept: list[int], prompt: list[int]) -> list[float]:
    """Seconds from the prompt to its first token, behind what is kept, then for each further one."""
    fed = chat.llm.tokenize(b"a", add_bos=False)[-1]
    out: list[float] = []
    with chat.llm.steered([]), Sequences(chat.llm) as sequences:
        sequence = sequences.open()
        if kept:
            _run(sequences, {sequence: kept})
            sequence = sequences.fork(sequence)
        start = time.perf_counter()
        _run(sequences, {sequence: prompt[:-1]})
        for token in [prompt[-1], *[fed] * _N_TOKENS]:
            for _ in sequences.feed({sequence: [token]}):
                out.append(time.perf_counter() - start)
            start = time.perf_counter()
    return out


def _medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    return {name: float(np.median(values)) for name, values in seconds.items()}
