"""The turn markers of a model's own chat template, as token ids.

In:  a loaded model with its template (Jinja, from the GGUF).
Out: scope.Turns. A template that cannot be rendered, or none, gives markers that match nothing:
     then only the prompt's end opens a response, and a conversation is all tokens.

Markers are cut out of whole rendered chats, as tokens: a marker of plain words is tokenized otherwise
where it stands alone, and its edges may merge with what stands beside it.
"""

from __future__ import annotations

from functools import lru_cache, reduce
from itertools import takewhile
from typing import Any

import llama_cpp
import llama_cpp.llama_cpp as llama_h
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from edgesteer.scope import Turns

# Words that no template contains. Questions end and replies begin with different kinds of characters, so
# that what a tokenizer merges with a marker's edges shows.
_USERS, _REPLIES = (
    ("qwertyuser", "qwertyuser.", "qwertyuser 7"),
    ("qwertyreply", "the qwertyreply", "7 qwertyreply"),
)
_SYSTEM, _NEXT = "qwertysystem", "qwertynext"

# Fewer characters than this, without a control token, could turn up in anyone's words.
_TELLING = 4

Ids = tuple[int, ...]


def read_turns(llama: llama_cpp.Llama) -> Turns:
    vocab = llama._model.vocab

    @lru_cache(maxsize=4096)
    def ends(token: int) -> bool:
        return bool(llama_h.llama_vocab_is_eog(vocab, token))

    template = llama.metadata.get("tokenizer.chat_template")
    if not template:
        return Turns(ends=ends)
    words = _Template(llama, template)
    return Turns(words.opening(), words.system(ends), ends)


def _start(a: Ids, b: Ids) -> Ids:
    """What both begin with."""
    return tuple(x for x, _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _end(a: Ids, b: Ids) -> Ids:
    """What both end with."""
    return _start(a[::-1], b[::-1])[::-1]


class _Template:
    def __init__(self, llama: llama_cpp.Llama, template: str) -> None:
        self._llama = llama
        bos, eos = llama.token_bos(), llama.token_eos()
        self._bos = llama._model.token_get_text(bos) if bos >= 0 else ""
        eos_text = llama._model.token_get_text(eos) if eos >= 0 else ""
        self._formats = {
            prompt: Jinja2ChatFormatter(template, eos_text, self._bos, add_generation_prompt=prompt)
            for prompt in (True, False)
        }

    def _render(self, *turns: tuple[str, str], prompt: bool = False) -> str:
        messages: Any = [{"role": role, "content": text} for role, text in turns]
        try:
            return self._formats[prompt](messages=messages).prompt
        except Exception:  # templates raise what they like, some for a missing or unwanted turn
            return ""

    def _tokens(self, text: str) -> Ids:
        return tuple(self._llama.tokenize(text.encode(), add_bos=False, special=True)) if text else ()

    def _up_to(self, text: str, stop: int) -> Ids:
        """The tokens of `text` that end before character `stop`, whatever follows it."""
        return _start(self._tokens(text), self._tokens(text[:stop]))

    def _tells(self, marker: Ids) -> bool:
        vocab = self._llama._model.vocab
        if any(llama_h.llama_vocab_is_control(vocab, t) for t in marker):
            return True
        return len(self._llama.detokenize(list(marker)).strip()) >= _TELLING

    def opening(self) -> Ids:
        """H: what opens an assistant turn, in a chat so far as in the prompt for the next reply."""
        common = reduce(_end, [self._opening_after(user) for user in _USERS])
        return common if self._tells(common) else ()

    def _opening_after(self, user: str) -> Ids:
        prompt = self._tokens(self._render(("user", user), prompt=True))
        shared = len(_start(prompt, self._tokens(self._render(("user", user)))))
        question, history = self._history(user)
        if not history:  # the template shows no reply that it did not write itself
            return prompt[shared:] if shared else ()
        if shared == len(prompt) or history[:shared] != prompt[:shared]:  # no generation prompt to compare
            return history[question:]
        # History may leave out what the prompt begins for the model, such as its thoughts.
        return _start(history[shared:], prompt[shared:]) or history[shared:]

    def _history(self, user: str) -> tuple[int, Ids]:
        """(tokens up to the question's end, all tokens before its reply); no tokens without a reply."""
        texts = [(self._history_text(user, reply), reply) for reply in _REPLIES]
        if not all(reply in text and user in text for text, reply in texts):
            return 0, ()
        before = [self._up_to(text, text.rfind(reply)) for text, reply in texts]
        first = texts[0][0]
        return len(self._up_to(first, first.index(user) + len(user))), reduce(_start, before)

    def _history_text(self, user: str, reply: str) -> str:
        """A reply with the next question behind it: of the last reply some templates show more."""
        turns = ("user", user), ("assistant", reply)
        return self._render(*turns, ("user", _NEXT)) or self._render(*turns)

    def system(self, ends: Any) -> Ids:
        """What opens a system turn; empty where the template puts the system's words elsewhere."""
        chat = self._render(("system", _SYSTEM), ("user", _USERS[0]))
        _, marker, after = chat.partition(_SYSTEM)
        between, _, _ = after.partition(_USERS[0])
        if not marker or not any(ends(t) for t in self._tokens(between)):
            return ()
        if self._bos not in after:  # where it opens the user's turn too, it is part of the marker
            chat = chat.removeprefix(self._bos)
        return self._up_to(chat, chat.index(_SYSTEM))
