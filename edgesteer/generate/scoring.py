"""Replies scored under the unsteered model: the trait, the coherence, the plain surprise, the repetition.

In:  a Chat, replies, and for each reply its question's plain prompt and the one with the trait as system
prompt.
Out: Scores, one number a reply and measure, and each token's log-probabilities.

The plan in force is set aside. A text that occurs twice is read once and gets the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from edgesteer.generate import measures
from edgesteer.generate.chat import Chat, Reply, Tokens
from edgesteer.generate.measures import F32

_Text = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Spoken:
    """A reply's tokens, its end among them, and log p of each under the unsteered model, in nats.

    prompted: with the trait's prompt. plain: without.
    """

    tokens: tuple[int, ...]
    prompted: tuple[float, ...]
    plain: tuple[float, ...]

    @property
    def trait(self) -> tuple[float, ...]:
        """What each token adds to the trait: the reply's is their mean."""
        return tuple(a - b for a, b in zip(self.prompted, self.plain, strict=True))

    @property
    def coherence(self) -> tuple[float, ...]:
        """What each token adds to the coherence; lower is more coherent."""
        return tuple(-max(a, b) for a, b in zip(self.prompted, self.plain, strict=True))


@dataclass(frozen=True, slots=True)
class Scores:
    """The measures of each reply, in order (see `measures`); NaN for an empty one (no token, not even an
    end).

    spoken: the same by token.
    """

    trait: tuple[float, ...]
    coherence: tuple[float, ...]
    nll0: tuple[float, ...]
    distinct2: tuple[float, ...]
    spoken: tuple[Spoken, ...] = field(default=(), repr=False)

    @property
    def empty(self) -> int:
        """Replies without a token to score."""
        return sum(value != value for value in self.nll0)

    def of(self, replies: Sequence[int]) -> Scores:
        """Those of some of the replies, by their places."""
        return Scores(*(tuple(getattr(self, each.name)[i] for i in replies) for each in fields(self)))

    def first(self, n: int) -> Scores:
        """The scores of each reply's first n tokens, an end among them."""
        cut = [Spoken(one.tokens[:n], one.prompted[:n], one.plain[:n]) for one in self.spoken]
        pairs = [(np.array(one.prompted, np.float32), np.array(one.plain, np.float32)) for one in cut]
        return _scores(cut, pairs, [one.tokens for one in cut])

    def mean(self, measure: str) -> float:
        """The mean over the replies that are not empty; NaN where all are."""
        values = np.array(getattr(self, measure), dtype=np.float64)
        there = values[~np.isnan(values)]
        return float(there.mean()) if len(there) else float("nan")


def score(
    chat: Chat, replies: Sequence[Reply], plain: Sequence[Tokens], prompted: Sequence[Tokens]
) -> Scores:
    """Score replies[i], an answer to the question whose prompts are plain[i] and prompted[i].

    Raises ValueError for lists of different lengths, InputError for a text that does not fit the context.
    """
    spoken = [reply.spoken for reply in replies]
    with chat.llm.steered([]):
        without = _log_probs(chat, list(zip(plain, spoken, strict=True)))
        with_trait = _log_probs(chat, list(zip(prompted, spoken, strict=True)))
    pairs = list(zip(with_trait, without, strict=True))
    each = [
        Spoken(tuple(tokens), tuple(map(float, a)), tuple(map(float, b)))
        for tokens, (a, b) in zip(spoken, pairs, strict=True)
    ]
    return _scores(each, pairs, [reply.tokens for reply in replies])


def _scores(spoken: Sequence[Spoken], pairs: Sequence[tuple[F32, F32]], replies: Sequence[Tokens]) -> Scores:
    """pairs: log-probabilities with the trait's prompt and without. said: what repetition is looked for
    in."""
    return Scores(
        trait=tuple(measures.trait(a, b) for a, b in pairs),
        coherence=tuple(measures.coherence(a, b) for a, b in pairs),
        nll0=tuple(measures.nll(b) for _, b in pairs),
        distinct2=tuple(
            measures.distinct(tokens) if one.tokens else float("nan")
            for one, tokens in zip(spoken, replies, strict=True)
        ),
        spoken=tuple(spoken),
    )


def _log_probs(chat: Chat, texts: Sequence[tuple[Tokens, Tokens]]) -> list[F32]:
    """`Chat.log_probs`, each different text once, those behind the same prompt next to each other."""
    keys: list[_Text] = [(tuple(prompt), tuple(reply)) for prompt, reply in texts]
    place: dict[tuple[int, ...], int] = {}
    for prompt, _ in keys:
        place.setdefault(prompt, len(place))
    once = sorted(dict.fromkeys(keys), key=lambda key: place[key[0]])
    log_probs = dict(zip(once, chat.log_probs(once), strict=True))
    return [log_probs[key] for key in keys]
