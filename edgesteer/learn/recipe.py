"""Everything about a learning, besides its sentence and its questions, that changes the result.

In:  a person's choices. Out: a Recipe that holds together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgesteer.errors import LearnError
from edgesteer.learn.methods import Options

METHODS = ("psr", "constant")
FITS = ("local", "sequential")
EMPHASIS = ("auto", "always", "never")
OBJECTIVES = ("kl", "ll", "mse")


def one_of(what: str, value: str, known: Sequence[str]) -> None:
    """Raises LearnError for a value that is not known."""
    if value not in known:
        raise LearnError(f"{what} {value!r}: unknown, expected one of {', '.join(known)}")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to learn; immutable. Raises LearnError for values that cannot be.

    method: "psr", a gate for every token, or "constant".
    blocks: "all" (A-PSR, A-Const: local deltas), "one" (S-PSR, S-Const: the accumulated delta at the block that
        serves best), or a block's number.
    gate: "relu", the paper's probe, or "mlp:K", a hidden layer of K units.
    direction: of a constant: "mean" or "pca" of the deltas.
    fit: "local" (teacher-forced, one pass), or "sequential" (block after block on the steered model: a pass
        each).
    scope: "response" (R) or "conversation" (QR).
    refine: an objective in OBJECTIVES for a trainer to go on from the closed-form fit with, or None; see
        `stages.Trainer`.
    emphasis: "always" samples replies, and takes activations, with the trait's sentence behind the question too,
        so that small models heed it; "never" has it as system prompt alone; "auto" emphasises where the system
        prompt hardly acts (see `stages.emphasised`). Trait and coherence are always measured by the system
        prompt.
    best_of: replies sampled for each question.
    ridge, cap: see methods.Options.
    coherence: the target in nats a token; None for the prompted replies' own.
    prune: leave out blocks that the likelihood of prompted replies does not miss.
    """

    method: str = "psr"
    blocks: str | int = "all"
    gate: str = "relu"
    direction: str = "mean"
    fit: str = "local"
    refine: str | None = None
    scope: str = "response"
    opposite: str | None = None
    emphasis: str = "auto"
    best_of: int = 1
    max_tokens: int = 48
    temperature: float = 0.7
    ridge: float = 0.3
    cap: float | None = 4.0
    seed: int = 0
    coherence: float | None = None
    prune: bool = False

    def __post_init__(self) -> None:
        one_of("method", self.method, METHODS)
        one_of("fit", self.fit, FITS)
        one_of("emphasis", self.emphasis, EMPHASIS)
        if self.refine is not None:
            one_of("refine", self.refine, OBJECTIVES)
        one_of("scope", self.scope, ("response", "conversation"))
        one_of("direction", self.direction, ("mean", "pca"))
        if not isinstance(self.blocks, int):
            one_of("blocks", self.blocks, ("all", "one"))
        if self.max_tokens < 1 or not 0 <= self.temperature < float("inf") or self.best_of < 1:
            raise LearnError(
                f"max_tokens {self.max_tokens}, temperature {self.temperature}, best_of {self.best_of}: "
                "expected at least 1, 0 and 1"
            )
        self.fitting  # noqa: B018 - refuses a gate that it does not know

    @property
    def fitting(self) -> tuple[str, Options]:
        """The name in `methods.METHODS`, and its options."""
        if self.method == "constant":
            return f"constant_{self.direction}", Options(ridge=self.ridge, seed=self.seed, cap=self.cap)
        kind, _, width = self.gate.partition(":")
        if kind == "mlp" and width.isdecimal() and int(width) >= 2:
            return "psr_mlp", Options(ridge=self.ridge, seed=self.seed, cap=self.cap, hidden=int(width))
        if self.gate != "relu":
            raise LearnError(f"gate {self.gate!r}: unknown, expected 'relu' or 'mlp:K' with K at least 2")
        return "psr_relu", Options(ridge=self.ridge, seed=self.seed, cap=self.cap)
