"""Which letter a model answers, unsteered and in every cell of a grid of blocks and strengths.

In:  Prompts, items; for each block a bundle with one vector; cells.
Out: int8 arrays of letters, OVERFLOWED if steering overflowed float32.

The answer is the letter with the highest logit at the prompt's last position, among those of the item's
choices. With scope `response` the prompt is decoded once, unsteered: an item's cells are lanes of one token
on copies of the same KV cache, each under its own plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from edgesteer.bundle import Bundle
from edgesteer.errors import SteeringOverflow
from edgesteer.generate.progress import Done, no_progress
from edgesteer.learn.part_file import PartFile
from edgesteer.learn.pas.items import Item
from edgesteer.learn.pas.prompts import F32, Prompts
from edgesteer.learn.pas.scores import I8, OVERFLOWED, Cell
from edgesteer.plan import SteeringPlan
from edgesteer.runtime import Lanes


def unsteered_answers(
    prompts: Prompts, items: Sequence[Item], known: PartFile, done: Done = no_progress
) -> I8:
    """The letters that the model answers, int8 [items]."""
    texts = [prompts.multiple_choice(item) for item in items]
    answers = np.zeros(len(items), dtype=np.int8)
    for group in prompts.chat.groups(texts, 0):
        part = slice(group.start, group.stop)
        facts = "unsteered", [(texts[i], len(items[i].choices)) for i in group]
        answers[part] = _known(known, facts, partial(_letters, prompts, items[part], texts[part]))
        done(group.stop / len(items))
    return answers


def steered_answers(
    prompts: Prompts,
    items: Sequence[Item],
    bundles: Mapping[int, Bundle],
    cells: Sequence[Cell],
    scope: str,
    known: PartFile,
    done: Done = no_progress,
) -> I8:
    """The letters that the model answers in each cell, int8 [items, cells].

    bundles: block -> its vector, at strength 1.
    scope: with `response` the cells share an item's unsteered prompt; otherwise each decodes its own.
    """
    plans = [SteeringPlan.of([(bundles[cell.block], cell.strength, scope)]) for cell in cells]
    names = [plan.fingerprint for plan in plans]

    def under_each(item: Item, text: list[int]) -> I8:
        facts = "steered", names, text, len(item.choices)
        return _known(known, facts, lambda: _under_cells(prompts, item, text, plans))

    def under_one(item: Item, text: list[int], plan: SteeringPlan) -> I8:
        facts = "steered", plan.fingerprint, text, len(item.choices)
        return _known(known, facts, lambda: _under_plan(prompts, item, text, plan))

    answers = np.zeros((len(items), len(cells)), dtype=np.int8)
    for i, item in enumerate(items):
        text = prompts.multiple_choice(item)
        if scope == "response":
            answers[i] = under_each(item, text)
        else:
            answers[i] = np.concatenate([under_one(item, text, plan) for plan in plans])
        done((i + 1) / len(items))
    return answers


def _known(known: PartFile, facts: tuple[object, ...], compute: Callable[[], I8]) -> I8:
    """The answers stored in `known` for these facts, or those of `compute()`, which are then stored.

    facts: everything that the answers depend on besides the file's own facts: the plans, each prompt's
        tokens, and its number of choices.
    """
    letters = known.get(repr(facts))
    if letters is None:
        letters = compute().tolist()
        known.put(repr(facts), letters)
    return np.array(letters, dtype=np.int8)


def _under_cells(prompts: Prompts, item: Item, text: list[int], plans: Sequence[SteeringPlan]) -> I8:
    """One item's letters, int8 [plans]: a lane for each plan, steered from the prompt's last token on."""
    answers = np.zeros(len(plans), dtype=np.int8)
    for first in range(0, len(plans), prompts.llm.n_seq_max):
        part = plans[first : first + prompts.llm.n_seq_max]
        with Lanes(prompts.llm, [text] * len(part), plans=part) as lanes:
            for i, logits in lanes.feed(dict.fromkeys(range(len(part)), text[-1:]), lenient=True):
                answers[first + i] = _letter(prompts, item, logits)
    return answers


def _under_plan(prompts: Prompts, item: Item, text: list[int], plan: SteeringPlan) -> I8:
    with prompts.llm.steered(plan):
        try:
            return _letters(prompts, [item], [text])
        except SteeringOverflow:
            return np.array([OVERFLOWED], dtype=np.int8)


def _letters(prompts: Prompts, items: Sequence[Item], texts: Sequence[list[int]]) -> I8:
    """The letters of several items under the plan in force, int8 [items]; each item has its own lane."""
    answers = np.zeros(len(items), dtype=np.int8)
    with Lanes(prompts.llm, texts) as lanes:
        for i, logits in lanes.feed({i: text[-1:] for i, text in enumerate(texts)}):
            answers[i] = _letter(prompts, items[i], logits)
    return answers


def _letter(prompts: Prompts, item: Item, logits: F32) -> int:
    """The index of the item's choice with the highest logit."""
    own = logits[prompts.letters[: len(item.choices)]]
    return int(np.argmax(own)) if np.isfinite(own).all() else OVERFLOWED
