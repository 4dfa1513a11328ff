"""The criteria by which ways to adapt a model are compared: measured values, and a score each from 0 to 1
(best).

They are what an adaptation achieves, what else it changes, whether it can be taken back, and what it costs to
run, to hold and to learn. Each score is a stated, monotone function of the numbers beside it and of nothing
else, so a row does not depend on which other rows there are. The constants in the scores are where 1/2 lies:
a choice, and to be read as one. Pure values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from edgesteer.evaluate.intervals import Estimate

UNADAPTED, LORA = "unadapted", "LoRA"


@dataclass(frozen=True, slots=True)
class Reversal:
    """Going back to the plain model after a reply.

    bitwise: whether the logits, computed anew, are those of the never adapted model bit for bit.
    largest_difference: in a logit, where they are not; else 0.
    seconds: from switching off to the plain prompt's next token, with what may be kept of the KV cache kept.
    kept_difference: in a logit, largest, of that next token; the other shape of the batches alone changes
        some, in the unadapted row too. None where nothing can be kept.
    reloaded_bytes: of the model file, where it must be opened anew; else 0.
    """

    bitwise: bool
    largest_difference: float
    seconds: float
    kept_difference: float | None
    reloaded_bytes: int


@dataclass(frozen=True, slots=True)
class Drift:
    """How the next-token distributions on unrelated text differ from the unadapted model's.

    kl: mean KL(unadapted || adapted) in nats a token, with its interval over passages. by_passage: of each.
    same_top: share of tokens at which both expect the same one most. tokens: read.
    """

    kl: Estimate
    by_passage: Mapping[str, float]
    same_top: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Effect:
    """Of the replies to the questions, as in `measures`; trait0, coherence0: the unadapted replies'.
    example: the first reply."""

    trait: Estimate
    coherence: Estimate
    distinct2: float
    trait0: float
    coherence0: float
    example: str


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds to the first token of a prompt and of each further one, and their ratios to the unadapted model
    in the same turns. reply_ratio: of a reply of the length asked for. own_context: measured in a second
    model."""

    first_token_seconds: float
    token_seconds: float
    first_token_ratio: float
    token_ratio: float
    reply_ratio: float
    own_context: bool


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes: of the file (for a prompt its text), of what is held of it in memory (directions in float32,
    gate, adapter), of the KV cache for the tokens that it adds (None where the model does not say).

    context_tokens: by how much prompts are longer than the plain ones; where the template has a system prompt
    of its own, the sentence takes its place, and this is less than the sentence has.
    """

    artifact_bytes: int
    held_bytes: int
    kv_bytes: float | None
    context_tokens: float
    model_bytes: int

    @property
    def share(self) -> float | None:
        """Of the model's size, what is held beside it."""
        return None if self.kv_bytes is None else (self.held_bytes + self.kv_bytes) / max(1, self.model_bytes)


@dataclass(frozen=True, slots=True)
class Data:
    """What it was learnt from, as `source` names it.

    given_tokens: what a person wrote. replies, tokens: what the model wrote to learn from; None: not stated.
    """

    given_tokens: int | None
    replies: int | None
    tokens: int | None
    source: str


@dataclass(frozen=True, slots=True)
class Adapted:
    """One way to adapt the model, measured. kind: "unadapted", "LoRA", or as in Way."""

    name: str
    kind: str
    strength: float | None
    reversal: Reversal
    drift: Drift
    effect: Effect
    speed: Speed | None
    memory: Memory
    data: Data | None

    @property
    def scores(self) -> dict[str, float | None]:
        """By the axis' name; None where it was not measured, or its number is not stated."""
        return {axis.name: axis.score(self) for axis in AXES}


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
        "After a reply the adaptation is switched off and the plain prompt asked again: are its logits, "
        "computed anew, those of the never adapted model bit for bit, and after how many seconds is its "
        "next token there, with the KV cache kept as far as it may be? A LoRA is undone by opening the "
        "model anew: llama_cpp.Llama has no public way to take an adapter off (llama.cpp's C interface and "
        "llama-server have one).",
        f"0 where the bits differ, {REOPENED:g} where the model must be opened anew, else 1; seconds do not "
        f"count",
        _reversibility,
    ),
    Axis(
        "specificity",
        "KL(unadapted || adapted) of the next-token distributions, in nats a token, over passages that have "
        "nothing to do with the trait, read as the model's own reply while the adaptation is in force.",
        f"1 / (1 + KL / {HALF_KL:g})",
        _specificity,
    ),
    Axis(
        "effect",
        "trait: how much more the trait's prompt expects the greedy replies than the plain one does, in "
        "nats a token, under the unadapted model.",
        f"g / (g + {HALF_TRAIT:g}), g the trait gained over the unadapted replies, at least 0",
        _effect,
    ),
    Axis(
        "coherence",
        "How unlikely the same replies are to whichever of the two prompts expects them more, in nats a "
        "token, under the unadapted model; less is better. It does not see loops: read it beside distinct-2.",
        f"1 / (1 + loss / {HALF_COHERENCE:g}), loss by how much it is above that of the unadapted replies",
        _coherence,
    ),
    Axis(
        "compute",
        "Seconds to the first token and for each further one, as ratios to the unadapted model; a reply is "
        "the first token and as many more as were asked for. All ways take turns in one context; a LoRA "
        "needs a second model, and takes turns with the first, run by run.",
        "1 / ratio of a reply's seconds, at most 1",
        _compute,
    ),
    Axis(
        "memory",
        "Bytes held beside the model: directions in float32 and the gate's file, the adapter's file, and "
        "what the tokens that a prompt adds take in the KV cache of each sequence (none, where it is no "
        "longer than the system prompt of the template's own whose place it takes). ONNX Runtime itself "
        "(some 30 MB of code and state, see `edgesteer bench`) is not counted, nor that llama_cpp does not "
        "map a model's file into memory where it has an adapter.",
        f"1 / (1 + bytes / ({HALF_MEMORY:.0%} of the model file's))",
        _memory,
    ),
    Axis(
        "data",
        "Tokens that it was learnt from: those a person wrote, and those of the replies that the model "
        "wrote itself, as the bundle's manifest states them.",
        f"1 / (1 + tokens / {HALF_TOKENS})",
        _data,
    ),
)
