"""The turn markers of a model's own chat template, as token ids.

In:  a loaded model with its template (Jinja, from the GGUF).
Out: scope.Turns. A template that cannot be rendered, or none, gives markers that match nothing:
     then only the prompt's end opens a response, and a conversation is all tokens.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import llama_cpp
import llama_cpp.llama_cpp as llama_h
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from edgesteer.scope import Turns

# Words that no template contains and every tokenizer keeps apart from markers.
_USER, _SYSTEM, _REPLY = "qwertyuser", "qwertysystem", "qwertyreply"


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

    def _tokens(self, text: str) -> tuple[int, ...]:
        return tuple(self._llama.tokenize(text.encode(), add_bos=False, special=True)) if text else ()

    def opening(self) -> tuple[int, ...]:
        """H: what add_generation_prompt appends, or what stands between a question and its reply."""
        plain, asked = self._render(("user", _USER)), self._render(("user", _USER), prompt=True)
        if plain and asked.startswith(plain) and len(asked) > len(plain):
            return self._tokens(asked[len(plain) :])
        told = self._render(("user", _USER), ("assistant", _REPLY))
        between = told.partition(_USER)[2].partition(_REPLY)[0]
        return self._tokens(between.strip())

    def system(self, ends: Any) -> tuple[int, ...]:
        """What opens a system turn; empty where the template puts the system's words elsewhere."""
        told = self._render(("system", _SYSTEM), ("user", _USER))
        before, found, after = told.partition(_SYSTEM)
        between, _, _ = after.partition(_USER)
        if not found or not any(ends(t) for t in self._tokens(between)):
            return ()
        return self._tokens(before.removeprefix(self._bos))
