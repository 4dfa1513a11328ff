"""One-turn chats on a model: prompts in its own template, replies, and the log-probabilities of replies.

In:  a SteeredLlama that keeps the logits of every token (`logits_all=True`); questions; system prompts.
Out: token ids and natural log-probabilities.

Whatever steers the model at the moment acts here too: a reply's scope begins at the prompt's last token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from edgesteer.errors import LearnError
from edgesteer.runtime import SteeredLlama
from edgesteer.runtime.turns import read_turns

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Reply:
    """Token ids without the end-of-generation token, and under the model that spoke them their
    log-probabilities at temperature 1, in nats: float32 [len(tokens)]."""

    tokens: list[int]
    log_probs: F32


class Chat:
    """Asks a model and scores what was said.

    Raises LearnError where the model keeps the last token's logits alone, or a prompt with its reply
    does not fit into the context.
    """

    def __init__(self, llm: SteeredLlama) -> None:
        self.llm = llm
        self._ends = read_turns(llm).ends
        self._bos, self._eos = (self._special(t) for t in (llm.token_bos(), llm.token_eos()))
        if not llm._logits_all:
            raise LearnError(
                f"{llm.model_path}: loaded with the last token's logits alone, expected all of them; "
                "load it with logits_all=True"
            )

    def prompt(self, question: str, system: str | None = None) -> list[int]:
        """The prompt's tokens, up to where the reply begins.

        Without `system` the template's own default stays: the model as its users meet it. A template that
        refuses a system turn gets `system` in front of the question; a model without a template gets both
        as plain lines.
        """
        asked = {"role": "user", "content": question}
        if system is None:
            return self._render([asked], f"{question}\n")
        together = f"{system}\n\n{question}"
        try:
            return self._render([{"role": "system", "content": system}, asked], f"{together}\n")
        except ValueError:  # what a template's own raise_exception becomes
            return self._render([{"role": "user", "content": together}], f"{together}\n")

    def reply(
        self,
        prompt: Sequence[int],
        max_tokens: int,
        temperature: float = 0.0,
        rng: np.random.Generator | None = None,
    ) -> Reply:
        """A reply of at most `max_tokens`. Temperature 0 is greedy; any other needs `rng`."""
        self._check_room(len(prompt) + max_tokens)
        self.llm.reset()  # type: ignore[no-untyped-call]
        self.llm.eval(prompt)
        tokens: list[int] = []
        log_probs: list[np.float32] = []
        while len(tokens) < max_tokens:
            row = _log_softmax(self.llm.scores[self.llm.n_tokens - 1])
            token = _sample(row, temperature, rng)
            if self._ends(token):
                break
            tokens.append(token)
            log_probs.append(row[token])
            if len(tokens) < max_tokens:
                self.llm.eval([token], prompt_len=len(prompt))
        return Reply(tokens, np.array(log_probs, dtype=np.float32))

    def log_probs(self, prompt: Sequence[int], tokens: Sequence[int]) -> F32:
        """log p(token | prompt, the tokens before it) in nats: float32 [len(tokens)]."""
        self._check_room(len(prompt) + len(tokens))
        self.llm.reset()  # type: ignore[no-untyped-call]
        self.llm.eval([*prompt, *tokens], prompt_len=len(prompt))
        first = len(prompt) - 1
        rows = self.llm.scores[first : first + len(tokens)]
        return np.array(
            [_log_softmax(row)[token] for row, token in zip(rows, tokens, strict=True)], dtype=np.float32
        )

    def text(self, tokens: Sequence[int]) -> str:
        """The tokens as text; a character that the token limit cut in two is left out."""
        return self.llm.detokenize(list(tokens)).decode("utf-8", errors="ignore")

    def _render(self, messages: list[dict[str, str]], plain: str) -> list[int]:
        if self._formatter is None:
            return self.llm.tokenize(plain.encode())
        told = self._formatter(messages=messages)
        return self.llm.tokenize(told.prompt.encode(), add_bos=not told.added_special, special=True)

    @cached_property
    def _formatter(self):  # type: ignore[no-untyped-def]  # llama_cpp's protocol is not exported
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        template = self.llm.metadata.get("tokenizer.chat_template")
        return Jinja2ChatFormatter(template, self._eos, self._bos) if template else None

    def _special(self, token: int) -> str:
        return (
            self.llm.detokenize([token], special=True).decode("utf-8", errors="ignore") if token >= 0 else ""
        )

    def _check_room(self, n_tokens: int) -> None:
        room = min(self.llm.n_ctx(), len(self.llm.scores))  # llama.cpp rounds n_ctx up, llama_cpp does not
        if n_tokens > room:
            raise LearnError(
                f"{self.llm.model_path}: a prompt with its reply takes {n_tokens} tokens, expected at most "
                f"{room}; load it with a larger context, or give shorter questions and replies"
            )


def _log_softmax(logits: F32) -> F32:
    shifted = logits - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()), dtype=np.float32)


def _sample(log_probs: F32, temperature: float, rng: np.random.Generator | None) -> int:
    if temperature == 0:
        return int(log_probs.argmax())
    assert rng is not None
    cumulative = np.exp(log_probs.astype(np.float64) / temperature).cumsum()
    drawn = np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")
    return min(int(drawn), len(log_probs) - 1)
