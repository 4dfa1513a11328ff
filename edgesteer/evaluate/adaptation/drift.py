"""Specificity: how far an adaptation moves the next-token distributions on text that it has nothing to do with.

In:  Subjects, the unadapted model first; passages. Out: a Drift each.

A passage is read as the model's own reply to a neutral question: there every adaptation is in force, whatever its
scope, and all subjects read the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import resources
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgesteer.evaluate.adaptation.axes import Subject
from edgesteer.evaluate.adaptation.values import Drift
from edgesteer.generate.chat import F32, Tokens
from edgesteer.evaluate.intervals import Sample, estimate
from edgesteer.generate.measures import log_softmax
from edgesteer.generate.progress import Done
from edgesteer.runtime import Lanes

NEUTRAL = "Write a text."

F64 = npt.NDArray[np.float64]


class Passage(NamedTuple):
    title: str
    text: str


def passages_of_the_project() -> tuple[Passage, ...]:
    """Short texts of many kinds: facts, arithmetic, code, a recipe, a contract."""
    text = resources.files("edgesteer.evaluate.adaptation").joinpath("unrelated.txt").read_text("utf-8")
    blocks = [block.split("\n", 1) for block in text.strip().split("\n\n")]
    return tuple(Passage(title.removeprefix("# "), body) for title, body in blocks)


def drifts_of(subjects: Sequence[Subject], texts: Sequence[Passage], progress: Done) -> list[Drift]:
    """Each subject's drift from the first, token by token, a passage at a time. Raises InputError for one that does
    not fit the context."""
    found: list[list[tuple[F64, F64]]] = [[] for _ in subjects]
    for i, text in enumerate(texts):
        progress(i / len(texts))
        tokens = subjects[0].chat.llm.tokenize(text.text.encode(), add_bos=False)
        expected = [log_softmax(row) for row in _read(subjects[0], tokens)]
        for subject, own in zip(subjects, found, strict=True):
            own.append(_compared(expected, _read(subject, tokens)))
    return [_drift(own, [text.title for text in texts]) for own in found]


def _read(subject: Subject, tokens: Tokens) -> Iterator[F32]:
    """The logits from which each token of the passage was to be expected; valid until the next is asked for."""
    prompt = subject.prompt(NEUTRAL)
    subject.chat.groups([[*prompt, *tokens]], 0)  # refuses what does not fit
    with subject.steered() as llm, Lanes(llm, [prompt]) as lanes:
        for _, logits in lanes.feed({0: [prompt[-1], *tokens[:-1]]}):
            yield logits


def _compared(expected: Sequence[F32], found: Iterator[F32]) -> tuple[F64, F64]:
    """Of each token KL(expected || found), and whether both expect the same one most."""
    pairs = [
        (divergence(row, other := log_softmax(logits)), row.argmax() == other.argmax())
        for row, logits in zip(expected, found, strict=True)
    ]
    kl, same = zip(*pairs, strict=True)
    return np.array(kl, dtype=np.float64), np.array(same, dtype=np.float64)


def divergence(expected: F32, found: F32) -> float:
    """KL(expected || found) of log-probabilities, in nats; 0 for the same ones, and never below."""
    there = expected > -np.inf
    a, b = expected[there].astype(np.float64), found[there].astype(np.float64)
    return max(0.0, float(np.sum(np.exp(a) * (a - b))))


def _drift(own: Sequence[tuple[F64, F64]], titles: Sequence[str]) -> Drift:
    lengths = [len(kl) for kl, _ in own]
    return Drift(
        kl=estimate(Sample.ratio([float(kl.sum()) for kl, _ in own], lengths)),
        by_passage={title: float(kl.mean()) for title, (kl, _) in zip(titles, own, strict=True)},
        same_top=float(np.concatenate([same for _, same in own]).mean()),
        tokens=sum(lengths),
    )
