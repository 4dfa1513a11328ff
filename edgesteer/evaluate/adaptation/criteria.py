"""The criteria by which adaptations of a model are compared: measured values, and scores from 0 to 1 (best).

They cover what an adaptation achieves, what else it changes, whether it can be undone, and what it costs to
run, to hold and to learn. Each score is a stated, monotone function of the numbers beside it and of nothing
else, so a row does not depend on the other rows. The constants say at which value a score is 1/2: they are a
choice, not a measurement. Pure values.
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

    bitwise: whether the logits, computed anew, equal those of the never adapted model bit for bit.
    largest_difference: the largest difference of a logit if they do not; else 0.
    seconds: from switching off to the plain prompt's next token, with as much of the KV cache as may be kept.
    kept_difference: the largest difference of a logit at that next token. Batches of another shape change
        some logits by themselves, also in the unadapted row. None if no cache can be kept.
    reloaded_bytes: size of the model file if it must be opened anew; else 0.
    """

    bitwise: bool
    largest_difference: float
    seconds: float
    kept_difference: float | None
    reloaded_bytes: int


@dataclass(frozen=True, slots=True)
class Drift:
    """How the next-token distributions on unrelated text differ from the unadapted model's.

    kl: mean KL(unadapted || adapted) in nats per token, with its interval over passages.
    by_passage: the same for each passage. tokens: how many were read.
    same_top: share of tokens at which both models rank the same token first.
    """

    kl: Estimate
    by_passage: Mapping[str, float]
    same_top: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Effect:
    """The measures of the replies (see `measures`). trait0, coherence0: the unadapted replies'.

    example: the first reply.
    """

    trait: Estimate
    coherence: Estimate
    distinct2: float
    trait0: float
    coherence0: float
    example: str


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds to the first token and for each further one, and their ratios to the unadapted model.

    reply_ratio: the ratio for a whole reply of `max_tokens`. own_context: whether a second model was needed.
    """

    first_token_seconds: float
    token_seconds: float
    first_token_ratio: float
    token_ratio: float
    reply_ratio: float
    own_context: bool


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of the file (for a prompt, of its text), of what is held in memory (directions in float32, gate,
    adapter), and of the KV cache for the tokens that it adds (None if the model does not say).

    context_tokens: by how much prompts are longer than plain ones. If the template has a default system
        prompt, the sentence replaces it, and this is less than the sentence's length.
    """

    artifact_bytes: int
    held_bytes: int
    kv_bytes: float | None
    context_tokens: float
    model_bytes: int

    @property
    def share(self) -> float | None:
        """The bytes held, as a share of the model's size."""
        return None if self.kv_bytes is None else (self.held_bytes + self.kv_bytes) / max(1, self.model_bytes)


@dataclass(frozen=True, slots=True)
class Data:
    """The data that it was learnt from, as `source` names it; None for numbers that are not stated.

    given_tokens: tokens that a person wrote. replies, tokens: what the model wrote itself.
    """

    given_tokens: int | None
    replies: int | None
    tokens: int | None
    source: str


@dataclass(frozen=True, slots=True)
class Adapted:
    """An adaptation, measured. kind: "unadapted", "LoRA", or as in Way."""

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
        """Axis name -> score; None if it was not measured, or its number is not stated."""
        return {axis.name: axis.score(self) for axis in AXES}


# The value at which each score is 1/2.
HALF_KL, HALF_TRAIT, HALF_COHERENCE = 0.1, 0.5, 0.5
REOPENED = 0.5
HALF_MEMORY, HALF_TOKENS = 0.01, 10_000


class Axis(NamedTuple):
    """A criterion: its name, what was measured and how, and the score, in words and as a function."""

    name: str
    measured: str
    scored: str
    score: Callable[[Adapted], float | None]


def _falling(value: float, half: float) -> float:
    """A score that is 1 up to 0, 1/2 at `half`, and falls towards 0."""
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
