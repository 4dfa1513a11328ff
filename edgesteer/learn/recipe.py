"""The settings of learning that change the result, besides the sentence and the questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgesteer.errors import LearnError

METHODS = ("psr", "constant")
EMPHASIS = ("auto", "always", "never")
OBJECTIVES = ("kl", "ll", "mse")


def one_of(what: str, value: str, known: Sequence[str]) -> None:
    """Raise LearnError for a value that is not among `known`."""
    if value not in known:
        raise LearnError(f"{what} {value!r}: unknown, expected one of {', '.join(known)}")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to learn; immutable. Raises LearnError for values that cannot be used.

    method: "psr", a ReLU gate that computes each token's coefficient, or "constant".
    blocks: "all" (A-PSR, A-Const: each block adds what is still missing after those below), "one" (S-PSR,
        S-Const: the best single block adds what all blocks up to it would), or a block's number.
    scope: "response" (R) or "conversation" (QR).
    refine: the objective, one of OBJECTIVES, with which a trainer continues from the closed-form fit, or
        None; see `training.Trainer`.
    opposite: the opposite trait's sentence; the bundle then steers both ways.
    emphasis: "always" repeats the trait's sentence after each question when replies are sampled and
        activations captured, so that small models heed it; "never" uses it only as the system prompt; "auto"
        repeats it if the system prompt has little effect (`strength.HEEDED`). Trait and coherence are always
        measured with the system prompt alone.
    best_of: replies sampled for each question. max_tokens: of each reply. temperature: of the sampling.
    ridge, cap: see `fit.fit_relu`.
    coherence: the target in nats per token; None for the prompted replies' own.
    """

    method: str = "psr"
    blocks: str | int = "all"
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

    def __post_init__(self) -> None:
        one_of("method", self.method, METHODS)
        one_of("emphasis", self.emphasis, EMPHASIS)
        one_of("scope", self.scope, ("response", "conversation"))
        if self.refine is not None:
            one_of("refine", self.refine, OBJECTIVES)
        if not isinstance(self.blocks, int):
            one_of("blocks", self.blocks, ("all", "one"))
        if (
            min(self.max_tokens, self.best_of) < 1
            or self.seed < 0
            or not 0 <= self.temperature < float("inf")
        ):
            raise LearnError(
                f"max_tokens {self.max_tokens}, best_of {self.best_of}, seed {self.seed}, temperature "
                f"{self.temperature}: expected at least 1, 1, 0 and 0"
            )
        if self.best_of > 1 and self.temperature == 0:
            raise LearnError(
                f"best_of {self.best_of} at temperature 0: all replies to a question would be the same; "
                "expected a temperature above 0, or best_of 1"
            )
        if not 0 < self.ridge < float("inf") or (self.cap is not None and not self.cap > 0):
            raise LearnError(
                f"ridge {self.ridge}, cap {self.cap}: expected a ridge above 0, and a cap above 0 or none"
            )

    @property
    def label(self) -> str:
        """The method's name in the literature, such as A-PSR, or A-PSR+KL with a trainer."""
        name = ("A-" if self.blocks == "all" else "S-") + ("PSR" if self.method == "psr" else "Const")
        return name if self.refine is None else f"{name}+{self.refine.upper()}"
