"""Relevance: whether replies answer their own questions. Needs no judge, and knows no trait.

In:  a Chat, the trait, questions, and a reply to each. Out: for each question nats a token, and whether the
     reply is matched to it.

The unsteered model, under the trait's prompt, reads every reply behind its own question and behind a few
others. What it expects more after its own question than after the others is about that question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesteer.errors import InputError
from edgesteer.generate import Chat, Reply

F64 = npt.NDArray[np.float64]
_Pair = tuple[tuple[int, ...], tuple[int, ...]]

MAX_TOKENS = 32
"""How many tokens of a reply are read."""

AMONG = 5
"""Groups of five questions in place of all twenty cost a quarter of the time. On SmolLM2's prompted replies
they move the mean by 0.02 nats, where other questions would move it by 0.1."""

MIN_QUESTIONS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Relevance:
    """One value a question, in order, so that two ways to answer can be paired.

    nats: float64 [n], nats a token; 0 for replies that are all the same, and for an empty one. Sees whether a
        reply is about its question. Does not see whether it is right, or shows the trait.
    matched: bool [n], whether the reply is likelier after its own question than after the others of its
        group.
    chance: how many are matched if every reply is the same, as a share.
    """

    nats: F64
    matched: npt.NDArray[np.bool_]
    chance: float


def relevance(
    chat: Chat,
    trait: str,
    questions: Sequence[str],
    replies: Sequence[Reply],
    *,
    among: int = AMONG,
    own: Sequence[Sequence[float]] | None = None,
) -> Relevance:
    """The relevance of each replies[i], which answers questions[i]. The plan in force is set aside.

    among: replies are compared within groups of at least this many questions (all, if there are fewer than
        twice as many), drawn by chance but always alike for the same questions. The cost grows with it.
    own: the log-probabilities of each reply's tokens behind its own question with the trait's prompt, as
        `score` gives them, so that they are not computed again.
    Raises ValueError for lists of different lengths; InputError for fewer than 3 questions or a smaller
    `among`, for a question that occurs twice, and for a text that does not fit the context.
    """
    if len(questions) != len(replies):
        raise ValueError(f"{len(replies)} replies, expected {len(questions)}, one for each question")
    if min(len(questions), among) < MIN_QUESTIONS:
        raise InputError(
            f"relevance: {len(questions)} questions, compared in groups of {among}; "
            f"expected at least {MIN_QUESTIONS}"
        )
    prompts = [tuple(chat.prompt(question, trait)) for question in questions]
    if len(set(prompts)) < len(prompts):
        raise InputError("relevance: a question occurs twice, expected different ones")
    texts = [tuple(reply.all_tokens[:MAX_TOKENS]) if reply.tokens else () for reply in replies]
    groups = _groups(questions, among)
    nats, matched = np.zeros(len(texts)), np.zeros(len(texts), dtype=np.bool_)
    for group in groups:
        written = [] if own is None else [(i, own[i]) for i in group if texts[i]]
        at_home = {(prompts[i], texts[i]): np.asarray(row[:MAX_TOKENS]) for i, row in written}
        log_probs = _log_probs(chat, [prompts[i] for i in group], [texts[i] for i in group], at_home)
        there = np.array([bool(texts[i]) for i in group])
        nats[group] = np.where(there, _interaction(log_probs), 0.0)
        matched[group] = there & _matched(log_probs)
    return Relevance(nats, matched, chance=chance(len(texts), among))


def chance(n: int, among: int = AMONG) -> float:
    """The share of n questions that is matched if every reply is the same: one in each group."""
    return _n_groups(n, among) / n


def _n_groups(n: int, among: int) -> int:
    return max(1, n // among)


def _groups(questions: Sequence[str], among: int) -> list[npt.NDArray[np.intp]]:
    """Indices of the questions, in groups that do not depend on the questions' order."""
    key = [sha256(question.encode("utf-8", errors="replace")).digest() for question in questions]
    mixed = np.array(sorted(range(len(key)), key=key.__getitem__), dtype=np.intp)
    return np.array_split(mixed, _n_groups(len(key), among))


def _log_probs(
    chat: Chat, prompts: Sequence[tuple[int, ...]], texts: Sequence[tuple[int, ...]], known: dict[_Pair, Any]
) -> F64:
    """float64 [texts, prompts]: the mean log-probability of a text's tokens behind a prompt, in nats; 0 for
    an empty text. A text that occurs twice is read once, and what is known not at all."""
    once = sorted({text for text in texts if text})
    pairs = [(prompt, text) for prompt in prompts for text in once if (prompt, text) not in known]
    with chat.llm.steered([]):
        read = known | dict(zip(pairs, chat.log_probs(pairs), strict=True))
    means = {pair: float(row.mean(dtype=np.float64)) for pair, row in read.items()}
    return np.array([[means.get((prompt, text), 0.0) for prompt in prompts] for text in texts])


def _interaction(log_probs: F64) -> F64:
    """By how much each reply leads after its own question over the others, minus how much the other replies
    do there. log_probs: [replies, questions].

    That second term is how expected any reply is after this question. It does not change the mean over the
    questions, but without it replies that are all the same would have 0 on average only.
    """
    others = ~np.eye(len(log_probs), dtype=bool)
    out = np.empty(len(log_probs))
    for i, rest in enumerate(others):
        lead = log_probs[i, i] - log_probs[i, rest].mean()
        out[i] = lead - (log_probs[rest, i].mean() - log_probs[others & rest[:, None] & rest].mean())
    return out


def _matched(log_probs: F64) -> npt.NDArray[np.bool_]:
    own = np.eye(len(log_probs), dtype=bool)
    return np.asarray(np.diag(log_probs) > np.where(own, -np.inf, log_probs).max(axis=1))
