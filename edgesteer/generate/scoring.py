"""Score replies under the unsteered model: trait, coherence, negative log-likelihood, repetition.

In:  a Chat, replies, and for each reply its question's plain prompt and the one with the trait in front.
Out: Scores: a number for each reply and measure, and each token's log-probabilities.

The plan in force is set aside. A text that occurs twice is read once and gets the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from itertools import chain

import numpy as np

from edgesteer.generate import measures
from edgesteer.generate.chat import Chat, Reply, Tokens
from edgesteer.generate.measures import F32

_Text = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class ScoredTokens:
    """A reply's tokens with its end token, and log p of each under the unsteered model, in nats.

    prompted: with the trait's prompt. plain: without.
    """

    tokens: tuple[int, ...]
    prompted: tuple[float, ...]
    plain: tuple[float, ...]

    @property
    def trait(self) -> tuple[float, ...]:
        """Each token's trait; the reply's is their mean."""
        return tuple(a - b for a, b in zip(self.prompted, self.plain, strict=True))

    @property
    def coherence(self) -> tuple[float, ...]:
        """Each token's coherence; the reply's is their mean. Lower is more coherent."""
        return tuple(-max(a, b) for a, b in zip(self.prompted, self.plain, strict=True))


@dataclass(frozen=True, slots=True)
class Scores:
    """The measures of each reply, in order (see `measures`); NaN for one without any token.

    by_token: the same for single tokens.
    """

    trait: tuple[float, ...]
    coherence: tuple[float, ...]
    nll0: tuple[float, ...]
    distinct2: tuple[float, ...]
    by_token: tuple[ScoredTokens, ...] = field(default=(), repr=False)

    @classmethod
    def joined(cls, scores: Sequence[Scores]) -> Scores:
        """The scores of several lists of replies, one after the other."""
        each = ([getattr(one, name.name) for one in scores] for name in fields(cls))
        return cls(*(tuple(chain.from_iterable(values)) for values in each))

    @property
    def empty(self) -> int:
        """Replies without a token to score."""
        return sum(value != value for value in self.nll0)

    def of(self, replies: Sequence[int]) -> Scores:
        """The scores of some replies, by index."""
        return Scores(*(tuple(getattr(self, each.name)[i] for i in replies) for each in fields(self)))

    def first(self, n: int) -> Scores:
        """The scores of each reply's first n tokens, its end token included."""
        cut = [ScoredTokens(one.tokens[:n], one.prompted[:n], one.plain[:n]) for one in self.by_token]
        pairs = [(np.array(one.prompted, np.float32), np.array(one.plain, np.float32)) for one in cut]
        return _scores(cut, pairs, [one.tokens for one in cut])

    def mean(self, measure: str) -> float:
        """The mean over the replies that are not empty; NaN if all are."""
        values = np.array(getattr(self, measure), dtype=np.float64)
        there = values[~np.isnan(values)]
        return float(there.mean()) if len(there) else float("nan")


def score(
    chat: Chat,
    replies: Sequence[Reply],
    plain: Sequence[Tokens],
    prompted: Sequence[Tokens],
    unsteered: str | None = None,
) -> Scores:
    """Score each replies[i], which answers the question with the prompts plain[i] and prompted[i].

    unsteered: "plain" or "prompted" if the unsteered model gave all replies to these prompts: their own
        log-probabilities then save half of the work.
    Raises ValueError for lists of different lengths, InputError for a text that does not fit the context.
    """
    texts = [reply.all_tokens for reply in replies]
    with chat.llm.steered([]):
        without, with_trait = (
            [reply.log_probs for reply in replies]
            if unsteered == name
            else _log_probs(chat, list(zip(prompts, texts, strict=True)))
            for name, prompts in (("plain", plain), ("prompted", prompted))
        )
    pairs = list(zip(with_trait, without, strict=True))
    each = [
        ScoredTokens(tuple(tokens), tuple(map(float, a)), tuple(map(float, b)))
        for tokens, (a, b) in zip(texts, pairs, strict=True)
    ]
    return _scores(each, pairs, [reply.tokens for reply in replies])


def _scores(
    scored: Sequence[ScoredTokens], pairs: Sequence[tuple[F32, F32]], replies: Sequence[Tokens]
) -> Scores:
    """pairs: log-probabilities with the trait's prompt and without. replies: the tokens for distinct2."""
    return Scores(
        trait=tuple(measures.trait(a, b) for a, b in pairs),
        coherence=tuple(measures.coherence(a, b) for a, b in pairs),
        nll0=tuple(measures.nll(b) for _, b in pairs),
        distinct2=tuple(
            measures.distinct(tokens) if one.tokens else float("nan")
            for one, tokens in zip(scored, replies, strict=True)
        ),
        by_token=tuple(scored),
    )


def _log_probs(chat: Chat, texts: Sequence[tuple[Tokens, Tokens]]) -> list[F32]:
    """`Chat.log_probs`, computed once for each distinct text; texts with the same prompt are neighbours."""
    keys: list[_Text] = [(tuple(prompt), tuple(reply)) for prompt, reply in texts]
    place: dict[tuple[int, ...], int] = {}
    for prompt, _ in keys:
        place.setdefault(prompt, len(place))
    once = sorted(dict.fromkeys(keys), key=lambda key: place[key[0]])
    log_probs = dict(zip(once, chat.log_probs(once), strict=True))
    return [log_probs[key] for key in keys]
