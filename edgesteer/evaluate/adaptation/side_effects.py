"""What an adaptation changes besides its effect, and whether that is undone.

Specificity: how far it moves the next-token distributions on unrelated text. A passage is read as the model's
own reply to a neutral question: there every adaptation is in force, whatever its scope, and all subjects read
the same tokens.

Reversibility: an adapted reply is interrupted, and the plain model goes on. From an empty context its batches
are those of the never adapted model, so the bits should be the same. With the KV cache kept, as `generate`
keeps it, the batches have other shapes, which by itself changes some bits.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgesteer.evaluate.adaptation.criteria import Drift, Reversal
from edgesteer.evaluate.adaptation.resources import Subject
from edgesteer.evaluate.intervals import Sample, estimate
from edgesteer.generate import Chat, Tokens
from edgesteer.generate.measures import F32, kl, log_softmax
from edgesteer.generate.progress import Done
from edgesteer.runtime import Lanes, SteeredLlama

NEUTRAL = "Write a text."

# Tokens of the interrupted reply, and how often it is measured.
_SPOKEN, _TIMES = 8, 3

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
    """Each subject's drift from the first. Raises InputError for a passage that does not fit the context."""
    adapted: list[list[tuple[F64, F64]]] = [[] for _ in subjects]
    for i, text in enumerate(texts):
        progress(i / len(texts))
        tokens = subjects[0].chat.llm.tokenize(text.text.encode(), add_bos=False)
        expected = [log_softmax(row, np.float64) for row in _read(subjects[0], tokens)]
        for subject, own in zip(subjects, adapted, strict=True):
            own.append(_compared(expected, _read(subject, tokens)))
    return [_drift(own, [text.title for text in texts]) for own in adapted]


def _read(subject: Subject, tokens: Tokens) -> Iterator[F32]:
    """The logits that predict each token of the passage, one after another; valid until the next."""
    prompt = subject.prompt(NEUTRAL)
    subject.chat.groups([[*prompt, *tokens]], 0)  # refuses what does not fit
    with subject.steered() as llm, Lanes(llm, [prompt]) as lanes:
        for _, logits in lanes.feed({0: [prompt[-1], *tokens[:-1]]}):
            yield logits


def _compared(expected: Sequence[F32], adapted: Iterator[F32]) -> tuple[F64, F64]:
    """For each token KL(expected || adapted), and whether both rank the same token first."""
    pairs = [
        (kl(row, other := log_softmax(logits, np.float64)), row.argmax() == other.argmax())
        for row, logits in zip(expected, adapted, strict=True)
    ]
    apart, same = zip(*pairs, strict=True)
    return np.array(apart, dtype=np.float64), np.array(same, dtype=np.float64)


def _drift(own: Sequence[tuple[F64, F64]], titles: Sequence[str]) -> Drift:
    lengths = [len(apart) for apart, _ in own]
    return Drift(
        kl=estimate(Sample.ratio([float(apart.sum()) for apart, _ in own], lengths)),
        by_passage={title: float(apart.mean()) for title, (apart, _) in zip(titles, own, strict=True)},
        same_top=float(np.concatenate([same for _, same in own]).mean()),
        tokens=sum(lengths),
    )


def plain_logits(chat: Chat, question: str) -> F32:
    """Logits float32 [n_vocab] of the first token of a reply to the plain prompt, computed anew."""
    prompt = chat.prompt(question)
    with chat.llm.steered([]), Lanes(chat.llm, [prompt]) as lanes:
        for _, logits in lanes.feed({0: prompt[-1:]}):
            return logits.copy()
    raise AssertionError("a fed row has logits")


def reversal(subject: Subject, question: str, never_adapted: F32) -> Reversal:
    """Interrupt adapted replies, go back to the plain model, and compare."""
    rounds = [_gone_back(subject, question) for _ in range(_TIMES)]
    seconds = statistics.median(taken for taken, _, _ in rounds)
    _, kept, anew = rounds[-1]
    difference = _largest(anew, never_adapted)
    reloaded = 0 if subject.lora is None else subject.chat.llm.file_bytes
    same = bool(np.array_equal(anew, never_adapted))
    return Reversal(
        same, difference, seconds, None if kept is None else _largest(kept, never_adapted), reloaded
    )


def _gone_back(subject: Subject, question: str) -> tuple[float, F32 | None, F32]:
    """Seconds until the plain model goes on; its logits there with the kept KV cache, and computed anew."""
    llm, plain = subject.chat.llm, subject.chat.prompt(question)
    with llm.steered([]):  # the plan in force returns at the end
        with subject.steered():
            _speak(llm, subject.prompt(question), _SPOKEN)
            if subject.lora is not None:
                return _reloaded(subject, question)
            start = time.perf_counter()
        kept = _speak(llm, plain, 1)  # leaving the `with` has switched off
        seconds = time.perf_counter() - start
        return seconds, kept, plain_logits(subject.chat, question)


def _reloaded(subject: Subject, question: str) -> tuple[float, None, F32]:
    start = time.perf_counter()
    llm = subject.chat.llm.reopened(lora_path=None)
    try:
        logits = plain_logits(subject.chat.like(llm), question)
        return time.perf_counter() - start, None, logits
    finally:
        llm.close()


def _speak(llm: SteeredLlama, prompt: Tokens, n: int) -> F32:
    """Generate n tokens, reusing the context as `generate` does; return the logits of the first."""
    seen: list[F32] = []

    def look(_: object, logits: F32) -> F32:
        if not seen:
            seen.append(np.array(logits, dtype=np.float32))
        return logits

    stream = llm.generate(list(prompt), temp=0.0, logits_processor=[look])
    for _, _token in zip(range(n), stream, strict=False):
        pass
    stream.close()
    return seen[0]


def _largest(a: F32, b: F32) -> float:
    return float(np.abs(a.astype(np.float64) - b).max())
