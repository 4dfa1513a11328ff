"""Reversibility: interrupt an adapted reply, go back to the plain model, and look whether anything stayed behind.

In:  a Subject; the logits of the never adapted model. Out: a Reversal.

Anew means from an empty context: then the batches are the never adapted model's, and the same bits are to be
expected. With the KV cache kept as `generate` keeps it the batches have other shapes, which alone moves some bits.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np

from edgesteer.evaluate.adaptation.axes import Subject
from edgesteer.evaluate.adaptation.lora import opened_anew
from edgesteer.evaluate.adaptation.values import Reversal
from edgesteer.generate.chat import F32, Chat, Tokens
from edgesteer.runtime import Lanes, SteeredLlama

# Tokens of the reply that is interrupted, and how often.
_SPOKEN, _TIMES = 8, 3


def plain_logits(chat: Chat, question: str) -> F32:
    """float32 [n_vocab], of the first token of a reply to the plain prompt, computed anew."""
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
    reloaded = 0 if subject.lora is None else Path(subject.chat.llm.model_path).stat().st_size
    same = bool(np.array_equal(anew, never_adapted))
    return Reversal(
        same, difference, seconds, None if kept is None else _largest(kept, never_adapted), reloaded
    )


def _gone_back(subject: Subject, question: str) -> tuple[float, F32 | None, F32]:
    """Seconds until the plain model goes on; its logits there with the KV that it could keep, and computed anew."""
    llm, plain = subject.chat.llm, subject.chat.prompt(question)
    with llm.steered([]):  # what was in force returns at the end
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
    llm = opened_anew(subject.chat.llm)
    try:
        logits = plain_logits(Chat(llm, subject.chat.template, subject.chat.stop), question)
        return time.perf_counter() - start, None, logits
    finally:
        llm.close()


def _speak(llm: SteeredLlama, prompt: Tokens, n: int) -> F32:
    """Say n tokens, reusing of the context what `generate` reuses; the logits of the first."""
    seen: list[F32] = []

    def look(_: object, logits: F32) -> F32:
        if not seen:
            seen.append(np.array(logits, dtype=np.float32))
        return logits

    said = llm.generate(list(prompt), temp=0.0, logits_processor=[look])
    for _, _token in zip(range(n), said, strict=False):
        pass
    said.close()
    return seen[0]


def _largest(a: F32, b: F32) -> float:
    return float(np.abs(a.astype(np.float64) - b).max())
