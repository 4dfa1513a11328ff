"""How an item is put to a model: the multiple-choice prompt, its letters, and the plain texts of iPAS. Token ids out.

In:  Items, exemplars. Out: prompts whose last token predicts a letter; texts whose last token is a choice's.

The prompt is one chat turn, whose reply begins with the letter; exemplars stand in the same turn, so that no reply but
this one is in scope `response`. A model without a chat template gets the same as running text, in which the letter
follows a blank.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgesteer.errors import LearnError
from edgesteer.generate import Chat
from edgesteer.learn.pas.items import LETTERS, Item
from edgesteer.runtime import SteeredLlama


class Asker:
    """Items as a model's token ids.

    shots: items that are shown with their target's letter in front of every question.
    letters: the token of each of LETTERS where a reply begins.
    Raises LearnError for a tokenizer that has no token of its own for each letter.
    """

    def __init__(self, llm: SteeredLlama, shots: Sequence[Item] = ()) -> None:
        self.llm, self.shots = llm, tuple(shots)
        self.has_template = bool(llm.metadata.get("tokenizer.chat_template"))
        self.chat = Chat(llm, None if self.has_template else "{question}\n")
        self.letters = [self._letter(letter) for letter in LETTERS]
        if len(set(self.letters)) < len(LETTERS):
            raise LearnError(
                f"{llm.model_path}: its tokenizer has no token of its own for each letter A to Z, expected one; "
                "multiple choice cannot be asked of it"
            )

    def with_shots(self, shots: Sequence[Item]) -> Asker:
        return Asker(self.llm, shots)

    def prompt(self, item: Item) -> list[int]:
        """The whole multiple-choice prompt, up to where the letter comes."""
        told = "".join([*(f"{asked(shot)} {shot.letter}\n\n" for shot in self.shots), asked(item)])
        if self.has_template:
            return self.chat.render([{"role": "user", "content": told}])
        return self.llm.tokenize(told.encode())

    def plain(self, item: Item, choice: str) -> list[int]:
        """Question and one choice as running text, without options, letters or template."""
        return self.llm.tokenize(
            " ".join(part for part in (item.context, item.question, choice) if part).encode()
        )

    def _letter(self, letter: str) -> int:
        told = letter if self.has_template else f" {letter}"
        return self.llm.tokenize(told.encode(), add_bos=False)[-1]


def asked(item: Item) -> str:
    """The question as a person reads it, with its lettered choices."""
    choices = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, item.choices, strict=False)]
    return "\n".join([*([item.context, ""] if item.context else []), item.question, *choices, "", "Answer:"])
