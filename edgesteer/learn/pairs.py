"""Contrast pairs: one reply y' behind two prompts, with the trait (x') and without (x).

In:  a model, the trait's sentence, questions, a seed.
Out: pairs worth learning from, and how many were dropped and why.

PSR, arXiv 2605.03907: y' is sampled from x'; replies that lack the trait or coherence are dropped. Both are
judged by the model itself: a token's log-probability behind x' less that behind x is how much the trait's
sentence has to do with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgesteer.errors import LearnError
from edgesteer.evaluate import measures
from edgesteer.evaluate.chat import Chat, Reply
from edgesteer.learn.questions import Question


@dataclass(frozen=True, slots=True)
class Pair:
    """Token ids of x, x' and y', and the measures of y' in nats a token (see evaluate.measures)."""

    question: str
    plain: list[int]
    prompted: list[int]
    reply: list[int]
    trait: float
    nll0: float
    nll_prompted: float

    @property
    def n_positions(self) -> int:
        """Positions in scope `response`: the prompt's last token and the reply's."""
        return len(self.reply) + 1


@dataclass(frozen=True, slots=True)
class Limits:
    """A reply is dropped as `short` below `min_tokens`, `repetitive` below `min_distinct2`, `incoherent` where
    the model itself finds it unlikely even with the trait (above `max_nll` nats a token), and `no trait` below
    `min_trait` of the median reply's trait."""

    min_tokens: int = 8
    min_distinct2: float = 0.6
    max_nll: float = 3.0
    min_trait: float = 0.3


def make_pair(
    chat: Chat, trait: str, question: Question, max_tokens: int, temperature: float, rng: np.random.Generator
) -> Pair:
    """Ask with the trait, take the reply (or the one given), and score it behind both prompts."""
    plain, prompted = chat.prompt(question.text), chat.prompt(question.text, trait)
    if question.reply is None:
        reply = chat.reply(prompted, max_tokens, temperature, rng)
    else:
        given = chat.llm.tokenize(question.reply.encode(), add_bos=False)[:max_tokens]
        reply = Reply(given, chat.log_probs(prompted, given))
    base = chat.log_probs(plain, reply.tokens)
    return Pair(
        question.text,
        plain,
        prompted,
        reply.tokens,
        measures.trait(reply.log_probs, base),
        measures.nll(base),
        measures.nll(reply.log_probs),
    )


def sample_pairs(
    chat: Chat,
    trait: str,
    questions: Sequence[Question],
    *,
    max_tokens: int = 48,
    temperature: float = 0.7,
    seed: int = 0,
    progress: Callable[[float], None] = lambda fraction: None,
) -> list[Pair]:
    """One pair a question, in order. Each question draws from a stream of its own, so that adding or dropping
    a question leaves the others' replies as they are. Raises LearnError for an empty trait or no questions."""
    if not trait.strip():
        raise LearnError("the trait is empty, expected a sentence such as 'You are a pirate.'")
    if not questions:
        raise LearnError("no training questions, expected at least one")
    pairs = []
    for done, question in enumerate(questions):
        progress(done / len(questions))
        stream = reply_stream(seed, question.text)
        pairs.append(make_pair(chat, trait, question, max_tokens, temperature, stream))
    return pairs


def reply_stream(seed: int, question: str) -> np.random.Generator:
    """The random numbers that a question's reply is drawn with."""
    return np.random.default_rng([seed, *question.encode()])


def trait_floor(pairs: Sequence[Pair], limits: Limits = Limits()) -> float:
    """The trait, in nats a token, above which a reply shows it: relative to the median, never below 0."""
    traits = [p.trait for p in pairs if p.reply]
    return limits.min_trait * max(float(np.median(traits)), 0.0) if traits else 0.0


def keep_good(pairs: Sequence[Pair], limits: Limits = Limits()) -> tuple[list[Pair], dict[str, int]]:
    """The pairs that have trait and coherence, and how many were dropped by reason. LearnError if none is left."""
    floor = trait_floor(pairs, limits)
    verdicts = [_fault(pair, limits, floor) for pair in pairs]
    kept = [pair for pair, fault in zip(pairs, verdicts, strict=True) if fault is None]
    dropped = Counter(fault for fault in verdicts if fault is not None)
    if not kept:
        reasons = ", ".join(f"{n} {fault}" for fault, n in sorted(dropped.items()))
        raise LearnError(
            f"all {len(pairs)} replies were dropped ({reasons}), expected some that show the trait; "
            "word the trait more strongly, or give more questions"
        )
    return kept, dict(sorted(dropped.items()))


def _fault(pair: Pair, limits: Limits, trait_floor: float) -> str | None:
    if len(pair.reply) < limits.min_tokens:
        return "short"
    if measures.distinct(pair.reply) < limits.min_distinct2:
        return "repetitive"
    if pair.nll_prompted > limits.max_nll:
        return "incoherent"
    return "no trait" if pair.trait <= trait_floor else None
