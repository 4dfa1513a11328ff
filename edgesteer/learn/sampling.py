"""Replies for contrast pairs: drawn side by side, scored behind the plain prompt, the best of several taken.

In:  a chat, what is asked on which side, prompts with and without the trait's sentence.
Out: a scored reply for each ask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgesteer.errors import LearnError
from edgesteer.generate import measures
from edgesteer.generate.chat import Chat, Reply
from edgesteer.generate.progress import portion
from edgesteer.learn.store import ReplyStore, Scored

F32 = npt.NDArray[np.float32]
Keep = Callable[[int, F32], None]
Prompts = Sequence[tuple[list[int], list[int]]]  # plain, prompted

# The share of a group's time that goes into drawing its replies; the rest into scoring them.
_DRAWING = 0.9


class Ask(NamedTuple):
    """A question on the trait's side (+1) or its opposite's (-1), and the reply where one was given."""

    question: str
    sign: int
    reply: str | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A scored reply to an ask; nats a token. seen: see Reply."""

    ask: int
    number: int
    reply: Reply
    plain: F32
    trait: float
    coherence: float
    seen: F32 | None = None

    @staticmethod
    def of(ask: int, number: int, reply: Reply, plain: F32) -> Candidate:
        told = replace(reply, seen=None)
        trait = measures.trait(reply.log_probs, plain)
        return Candidate(
            ask, number, told, plain, trait, measures.coherence(reply.log_probs, plain), reply.seen
        )


def reply_stream(seed: int, question: str, side: int = 0, candidate: int = 0) -> np.random.Generator:
    """The random numbers that a reply is drawn with. side: 0 for the trait's, 1 for its opposite's."""
    return np.random.default_rng([seed, side, candidate, *question.encode()])


@dataclass(frozen=True, slots=True)
class Sampling:
    """How replies are drawn. Raises LearnError for numbers that make no sense."""

    chat: Chat
    best_of: int
    max_tokens: int
    temperature: float
    seed: int
    layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if (
            self.best_of < 1
            or self.max_tokens < 1
            or self.seed < 0
            or not 0 <= self.temperature < float("inf")
        ):
            raise LearnError(
                f"best_of {self.best_of}, max_tokens {self.max_tokens}, temperature {self.temperature}, "
                f"seed {self.seed}: expected at least 1, 1, 0 and 0"
            )
        if self.best_of > 1 and self.temperature == 0:
            raise LearnError(
                f"best_of {self.best_of} at temperature 0: all replies to a question would be the same one; "
                "expected a temperature above 0, or best_of 1"
            )

    def given(self, asks: Sequence[Ask], prompts: Prompts) -> dict[int, Candidate]:
        """Replies that people gave, up to the limit, without an end: nobody said with which token."""
        replies = {
            i: self.chat.llm.tokenize(ask.reply.encode(), add_bos=False)[: self.max_tokens]
            for i, ask in enumerate(asks)
            if ask.reply is not None
        }
        plain = self.chat.log_probs([(prompts[i][0], reply) for i, reply in replies.items()])
        prompted = self.chat.log_probs([(prompts[i][1], reply) for i, reply in replies.items()])
        scored = zip(replies.items(), prompted, plain, strict=True)
        return {i: Candidate.of(i, 0, Reply(reply, own), base) for (i, reply), own, base in scored}

    def sampled(
        self,
        asks: Sequence[Ask],
        prompts: Prompts,
        store: ReplyStore | None,
        progress: Callable[[float], None],
    ) -> Iterator[Candidate]:
        """`best_of` replies to every ask without one; those to one ask follow one another."""
        draws = [(i, n) for i, ask in enumerate(asks) if ask.reply is None for n in range(self.best_of)]
        groups = self.chat.groups([prompts[i][1] for i, _ in draws], self.max_tokens)
        for number, group in enumerate(groups):
            here = [draws[i] for i in group]
            scored = store.get(number, len(here)) if store is not None else None
            if scored is None:
                done = portion(progress, group.start, len(group), len(draws))
                scored = self._group(asks, prompts, here, done)
                if store is not None:
                    store.add(number, scored)
            for (i, n), (reply, plain) in zip(here, scored, strict=True):
                yield Candidate.of(i, n, reply, plain)

    def _group(
        self,
        asks: Sequence[Ask],
        prompts: Prompts,
        draws: Sequence[tuple[int, int]],
        progress: Callable[[float], None],
    ) -> list[Scored]:
        rngs = [reply_stream(self.seed, asks[i].question, int(asks[i].sign < 0), n) for i, n in draws]
        replies = self.chat.replies(
            [prompts[i][1] for i, _ in draws],
            self.max_tokens,
            self.temperature,
            rngs,
            self.layers,
            portion(progress, 0, _DRAWING, 1),
        )
        told = [(prompts[i][0], reply.spoken) for (i, _), reply in zip(draws, replies, strict=True)]
        plain = self.chat.log_probs(told, portion(progress, _DRAWING, 1 - _DRAWING, 1))
        return [Scored(reply, base) for reply, base in zip(replies, plain, strict=True)]


class Best:
    """Takes the best candidate of each ask, `best_of` of which must be added one behind the other."""

    def __init__(self, best_of: int, keep: Keep | None) -> None:
        self._best_of, self._keep = best_of, keep
        self._open: dict[int, list[Candidate]] = {}
        self._coherences: list[float] = []

    def add(self, candidate: Candidate) -> None:
        self._coherences.append(candidate.coherence)
        so_far = self._open.setdefault(candidate.ask, [])
        self._open[candidate.ask] = possible([*so_far, candidate])
        if candidate.number == self._best_of - 1 and len(self._open[candidate.ask]) == 1:
            self._open[candidate.ask] = [self._hand_over(self._open[candidate.ask][0])]

    def taken(self) -> dict[int, Candidate]:
        """Ask -> its candidate, once all were added."""
        known = [c for c in self._coherences if c == c]
        median = float(np.median(known)) if known else 0.0
        return {ask: self._hand_over(pick(open_, median)) for ask, open_ in self._open.items()}

    def _hand_over(self, candidate: Candidate) -> Candidate:
        if self._keep is not None and candidate.seen is not None:
            self._keep(candidate.ask, candidate.seen)
        return replace(candidate, seen=None)


def possible(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that `pick` may take, whatever the median: the others have neither more trait nor more coherence
    than some one of these. An empty reply only where there is no other."""
    said = [c for c in candidates if c.reply.spoken] or candidates[:1]
    return [c for c in said if not any(_beats(o, c) for o in said)]


def _beats(a: Candidate, b: Candidate) -> bool:
    """In one at least, and in none less; the earlier of two alike."""
    mine, theirs = (a.trait, -a.coherence), (b.trait, -b.coherence)
    if mine == theirs:
        return a.number < b.number
    return mine[0] >= theirs[0] and mine[1] >= theirs[1]


def pick(candidates: Sequence[Candidate], median: float) -> Candidate:
    """The most trait among those at most as incoherent as `median`; the most coherent where there is none."""
    coherent = [c for c in candidates if c.coherence <= median]
    if coherent:
        return max(coherent, key=lambda c: (c.trait, -c.coherence, -c.number))
    return min(candidates, key=lambda c: (c.coherence, -c.trait, c.number))
