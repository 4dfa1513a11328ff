"""The contrasts of PAS: which texts stand for what is wanted, which for what is not. And the vectors between them.

    v = mean over positives of h(last token) - mean over negatives of h(last token)      (unnormalised)

In:  training items, and the letters that the model answered. Out: a Contrast of token ids; float32 vectors.

PASf    the full multiple-choice prompts: of items answered right, of items answered wrong
iPASa   plain text: of items answered right with their target, of items answered wrong with the model's choice
iPASwo  plain text, the wrong items alone: each with its target, and with the model's choice
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgesteer.errors import LearnError
from edgesteer.generate.progress import Done, portion
from edgesteer.learn.pas.items import Item
from edgesteer.learn.pas.prompts import Asker
from edgesteer.runtime import Lanes

F32 = npt.NDArray[np.float32]

VARIANTS = ("iPASwo", "iPASa", "PASf")


@dataclass(frozen=True, slots=True)
class Contrast:
    """Token ids of the texts on either side; of both only the last token's activation counts."""

    positive: list[list[int]]
    negative: list[list[int]]


def contrast(asker: Asker, items: Sequence[Item], answered: Sequence[int], variant: str) -> Contrast:
    """answered: for each item the index of the choice that the model took.

    Raises LearnError where one side is empty: a model that answers everything right, or wrong.
    """
    pairs = list(zip(items, answered, strict=True))
    right = [item for item, answer in pairs if answer == item.answer]
    wrong = [(item, item.choices[answer]) for item, answer in pairs if answer != item.answer]
    _check(len(right), len(wrong), variant)
    if variant == "PASf":
        return Contrast([asker.prompt(item) for item in right], [asker.prompt(item) for item, _ in wrong])
    kept = right if variant == "iPASa" else [item for item, _ in wrong]
    return Contrast(
        [asker.plain(item, item.target) for item in kept],
        [asker.plain(item, choice) for item, choice in wrong],
    )


def _check(right: int, wrong: int, variant: str) -> None:
    if variant not in VARIANTS:
        raise LearnError(f"variant {variant!r}: unknown, expected one of {', '.join(VARIANTS)}")
    if not wrong:
        raise LearnError(
            f"the model answers all {right} training items right: there is nothing to learn from, as every variant "
            "sets wrong answers against right ones; give harder items, or another model"
        )
    if not right and variant != "iPASwo":
        raise LearnError(
            f"the model answers all {wrong} training items wrong, and {variant} needs some that are right; "
            "give --variant iPASwo, which does without"
        )


def vectors(
    asker: Asker, blocks: Sequence[int], found: Contrast, done: Done = lambda part: None
) -> dict[int, F32]:
    """Block -> float32 [n_embd], the contrast's vector at that block's output, by the unsteered model."""
    n, whole = len(found.positive), len(found.positive) + len(found.negative)
    positive = _mean(asker, blocks, found.positive, portion(done, 0, n, whole))
    negative = _mean(asker, blocks, found.negative, portion(done, n, whole - n, whole))
    return {block: (positive[i] - negative[i]).astype(np.float32) for i, block in enumerate(blocks)}


def _mean(
    asker: Asker, blocks: Sequence[int], texts: Sequence[list[int]], done: Done
) -> npt.NDArray[np.float64]:
    """float64 [blocks, n_embd]: mean of the texts' last tokens."""
    total = np.zeros((len(blocks), asker.llm.n_embd()))
    for group in asker.chat.groups(texts, 0):
        part = [texts[i] for i in group]
        with Lanes(asker.llm, part, blocks, [len(text) - 1 for text in part]) as lanes:
            lanes.run({i: text[-1:] for i, text in enumerate(part)})
            for i in range(len(part)):
                total += lanes.seen(i)[:, -1]
        done(group.stop / len(texts))
    return total / len(texts)
