"""Chat templates of known model families, each with the same told piece by piece in Python.

Knows what belongs to whom: a Piece is a stretch of the rendered text and its owner. Data flow: messages ->
pieces, whose texts joined are what the Jinja template renders. Written from the families' documented
formats, shortened; knows nothing of edgesteer.

owners: "system" and "system end", "user", "open" (what opens an assistant turn), "reply" (its text, its end).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tests.tiny import CHATML, Specials

Messages = list[dict[str, str]]


class Piece(NamedTuple):
    owner: str
    text: str


class Family(NamedTuple):
    template: str
    specials: Specials
    pieces: Callable[[Messages], list[Piece]]
    system: str = "turn"
    """Where the system's words go: a "turn" of their own, "folded" into the user's, or "refused"."""


def _turns(
    start: str, end: str, after: str, names: dict[str, str] | None = None, bos: str = ""
) -> Callable[[Messages], list[Piece]]:
    """Pieces of a family whose turns all look alike: start(role), words, end, and what follows it."""

    def pieces(messages: Messages) -> list[Piece]:
        out = [Piece("user", bos)]
        for m in messages:
            role = m["role"]
            head = start.format((names or {}).get(role, role))
            if role == "assistant":
                out += [Piece("open", head), Piece("reply", m["content"] + end), Piece("user", after)]
            elif role == "system":
                out += [Piece("system", head + m["content"]), Piece("system end", end), Piece("user", after)]
            else:
                out.append(Piece("user", head + m["content"] + end + after))
        return [*out, Piece("open", start.format((names or {}).get("assistant", "assistant")))]

    return pieces


def _folded(pieces: Callable[[Messages], list[Piece]]) -> Callable[[Messages], list[Piece]]:
    """The system's words stand in front of the first user's."""

    def fold(messages: Messages) -> list[Piece]:
        if messages[0]["role"] == "system":
            first = {**messages[1], "content": messages[0]["content"] + "\n\n" + messages[1]["content"]}
            messages = [first, *messages[2:]]
        return pieces(messages)

    return fold


def _thinking(pieces: Callable[[Messages], list[Piece]]) -> Callable[[Messages], list[Piece]]:
    """The prompt opens the thoughts; of earlier replies they are not shown."""
    return lambda messages: [*pieces(messages), Piece("reply", "<think>\n")]


def _mistral(opened: str, closed: str, space: str) -> Callable[[Messages], list[Piece]]:
    """No generation prompt: what closes the question opens the reply."""

    def pieces(messages: Messages) -> list[Piece]:
        out = [Piece("user", "<s>")]
        for m in messages:
            if m["role"] == "user":
                out += [Piece("user", opened + m["content"]), Piece("open", closed)]
            else:
                out.append(Piece("reply", space + m["content"] + "</s>"))
        return out

    return pieces


def _deepseek(messages: Messages) -> list[Piece]:
    """The generation prompt also opens the thoughts, which history does not show."""
    out = [Piece("user", "<bos>")]
    for m in messages:
        if m["role"] == "assistant":
            out += [Piece("open", "<｜Assistant｜>"), Piece("reply", m["content"] + "<｜end▁of▁sentence｜>")]
        else:
            out.append(Piece("user", {"user": "<｜User｜>", "system": ""}[m["role"]] + m["content"]))
    return [*out, Piece("open", "<｜Assistant｜>"), Piece("reply", "<think>\n")]


_FOLD = (
    "{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}"
    "{% set loop_messages = messages[1:] %}{% else %}{% set first = '' %}{% set loop_messages = messages %}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}" + _FOLD + "{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + (first if loop.first else '') + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
LLAMA3 = (
    "{% for message in messages %}{{ (bos_token if loop.first else '') + '<|start_header_id|>' + message['role'] "
    "+ '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_MISTRAL = (
    "{{ bos_token }}{%% for message in messages %%}"
    "{%% if message['role'] == 'user' %%}{{ '%s' + message['content'] + '%s' }}"
    "{%% elif message['role'] == 'assistant' %%}{{ '%s' + message['content'] + eos_token }}"
    "{%% else %%}{{ raise_exception('Only user and assistant roles are supported!') }}{%% endif %%}{%% endfor %%}"
)
PHI3 = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
ZEPHYR = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)
DEEPSEEK = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ '<｜Assistant｜>' + message['content'] + eos_token }}"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}"
)
QWEN3 = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)

_IM = ("<|im_start|>{}\n", "<|im_end|>", "\n")
_LLAMA3 = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_S = ("<unk>", "<s>", "</s>")

FAMILIES = {
    "chatml": Family(CHATML, Specials(), _turns(*_IM)),
    "smollm2": Family(  # its beginning-of-text token is the one that opens a turn
        CHATML, Specials()._replace(bos="<|im_start|>"), _turns(*_IM)
    ),
    "qwen3": Family(
        QWEN3,
        Specials((*Specials().control, "<think>", "</think>"), "<|endoftext|>"),
        _thinking(_turns(*_IM)),
    ),
    "gemma": Family(
        GEMMA,
        Specials(("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<bos>", "<eos>"),
        _folded(_turns("<start_of_turn>{}\n", "<end_of_turn>", "\n", {"assistant": "model"}, "<bos>")),
        system="folded",
    ),
    "llama3": Family(
        LLAMA3,
        Specials(_LLAMA3, "<|begin_of_text|>", "<|eot_id|>"),
        _turns("<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>", "", bos="<|begin_of_text|>"),
    ),
    "mistral-v1": Family(
        _MISTRAL % ("[INST] ", " [/INST]", ""),
        Specials(_S, "<s>", "</s>"),
        _mistral("[INST] ", " [/INST]", ""),
        system="refused",
    ),
    "mistral-v3": Family(
        _MISTRAL % ("[INST] ", "[/INST]", " "),
        Specials((*_S, "[INST]", "[/INST]"), "<s>", "</s>"),
        _mistral("[INST] ", "[/INST]", " "),
        system="refused",
    ),
    "phi3": Family(
        PHI3,
        Specials(
            ("<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
            "<s>",
            "<|endoftext|>",
        ),
        _turns("<|{}|>\n", "<|end|>", "\n"),
    ),
    "zephyr": Family(ZEPHYR, Specials(_S, "<s>", "</s>"), _turns("<|{}|>\n", "</s>", "\n")),
    "deepseek": Family(
        DEEPSEEK,
        Specials(
            ("<bos>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"),
            "<bos>",
            "<｜end▁of▁sentence｜>",
        ),
        _deepseek,
        system="folded",
    ),
}
