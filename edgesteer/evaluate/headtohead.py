"""Unsteered, prompted and steered replies to the same questions, side by side.

In:  a model, the trait's sentence, bundles with strengths, questions that nothing was learnt from.
Out: a Table, one Row a way to ask. Greedy replies; everything is scored under the unsteered model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from edgesteer.bundle import Bundle
from edgesteer.errors import LearnError
from edgesteer.evaluate import measures
from edgesteer.evaluate.chat import Chat, Reply
from edgesteer.runtime import SteeredLlama

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Row:
    """Means over the replies of one way to ask; see `measures` for each.

    strength: None where nothing steers. count: None without a pattern. Empty replies (the model ended its
    turn at once) have no tokens to score: they count in `empty`, and in `count` as replies without a match.
    traits: of each reply that is not empty.
    """

    name: str
    strength: float | None
    trait: float
    nll0: float
    distinct2: float
    count: measures.Count | None
    empty: int
    replies: tuple[str, ...] = dataclasses.field(repr=False)
    traits: tuple[float, ...] = dataclasses.field(repr=False)


@dataclass(frozen=True, slots=True)
class Table:
    """One row a way to ask, and what was asked."""

    trait: str
    questions: tuple[str, ...]
    max_tokens: int
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values; NaN (no reply at all) becomes None."""
        return {**_plain(dataclasses.asdict(self))}


def held_out_questions() -> list[str]:
    """The project's questions for evaluation; none of them is among the training questions."""
    text = resources.files("edgesteer.evaluate").joinpath("questions_heldout.txt").read_text("utf-8")
    return [line.strip() for line in text.splitlines() if line.strip()]


def head_to_head(
    llm: SteeredLlama,
    trait: str,
    bundles: Sequence[tuple[str, Bundle, float]],
    *,
    questions: Sequence[str] | None = None,
    max_tokens: int = 64,
    pattern: str | None = None,
    progress: Progress = lambda stage, fraction: None,
) -> Table:
    """Ask every question unsteered, with the trait as system prompt, and under each (name, bundle, strength).

    pattern: a regular expression or a name in measures.WORDS, to count. The model's own steering is set
    aside meanwhile. Raises LearnError for no questions or a prompt that does not fit the context.
    """
    asked = list(held_out_questions() if questions is None else questions)
    if not asked:
        raise LearnError("evaluation: no questions, expected at least one")
    chat = Chat(llm)
    plain = [chat.prompt(q) for q in asked]
    prompted = [chat.prompt(q, trait) for q in asked]
    ways: list[tuple[str, Bundle | None, float | None, list[list[int]]]] = [
        ("unsteered", None, None, plain),
        ("prompt", None, None, prompted),
        *((name, bundle, strength, plain) for name, bundle, strength in bundles),
    ]
    rows = []
    for done, (name, bundle, strength, prompts) in enumerate(ways):
        progress(name, done / len(ways))
        replies = _ask(chat, prompts, bundle, strength, max_tokens)
        rows.append(score(chat, name, strength, replies, plain, prompted, pattern))
    progress("done", 1.0)
    return Table(trait, tuple(asked), max_tokens, tuple(rows))


def score(
    chat: Chat,
    name: str,
    strength: float | None,
    replies: Sequence[Reply],
    plain: Sequence[list[int]],
    prompted: Sequence[list[int]],
    pattern: str | None = None,
) -> Row:
    """Measure replies under the unsteered model, given the plain and the prompted prompt of each."""
    traits, nlls, distincts = [], [], []
    with chat.llm.steered([]):
        for reply, x, xs in zip(replies, plain, prompted, strict=True):
            if reply.tokens:
                base = chat.log_probs(x, reply.tokens)
                traits.append(measures.trait(chat.log_probs(xs, reply.tokens), base))
                nlls.append(measures.nll(base))
                distincts.append(measures.distinct(reply.tokens))
    texts = tuple(chat.text(reply.tokens) for reply in replies)
    counted = measures.count(pattern, texts) if pattern else None
    return Row(
        name=name,
        strength=strength,
        trait=_mean(traits),
        nll0=_mean(nlls),
        distinct2=_mean(distincts),
        count=counted,
        empty=len(replies) - len(nlls),
        replies=texts,
        traits=tuple(traits),
    )


def _ask(
    chat: Chat, prompts: Sequence[list[int]], bundle: Bundle | None, strength: float | None, max_tokens: int
) -> list[Reply]:
    with chat.llm.steered([] if bundle is None else bundle, strength):
        return [chat.reply(prompt, max_tokens) for prompt in prompts]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and value != value else value
