"""The part of `edgesteer inspect` that runs a model: how large the bundles act on a real text.

In:  bundles with strengths, a model, a prompt.
Out: the prompt, the reply that the steered model begins, and the norm report over both.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgesteer.cli.opening import open_model, reply
from edgesteer.errors import ModelError, PlanError

if TYPE_CHECKING:
    from edgesteer.bundle import Bundle
    from edgesteer.norms import NormReport
    from edgesteer.runtime import SteeredLlama

QUESTION = "How do I make a good cup of tea?"
REPLY_TOKENS = 24
REPEAT_PENALTY = 1.1  # as `edgesteer run` has it, so that the reply is the one that it gives


@dataclass(frozen=True)
class Measured:
    """`reply` is the text of the tokens that follow the prompt in the report."""

    model: str
    prompt: str
    reply: str
    steering: str
    report: NormReport

    def to_json(self) -> dict[str, Any]:
        told = {"model": self.model, "prompt": self.prompt, "reply": self.reply, "steering": self.steering}
        return told | self.report.to_json()

    def render(self) -> str:
        from edgesteer.report import render_norms

        about = [("norms", f"of {self.steering} on {self.model}")]
        about += [("prompt", self.prompt.strip()), ("reply", self.reply.strip())]
        return render_norms(self.report, about=about)


def measure(
    bundles: list[tuple[Bundle, float]], model: str, prompt: str | None, n_threads: int | None
) -> Measured:
    """Steer MODEL, let it begin a greedy reply, and measure over prompt and reply.

    The prompt goes through the chat template where the model has one. The last token that is sampled
    is never evaluated, so it is not measured. Raises ModelError, IncompatibleError, PlanError.
    """
    asked = QUESTION if prompt is None else prompt
    with closing(open_model(model, n_threads=n_threads)) as llm:
        llm.steer(bundles)
        if not llm.steering:
            raise PlanError("nothing steers (strength 0?), expected something to measure; give FILE:STRENGTH")
        with llm.record() as seen:
            _begin_reply(llm, asked)
        report = llm.norms(seen.tokens, prompt_len=seen.n_prompt)
        return Measured(model, asked, "".join(seen.reply.pieces), repr(llm.steering), report)


def _begin_reply(llm: SteeredLlama, prompt: str) -> None:
    raw = "tokenizer.chat_template" not in llm.metadata
    greedy: dict[str, Any] = {"max_tokens": REPLY_TOKENS, "temperature": 0.0}
    try:
        for _ in reply(llm, prompt, raw=raw, repeat_penalty=REPEAT_PENALTY, **greedy):
            pass
    except (ModelError, ValueError) as error:  # more tokens than fit, or a template that refuses
        raise PlanError(f"the prompt cannot be measured: {error}; give another with -p TEXT") from None
