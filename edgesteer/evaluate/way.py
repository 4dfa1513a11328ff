"""A way to ask a model: the prompts, and the steering."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import count

from edgesteer.bundle import Bundle
from edgesteer.errors import InputError
from edgesteer.generate import REPEAT_PENALTY, Chat, Reply, Tokens
from edgesteer.generate.progress import Done, no_progress
from edgesteer.plan import SteeringPlan
from edgesteer.runtime import SteeredLlama

UNSTEERED, PROMPT = "unsteered", "prompt"

Sources = Sequence[tuple[Bundle, float]]
"""Bundles, each with its strength, whose effects add up."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to ask.

    unit: the plan that `strength` multiplies; None steers nothing. A single bundle has strength 1 in it, so
        `strength` is the bundle's; several bundles have their given strengths in it, and `strength` is 1.
    """

    name: str
    prompts: Sequence[Tokens]
    unit: SteeringPlan = field(default_factory=SteeringPlan)
    strength: float | None = None

    @classmethod
    def of(cls, name: str, prompts: Sequence[Tokens], sources: Sequence[tuple[Bundle, float | None]]) -> Way:
        """The way with all of these bundles in force; a strength of None is the bundle's default."""
        if len(sources) != 1:
            return cls(name, prompts, SteeringPlan.of((b, s, None) for b, s in sources), 1.0)
        ((bundle, strength),) = sources
        unit = SteeringPlan.of([(bundle, 1.0, None)])
        return cls(name, prompts, unit, bundle.strength.default if strength is None else strength)

    @property
    def bundles(self) -> tuple[Bundle, ...]:
        return tuple(term.bundle for term in self.unit.terms)

    @property
    def plan(self) -> SteeringPlan:
        """The plan in force: `unit * strength`."""
        return self.unit if self.strength is None else self.unit * self.strength

    @property
    def sources(self) -> tuple[tuple[str, float], ...]:
        """Names and strengths of the bundles in force."""
        return tuple((term.bundle.name, term.strength * (self.strength or 0.0)) for term in self.unit.terms)

    @property
    def kind(self) -> str:
        """The kind of steering: "unsteered", "prompt", "constant", "S-PSR" (one block), "A-PSR" (several), or
        "sum" for several bundles that are not all constant."""
        if not self.unit:
            return PROMPT if self.name == PROMPT else UNSTEERED
        if all(bundle.kind == "vector" for bundle in self.bundles):
            return "constant"
        if len(self.bundles) > 1:
            return "sum"
        return "S-PSR" if len(self.unit.layers) == 1 else "A-PSR"

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and highest strength, at least 0, at which each bundle is within its file's range. If
        the ranges have nothing in common, both are the lowest upper end."""
        lowest, highest = [], []
        for term in self.unit.terms:
            ends = sorted(end / term.strength for end in (term.bundle.strength.min, term.bundle.strength.max))
            lowest.append(ends[0])
            highest.append(ends[1])
        hi = min(highest)
        return min(max(0.0, *lowest), hi), hi

    @property
    def held(self) -> Sequence[Tokens]:
        """For each prompt, the tokens that are in the context before its reply."""
        return self.prompts

    @property
    def has_strengths(self) -> bool:
        """Whether another strength gives other replies."""
        return bool(self.plan)

    def steered(self, chat: Chat) -> AbstractContextManager[SteeredLlama]:
        """A context in which the way's plan is in force instead of the model's own."""
        return chat.llm.steered(self.plan)

    def replies(self, chat: Chat, max_tokens: int, progress: Done = no_progress) -> list[Reply]:
        """Greedy replies to the prompts, with the repeat penalty of `edgesteer run`."""
        with self.steered(chat):
            return chat.replies(self.prompts, max_tokens, repeat_penalty=REPEAT_PENALTY, progress=progress)


def require_trait(trait: str) -> None:
    """Raises InputError for an empty trait."""
    if not trait.strip():
        raise InputError(
            "evaluation: the trait is empty, expected a sentence to compare with as system prompt"
        )


def prompts_of(chat: Chat, questions: Sequence[str], trait: str) -> tuple[list[list[int]], list[list[int]]]:
    """The plain prompts of the questions, and those with the trait."""
    return [chat.prompt(q) for q in questions], [chat.prompt(q, trait) for q in questions]


def labels(rows: Sequence[Sources]) -> list[str]:
    """A unique name for each row: its bundle's, or "a 1 + b 0.5" for several; where two would be equal, with
    the strength, then with a number."""
    short = [" + ".join(_named(one, len(row) > 1) for one in row) for row in rows]
    often = Counter([UNSTEERED, PROMPT, *short])
    taken, out = {UNSTEERED, PROMPT}, []
    for row, name in zip(rows, short, strict=True):
        if often[name] > 1:
            name = " + ".join(_named(one, True) for one in row)
        numbered = (f"{name} ({i})" for i in count(2))
        out.append(name if name not in taken else next(other for other in numbered if other not in taken))
        taken.add(out[-1])
    return out


def _named(source: tuple[Bundle, float], with_strength: bool) -> str:
    bundle, strength = source
    return f"{bundle.name} {strength:g}" if with_strength else bundle.name
