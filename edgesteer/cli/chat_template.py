"""Whether a model can chat, and how long a conversation is in its template.

In:  a model, a conversation. Out: a function that counts tokens, or a refusal in one line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgesteer.cli.conversation import Conversation, Message
from edgesteer.errors import ModelError
from edgesteer.report.cells import visible

if TYPE_CHECKING:
    from edgesteer.runtime import SteeredLlama

Count = Callable[[list[Message]], int]


def check_template(llm: SteeredLlama, conversation: Conversation) -> Count:
    """Counts the tokens of messages in the model's chat template, with the reply's opening.

    Raises ModelError where the model has no template, or one that refuses this conversation's form.
    """
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    template = llm.metadata.get("tokenizer.chat_template")
    if not template:
        raise ModelError(
            f"{llm.model_path}: has no chat template (a base model?), expected one; take an instruct model, or "
            "complete text with `edgesteer run --raw`"
        )
    eos, bos = (_special(llm, token) for token in (llm.token_eos(), llm.token_bos()))

    def count(messages: list[Message]) -> int:
        told = formatter(messages=messages)  # type: ignore[arg-type]
        return len(llm.tokenize(told.prompt.encode(), add_bos=not told.added_special, special=True))

    try:
        formatter = Jinja2ChatFormatter(template, eos, bos)
        count(conversation.messages("hello"))
    except Exception as error:  # templates raise what they like
        what = "a conversation with a system message" if conversation.system else "a conversation"
        raise ModelError(
            f"{llm.model_path}: its chat template refuses {what} ({visible(str(error))}); leave --system out, "
            "or take another model"
        ) from None
    return count


def _special(llm: SteeredLlama, token: int) -> str:
    return llm.detokenize([token], special=True).decode("utf-8", errors="ignore") if token >= 0 else ""
