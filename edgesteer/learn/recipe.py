"""The settings of learning that change the result, besides the sentence and the questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgesteer.errors import LearnError

METHODS = ("psr", "constant")


@dataclass(frozen=True, slots=True)
class Effort:
    """How much time learning takes.

    questions: built-in training questions, unless others are given.
    steps: of a Trainer, on the prompted model's replies, then on those and the steered model's own. (0, 0):
        no training.
    measured: questions that the strength is chosen on, at most.
    """

    questions: int
    steps: tuple[int, int]
    measured: int

    @property
    def trains(self) -> bool:
        return sum(self.steps) > 0


# With SmolLM2-135M on two cores about 1, 6 and 15 minutes.
EFFORTS = {
    "quick": Effort(32, (0, 0), 10),
    "normal": Effort(80, (60, 100), 24),
    "thorough": Effort(200, (120, 220), 36),
}


def one_of(what: str, value: str, known: Sequence[str]) -> None:
    """Raise LearnError for a value that is not among `known`."""
    if value not in known:
        raise LearnError(f"{what} {value!r}: unknown, expected one of {', '.join(known)}")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to learn; immutable. Raises LearnError for values that cannot be used.

    effort: a name in EFFORTS.
    method: "psr", a ReLU gate that computes each token's coefficient, or "constant".
    blocks: "all" (A-PSR, A-Const: each block adds what is still missing after those below), "one" (S-PSR,
        S-Const: the best single block adds what all blocks up to it would), or a block's number.
    scope: "response" (R) or "conversation" (QR).
    opposite: the opposite trait's sentence; the bundle then steers both ways.
    max_tokens: of each reply. temperature: of the sampling.
    ridge, cap: of the closed form, see `fit.fit_relu`.
    coherence: the target in nats per token; None for `evaluate.dose`'s.
    """

    effort: str = "normal"
    method: str = "psr"
    blocks: str | int = "all"
    scope: str = "response"
    opposite: str | None = None
    max_tokens: int = 32
    temperature: float = 0.7
    ridge: float = 0.3
    cap: float | None = 4.0
    seed: int = 0
    coherence: float | None = None

    def __post_init__(self) -> None:
        one_of("effort", self.effort, tuple(EFFORTS))
        one_of("method", self.method, METHODS)
        one_of("scope", self.scope, ("response", "conversation"))
        if not isinstance(self.blocks, int):
            one_of("blocks", self.blocks, ("all", "one"))
        if self.max_tokens < 1 or self.seed < 0 or not 0 <= self.temperature < float("inf"):
            raise LearnError(
                f"max_tokens {self.max_tokens}, seed {self.seed}, temperature {self.temperature}: expected "
                "at least 1, 0 and 0"
            )
        if not 0 < self.ridge < float("inf") or (self.cap is not None and not self.cap > 0):
            raise LearnError(
                f"ridge {self.ridge}, cap {self.cap}: expected a ridge above 0, and a cap above 0 or none"
            )

    @property
    def label(self) -> str:
        """The method's name in the literature, such as A-PSR."""
        return ("A-" if self.blocks == "all" else "S-") + ("PSR" if self.method == "psr" else "Const")
