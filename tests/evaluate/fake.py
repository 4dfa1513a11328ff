"""A chat without a model, whose replies carry the strength that steered them.

Coherence, distinct-2 and overflow are functions of the strength that the test gives.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from edgesteer.bundle import Bundle, ModelInfo
from edgesteer.errors import SteeringOverflow
from edgesteer.generate import Reply
from edgesteer.plan import SteeringPlan

LENGTH = 41
BUNDLE = Bundle.build(
    name="any", directions={1: np.ones(8, np.float32)}, model=ModelInfo("llama", "fake", 8, 4, "F32")
)
Law = Callable[[float], float]


class FakeLlama:
    def __init__(self) -> None:
        self.strength = 0.0

    @contextlib.contextmanager
    def steered(self, source: SteeringPlan | list[Any]) -> Iterator[None]:
        before = self.strength
        terms = source.terms if isinstance(source, SteeringPlan) else ()
        self.strength = sum(term.strength for term in terms)
        try:
            yield
        finally:
            self.strength = before


class FakeChat:
    """coherence(strength) in nats; different(strength): how many different tokens a reply of LENGTH has."""

    def __init__(
        self, coherence: Law, different: Law = lambda s: LENGTH, overflow_at: float = np.inf
    ) -> None:
        self.llm = FakeLlama()
        self.asked: list[float] = []
        self._coherence, self._different, self._overflow_at = coherence, different, overflow_at
        self._by_first: dict[int, float] = {}

    def replies(
        self,
        prompts: Sequence[Any],
        max_tokens: int,
        repeat_penalty: float = 1.0,
    ) -> list[Reply]:
        strength = self.llm.strength
        self.asked.append(strength)
        if strength >= self._overflow_at:
            raise SteeringOverflow("too much")
        first = 1000 + len(self.asked) * 100
        self._by_first[first] = strength
        n = max(1, int(self._different(strength)))
        tokens = [first + i % n for i in range(LENGTH)]
        return [Reply(tokens, np.zeros(LENGTH, np.float32)) for _ in prompts]

    def log_probs(self, told: Sequence[tuple[Any, Any]]) -> list[np.ndarray]:
        assert self.llm.strength == 0, "scored while steered"
        return [np.full(len(r), -self._coherence(self._by_first[r[0]]), np.float32) for _, r in told]
