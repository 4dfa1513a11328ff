"""What a vector costs where nobody asks for letters: free text, and questions of general knowledge.

In:  a model, a plan. Out: coherence and repetition of steered replies beside unsteered ones; control accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgesteer.bundle import Bundle
from edgesteer.errors import SteeringOverflow
from edgesteer.evaluate import held_out_questions
from edgesteer.generate import Chat, measures
from edgesteer.generate.chat import REPEAT_PENALTY, Reply
from edgesteer.generate.progress import Done, portion

_N_QUESTIONS, _MAX_TOKENS = 10, 48


@dataclass(frozen=True, slots=True)
class FreeText:
    """Means over greedy replies to held-out questions, nll0 and distinct2 as in `evaluate.measures`; None where
    steering left float32. sample: question, unsteered reply, steered reply."""

    nll0: tuple[float, float | None]
    distinct2: tuple[float, float | None]
    sample: tuple[str, str, str]

    def to_json(self) -> dict[str, Any]:
        def told(two: tuple[float, float | None]) -> dict[str, float | None]:
            before, after = two
            return {"before": round(before, 4), "after": None if after is None else round(after, 4)}

        return {
            "nll0": told(self.nll0),
            "distinct2": told(self.distinct2),
            "sample": dict(zip(("question", "before", "after"), self.sample, strict=True)),
        }


def free_text(chat: Chat, bundle: Bundle, strength: float, done: Done = lambda part: None) -> FreeText:
    questions = held_out_questions()[:_N_QUESTIONS]
    prompts = [chat.prompt(question) for question in questions]
    before = _replies(chat, prompts, portion(done, 0, 1, 2))
    try:
        with chat.llm.steered(bundle, strength):
            after = _replies(chat, prompts, portion(done, 1, 1, 2))
    except SteeringOverflow:
        nll, distinct2 = _measured(chat, prompts, before)
        return FreeText((nll, None), (distinct2, None), (questions[0], chat.text(before[0].tokens), ""))
    (nll, distinct2), (nll_after, distinct2_after) = (_measured(chat, prompts, r) for r in (before, after))
    sample = (questions[0], chat.text(before[0].tokens), chat.text(after[0].tokens))
    return FreeText((nll, nll_after), (distinct2, distinct2_after), sample)


def _replies(chat: Chat, prompts: Sequence[list[int]], done: Done) -> list[Reply]:
    return chat.replies(prompts, _MAX_TOKENS, repeat_penalty=REPEAT_PENALTY, progress=done)


def _measured(chat: Chat, prompts: Sequence[list[int]], replies: Sequence[Reply]) -> tuple[float, float]:
    told = [(prompt, reply.spoken) for prompt, reply in zip(prompts, replies, strict=True) if reply.spoken]
    log_probs = chat.log_probs(told)
    nll = [measures.nll(one) for one in log_probs]
    distinct2 = [measures.distinct(reply.tokens) for reply in replies if reply.spoken]
    return float(np.mean(nll)), float(np.mean(distinct2))
