"""A greedy reply that grows token by token, for decoding that `Chat.replies` does not do."""

from __future__ import annotations

import numpy as np

from edgesteer.errors import InputError
from edgesteer.generate import Chat, Reply
from edgesteer.generate.chat import penalised
from edgesteer.generate.measures import F32, log_prob


class Draft:
    """A greedy reply while it grows."""

    def __init__(self, chat: Chat, repeat_penalty: float) -> None:
        self._chat, self._penalty = chat, repeat_penalty
        self.tokens: list[int] = []
        self._log_probs: list[float] = []
        self._end: int | None = None

    def add(self, logits: F32) -> bool:
        """Take the likeliest token; False if the reply ends here."""
        weighed = logits if self._penalty == 1.0 else penalised(logits, self.tokens, self._penalty)
        token = int(weighed.argmax())
        self._log_probs.append(log_prob(logits, token))
        if self._chat.ends(token):
            self._end = token
            return False
        self.tokens.append(token)
        return not self._chat.ended_by(self.tokens)

    def reply(self) -> Reply:
        tokens = list(self.tokens)
        while self._chat.ended_by(tokens):
            tokens.pop()
        n = len(tokens) + (self._end is not None)
        return Reply(tokens, np.array(self._log_probs[:n], dtype=np.float32), self._end)


def require_sequences(chat: Chat, what: str) -> None:
    if chat.llm.n_seq_max < 2:
        raise InputError(
            f"{chat.llm.model_path}: {what} takes two sequences, found one; open it with n_seq_max=2 or more"
        )
