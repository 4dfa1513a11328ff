"""A way to ask a model: with which prompts, under which steering.

In:  a Chat, questions, bundles with strengths. Out: Ways, each a frozen value. Decodes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from edgesteer.bundle import Bundle
from edgesteer.generate.chat import Chat, Tokens
from edgesteer.evaluate.dose import Dose
from edgesteer.runtime import SteeredLlama

UNSTEERED, PROMPT = "unsteered", "prompt"


@dataclass(frozen=True, slots=True)
class Way:
    """One way to ask. bundle None steers nothing. dose: how the strength was found; None where it was given."""

    name: str
    prompts: Sequence[Tokens]
    bundle: Bundle | None = None
    strength: float | None = None
    dose: Dose | None = None

    @property
    def kind(self) -> str:
        """What acts: "unsteered", "prompt", "constant", or a PSR on one block ("S-PSR") or several ("A-PSR")."""
        if self.bundle is None:
            return PROMPT if self.name == PROMPT else UNSTEERED
        if self.bundle.kind == "vector":
            return "constant"
        return "S-PSR" if len(self.bundle.layers) == 1 else "A-PSR"

    def steered(self, chat: Chat) -> AbstractContextManager[SteeredLlama]:
        """The way's steering in force, whatever the model's own is."""
        return chat.llm.steered([] if self.bundle is None else self.bundle, self.strength)


def prompts_of(chat: Chat, asked: Sequence[str], trait: str) -> tuple[list[list[int]], list[list[int]]]:
    """Of each question the plain prompt and the one with the trait."""
    return [chat.prompt(q) for q in asked], [chat.prompt(q, trait) for q in asked]
