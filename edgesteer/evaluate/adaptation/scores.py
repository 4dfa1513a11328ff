"""Steering as reversible adaptation: the criteria, how each was measured, and a score from 0 to 1 (1 best).

In:  what was measured of one way to adapt a model. Out: its scores. Pure.

The criteria are those by which adaptation methods are compared: what they achieve, what else they change, whether
they can be taken back, what they cost to run, to hold and to learn. Each score is a stated, monotone function of
the numbers beside it, and of nothing else, so a row does not depend on which other rows there are. The constants in
the scores are where 1/2 lies: a choice, and to be read as one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from edgesteer.evaluate.adaptation.values import UNADAPTED, Adapted

# Where each score is 1/2.
HALF_KL, HALF_TRAIT, HALF_COHERENCE = 0.1, 0.5, 0.5
REOPENED = 0.5
HALF_MEMORY, HALF_TOKENS = 0.01, 10_000


class Axis(NamedTuple):
    """name; what was measured, and how; the score in words, and as a function (None: not measured)."""

    name: str
    measured: str
    scored: str
    score: Callable[[Adapted], float | None]


def _falling(value: float, half: float) -> float:
    """1 at 0 and below, 1/2 at `half`, towards 0."""
    return 1.0 / (1.0 + max(0.0, value) / half)


def _reversibility(row: Adapted) -> float | None:
    if not row.reversal.bitwise:
        return 0.0
    return REOPENED if row.reversal.reloaded_bytes else 1.0


def _specificity(row: Adapted) -> float | None:
    return _known(row.drift.kl.value, lambda kl: _falling(kl, HALF_KL))


def _effect(row: Adapted) -> float | None:
    gained = row.effect.trait.value - row.effect.trait0
    return _known(gained, lambda gain: 1.0 - _falling(gain, HALF_TRAIT))


def _coherence(row: Adapted) -> float | None:
    lost = row.effect.coherence.value - row.effect.coherence0
    return _known(lost, lambda loss: _falling(loss, HALF_COHERENCE))


def _compute(row: Adapted) -> float | None:
    if row.speed is None:
        return None
    return _known(row.speed.reply_ratio, lambda ratio: min(1.0, 1.0 / ratio))


def _memory(row: Adapted) -> float | None:
    share = row.memory.share
    return None if share is None else _falling(share, HALF_MEMORY)


def _data(row: Adapted) -> float | None:
    if row.kind == UNADAPTED:
        return 1.0
    if row.data is None or row.data.tokens is None:
        return None
    return _falling(row.data.tokens + (row.data.given_tokens or 0), HALF_TOKENS)


def _known(value: float, score: Callable[[float], float]) -> float | None:
    return score(value) if math.isfinite(value) else None


AXES = (
    Axis(
        "reversibility",
        "After a reply the adaptation is switched off and the plain prompt asked again: are its logits, computed anew, "
        "those of the never adapted model bit for bit, and after how many seconds is its next token there, with the "
        "KV cache kept as far as it may be? A LoRA is undone by opening the model anew: llama_cpp.Llama has no public "
        "way to take an adapter off (llama.cpp's C interface and llama-server have one).",
        f"0 where the bits differ, {REOPENED:g} where the model must be opened anew, else 1; seconds do not count",
        _reversibility,
    ),
    Axis(
        "specificity",
        "KL(unadapted || adapted) of the next-token distributions, in nats a token, over passages that have nothing to "
        "do with the trait, read as the model's own reply while the adaptation is in force.",
        f"1 / (1 + KL / {HALF_KL:g})",
        _specificity,
    ),
    Axis(
        "effect",
        "trait: how much more the trait's prompt expects the greedy replies than the plain one does, in nats a token, "
        "under the unadapted model.",
        f"g / (g + {HALF_TRAIT:g}), g the trait gained over the unadapted replies, at least 0",
        _effect,
    ),
    Axis(
        "coherence",
        "How unlikely the same replies are to whichever of the two prompts expects them more, in nats a token, under "
        "the unadapted model; less is better. It does not see loops: read it beside distinct-2.",
        f"1 / (1 + loss / {HALF_COHERENCE:g}), loss by how much it is above that of the unadapted replies",
        _coherence,
    ),
    Axis(
        "compute",
        "Seconds to the first token and for each further one, as ratios to the unadapted model; a reply is the first "
        "token and as many more as were asked for. All ways take turns in one context; a LoRA needs a second model, "
        "and takes turns with the first, run by run.",
        "1 / ratio of a reply's seconds, at most 1",
        _compute,
    ),
    Axis(
        "memory",
        "Bytes held beside the model: directions in float32 and the gate's file, the adapter's file, and what the "
        "tokens that a prompt adds take in the KV cache of each sequence (none, where it is no longer than the system "
        "prompt of the template's own whose place it takes). ONNX Runtime itself (some 30 MB of code and state, see "
        "`edgesteer bench`) is not counted, nor that llama_cpp does not map a model's file "
        "into memory where it has an adapter.",
        f"1 / (1 + bytes / ({HALF_MEMORY:.0%} of the model file's))",
        _memory,
    ),
    Axis(
        "data",
        "Tokens that it was learnt from: those a person wrote, and those of the replies that the model wrote itself, "
        "as the bundle's manifest states them.",
        f"1 / (1 + tokens / {HALF_TOKENS})",
        _data,
    ),
)


def scores(row: Adapted) -> dict[str, float | None]:
    """By the axis' name; None where it was not measured, or its number is not stated."""
    return {axis.name: axis.score(row) for axis in AXES}
