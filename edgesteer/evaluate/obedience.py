"""Whether instructions are still obeyed under steering: the share of `instructions` whose check passes.

In:  a Chat, the trait, rows of bundles; instructions.
Out: for each way to ask, the share obeyed, what changed since the unsteered model, and each reply.

Replies are greedy, with the repeat penalty of `edgesteer run`. One that the limit cut counts as it stands.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgesteer.errors import InputError
from edgesteer.evaluate.instructions import KINDS, Instruction, obeyed, read_instructions
from edgesteer.evaluate.shares import Share, ways_to_ask
from edgesteer.evaluate.table import named, plain_values
from edgesteer.evaluate.way import Sources
from edgesteer.generate import Chat
from edgesteer.generate.progress import Progress, Stages, no_progress

MAX_TOKENS = 128


@dataclass(frozen=True, slots=True)
class ObedienceRow:
    """How one way to ask does.

    strength: None if nothing steers. share: of the instructions that were obeyed. kinds: the number obeyed of
        each kind of check. cut: how many replies the limit cut.
    obeyed, replies: for each instruction, in order.
    """

    name: str
    strength: float | None
    share: Share
    kinds: Mapping[str, int]
    cut: int
    obeyed: tuple[bool, ...]
    replies: tuple[str, ...] = dataclasses.field(repr=False)


@dataclass(frozen=True, slots=True)
class Obedience:
    """A row for each way to ask; the first is unsteered. kinds: how many instructions have each kind."""

    prompts: tuple[str, ...]
    kinds: Mapping[str, int]
    max_tokens: int
    rows: tuple[ObedienceRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        out: dict[str, Any] = plain_values(dataclasses.asdict(self))
        return out

    def for_manifest(self, name: str) -> dict[str, Any]:
        """What the manifest of the row's bundle says as `evaluation.instructions`.

        Raises ValueError if there is no row of that name.
        """
        row, before = named(self.rows, name), self.rows[0].share
        return {"strength": row.strength, **row.share.for_manifest(before, len(self.prompts))}


def obedience(
    chat: Chat,
    trait: str | None,
    rows: Sequence[tuple[str, Sources]],
    *,
    items: Sequence[Instruction] | None = None,
    max_tokens: int = MAX_TOKENS,
    progress: Progress = no_progress,
) -> Obedience:
    """How many instructions are obeyed unsteered, with the trait as system prompt, and in each of the rows.

    rows: as for `head_to_head`. trait: None leaves the prompted row out. items: None for
    `read_instructions()`. The plan in force is set aside.
    Raises InputError for fewer than 8 instructions, an empty trait, a check that cannot be used, or a prompt
    that does not fit the context; IncompatibleError for a bundle of another model; SteeringOverflow.
    """
    items = read_instructions() if items is None else list(items)
    if max_tokens < 1:
        raise InputError(f"evaluation: max_tokens {max_tokens}, expected at least 1")
    for item in items:
        obeyed(item.check, "")  # refuses a wrong check before the minutes of work
    ways = ways_to_ask(chat, [item.prompt for item in items], trait, rows)
    stages = Stages(progress, len(ways))
    replies = [way.replies(chat, max_tokens, stages.enter(way.name)) for way in ways]
    progress("done", 1.0)
    texts = [tuple(chat.text(reply.tokens) for reply in each) for each in replies]
    passed = [[obeyed(i.check, text) for i, text in zip(items, each, strict=True)] for each in texts]
    return Obedience(
        prompts=tuple(item.prompt for item in items),
        kinds=_by_kind(items, [True] * len(items)),
        max_tokens=max_tokens,
        rows=tuple(
            ObedienceRow(
                name=way.name,
                strength=way.strength,
                share=Share.of(yes, passed[0]),
                kinds=_by_kind(items, yes),
                cut=sum(reply.end is None and len(reply.tokens) == max_tokens for reply in each),
                obeyed=tuple(yes),
                replies=text,
            )
            for way, each, text, yes in zip(ways, replies, texts, passed, strict=True)
        ),
    )


def _by_kind(items: Sequence[Instruction], yes: Sequence[bool]) -> dict[str, int]:
    """The number of yes of each kind that occurs, in the order of KINDS."""
    kinds = [item.check["kind"] for item in items]
    return {
        kind: sum(own == kind and passed for own, passed in zip(kinds, yes, strict=True))
        for kind in KINDS
        if kind in kinds
    }
