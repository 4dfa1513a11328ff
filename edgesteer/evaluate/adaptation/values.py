"""What is measured of each way to adapt a model: frozen values, one class a criterion.

In:  numbers that `adaptation` measured. Out: values. Pure; `adaptation_scores` turns them into scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgesteer.evaluate.intervals import Estimate

UNADAPTED, LORA = "unadapted", "LoRA"


@dataclass(frozen=True, slots=True)
class Reversal:
    """Going back to the plain model after a reply.

    bitwise: whether the logits, computed anew, are those of the never adapted model bit for bit.
    largest_difference: in a logit, where they are not; else 0.
    seconds: from switching off to the plain prompt's next token, with what may be kept of the KV cache kept.
    kept_difference: in a logit, largest, of that next token; the other shape of the batches alone changes some, in
        the unadapted row too. None where nothing can be kept.
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
    """Of the replies to the questions, as in `measures`; trait0 and coherence0: the unadapted replies'.
    example: the first reply."""

    trait: Estimate
    coherence: Estimate
    distinct2: float
    trait0: float
    coherence0: float
    example: str


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds to the first token of a prompt and of each further one, and their ratios to the unadapted model in the
    same turns. reply_ratio: of a reply of the length asked for. own_context: measured in a second model."""

    first_token_seconds: float
    token_seconds: float
    first_token_ratio: float
    token_ratio: float
    reply_ratio: float
    own_context: bool


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes: of the file (for a prompt its text), of what is held of it in memory (directions in float32, gate,
    adapter), of the KV cache for the tokens that it adds (None where the model does not say).

    context_tokens: by how much prompts are longer than the plain ones; where the template has a system prompt of its
    own, the sentence takes its place, and this is less than the sentence has.
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
    """What it was learnt from. given_tokens: what a person wrote. replies, tokens: what the model wrote to learn from.
    tokens None: not stated. told: the source in words."""

    given_tokens: int | None
    replies: int | None
    tokens: int | None
    told: str


@dataclass(frozen=True, slots=True)
class Adapted:
    """One way to adapt the model, measured. kind: "unadapted", "prompt", "constant", "S-PSR", "A-PSR", "LoRA"."""

    name: str
    kind: str
    strength: float | None
    reversal: Reversal
    drift: Drift
    effect: Effect
    speed: Speed | None
    memory: Memory
    data: Data | None
