"""What the trait's system prompt costs, beside the bundles that act in its stead.

In:  a Chat on a context with room for the prompts; the trait; bundles. Out: by way its context tokens and their bytes
     in the KV cache, the file's bytes, seconds to the first token from an empty cache and of each further one at
     that depth, and both as ratios to the plain prompt's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from edgesteer.bundle import Bundle
from edgesteer.evaluate.bench.timing import Table, no_progress
from edgesteer.generate.chat import Chat
from edgesteer.evaluate.cost import Cost, added_tokens, costs
from edgesteer.evaluate.headtohead import held_out_questions
from edgesteer.generate.progress import Done
from edgesteer.evaluate.ways import PROMPT, UNSTEERED, Way, prompts_of

EMPTY = "empty system prompt"
_SECONDS = ("first_token_seconds", "token_seconds")


def beside_prompt(
    chat: Chat, trait: str, bundles: Mapping[str, Bundle], runs: int, progress: Done = no_progress
) -> Table:
    """{"trait", "trait_tokens", "replaces_default", "ways": {way: a Cost's fields, first_token_ratio, token_ratio}}:
    medians of `runs` measurements.

    trait_tokens: of the sentence alone. Some templates put a system prompt of their own where there is none, so that
    the plain prompt holds one too; then an empty one is timed as well. replaces_default: the trait's takes its place,
    and adds less than its own length, or nothing.
    Raises InputError for a prompt that the context cannot hold.
    """
    ways = _ways(chat, trait, bundles)
    found = []
    for i in range(runs):
        progress(i / runs)
        found.append(costs(chat, ways))
    rows = {
        way.name: _row([run[i] for run in found], [run[0] for run in found]) for i, way in enumerate(ways)
    }
    return {
        "trait": trait,
        "trait_tokens": len(chat.llm.tokenize(trait.encode(), add_bos=False)),
        "replaces_default": EMPTY in rows or added_tokens(ways[1].prompts, ways[0].prompts) <= 0,
        "ways": rows,
    }


def _ways(chat: Chat, trait: str, bundles: Mapping[str, Bundle]) -> list[Way]:
    asked = held_out_questions()
    plain, prompted = prompts_of(chat, asked, trait)
    ways = [Way(UNSTEERED, plain), Way(PROMPT, prompted)]
    empty = [chat.prompt(question, "") for question in asked]
    if added_tokens(empty, plain) < 0:
        ways.append(Way(EMPTY, empty))
    return ways + [Way(name, plain, bundle) for name, bundle in bundles.items()]


def _row(runs: Sequence[Cost], plain: Sequence[Cost]) -> Table:
    row: Table = asdict(runs[0])
    for name in _SECONDS:
        own = _known([getattr(run, name) for run in runs])
        base = _known([getattr(run, name) for run in plain])
        row[name] = float(np.median(own)) if own else None
        ratio = name.replace("seconds", "ratio")
        row[ratio] = (
            float(np.median(np.array(own) / np.array(base))) if own and len(own) == len(base) else None
        )
    return row


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]
