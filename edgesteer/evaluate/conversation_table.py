"""The result of scripted conversations: for each way to ask, measures turn by turn and over all turns.

In:  for each way, float64 [scripts, turns] a measure, NaN where there is no reply. Out: Estimates, with
     intervals over the scripts. Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesteer.evaluate.intervals import Estimate, Sample, difference, estimate
from edgesteer.evaluate.table import Judging, named, plain_values

F64 = npt.NDArray[np.float64]

BEGINNING = 8
"""How many words of two replies must be the same for them to begin alike."""

REPEATS = ("equal", "equal_before", "begins", "begins_before")
MEASURES = ("trait", "coherence", "distinct2", "words", *REPEATS)


@dataclass(frozen=True, slots=True, eq=False)
class Talk:
    """The conversations of one way to ask.

    replies: [scripts][turns], fewer where one ended early; notes: why. values: by measure, float64 [scripts,
    turns].
    """

    name: str
    strength: float | None
    sources: tuple[tuple[str, float], ...]
    replies: tuple[tuple[str, ...], ...]
    values: Mapping[str, F64]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConversationRow:
    """Means over the scripts of one way to ask, each with its 95 % interval over the scripts.

    turns: by measure, one Estimate a turn: coherence and distinct2 as in `generate.measures`; trait
        too, but behind the turn's question alone, since earlier replies predict it by themselves; words;
        equal, the share of replies equal to any earlier one of their conversation, and begins, that begin
        like one (both also with _before: like the one just before); and what a judge gives.
    minus_prompt: the same as difference to the prompted row, paired by script.
    over_turns: by measure, over all turns; over_turns_minus_prompt: as difference.
    trait_kept: the trait in the last turn, as a share of the first. of_prompt: as a share of the prompt's in
        the last turn. Both NaN where that is not above 0, and without an interval where its own holds 0.
    n_replies, n_equal, n_begin_alike, n_empty: counts of replies. notes: scripts that ended early, and why.
    """

    name: str
    strength: float | None
    sources: tuple[tuple[str, float], ...]
    turns: Mapping[str, tuple[Estimate, ...]]
    minus_prompt: Mapping[str, tuple[Estimate, ...]]
    over_turns: Mapping[str, Estimate]
    over_turns_minus_prompt: Mapping[str, Estimate]
    trait_kept: Estimate
    of_prompt: Estimate
    n_replies: int
    n_equal: int
    n_begin_alike: int
    n_empty: int
    notes: tuple[str, ...]
    replies: tuple[tuple[str, ...], ...] = dataclasses.field(repr=False)


@dataclass(frozen=True, slots=True)
class ConversationTable:
    """A row for each way to ask; the first two are unsteered and prompted.

    questions: [scripts][turns]. judge: None without one.
    """

    trait: str
    scripts: tuple[str, ...]
    turns: int
    max_tokens: int
    temperature: float
    rows: tuple[ConversationRow, ...]
    questions: tuple[tuple[str, ...], ...] = ()
    judge: Judging | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values; NaN becomes None."""
        out: dict[str, Any] = plain_values(dataclasses.asdict(self))
        return out

    def for_manifest(self, name: str) -> dict[str, Any]:
        """What the manifest of the row's bundle says as `evaluation.conversations`.

        Raises ValueError if there is no row of that name.
        """
        row = named(self.rows, name)
        return {
            "scripts": len(self.scripts),
            "turns": self.turns,
            "temperature": self.temperature,
            "strength": row.strength,
            "trait_kept": row.trait_kept.for_manifest(),
            "trait_of_the_prompts": row.of_prompt.for_manifest(),
            "coherence_minus_prompt": row.over_turns_minus_prompt["coherence"].for_manifest(),
            "replies": row.n_replies,
            "equal": row.n_equal,
            "begin_alike": row.n_begin_alike,
        }


def repeats(replies: Sequence[str]) -> dict[str, list[float]]:
    """For each reply of one conversation, by the names in REPEATS, 1 or 0: whether it equals an earlier one,
    or has the same first BEGINNING words.

    Case and blanks are ignored. Sees what a person would call the same answer again only where the words
    are the same. An empty reply repeats nothing.
    """
    texts = [text.casefold().split() for text in replies]
    out: dict[str, list[float]] = {name: [] for name in REPEATS}
    for i, own in enumerate(texts):
        equal = [bool(own) and own == other for other in texts[:i]]
        begins = [bool(own) and own[:BEGINNING] == other[:BEGINNING] for other in texts[:i]]
        for name, hits in (("equal", equal), ("begins", begins)):
            out[name].append(float(any(hits)))
            out[f"{name}_before"].append(float(any(hits[-1:])))
    return out


def table_of(
    trait: str,
    scripts: Sequence[str],
    turns: int,
    max_tokens: int,
    temperature: float,
    talks: Sequence[Talk],
) -> ConversationTable:
    """The table; talks[1] is what the others are compared with."""
    rows = tuple(_row(talk, talks[1]) for talk in talks)
    return ConversationTable(trait, tuple(scripts), turns, max_tokens, temperature, rows)


def _row(talk: Talk, prompt: Talk) -> ConversationRow:
    def each_turn(values: F64) -> list[F64]:
        return [values[:, [t]] for t in range(values.shape[1])]

    own, other = talk.values, prompt.values
    trait, shared = own["trait"], [name for name in own if name in other]
    return ConversationRow(
        name=talk.name,
        strength=talk.strength,
        sources=talk.sources,
        turns={name: tuple(estimate(_sample(one)) for one in each_turn(own[name])) for name in own},
        minus_prompt={
            name: tuple(map(_difference, each_turn(own[name]), each_turn(other[name]))) for name in shared
        },
        over_turns={name: estimate(_sample(own[name])) for name in own},
        over_turns_minus_prompt={name: _difference(own[name], other[name]) for name in shared},
        trait_kept=_share(trait[:, -1], trait[:, 0]),
        of_prompt=_share(trait[:, -1], other["trait"][:, -1]),
        n_replies=sum(map(len, talk.replies)),
        n_equal=int(np.nansum(own["equal"])),
        n_begin_alike=int(np.nansum(own["begins"])),
        n_empty=sum(not text.strip() for one in talk.replies for text in one),
        notes=talk.notes,
        replies=talk.replies,
    )


def _sample(values: F64) -> Sample:
    """The mean over all turns of `values`, resampled by script."""
    return Sample.ratio(np.nansum(values, axis=1), np.sum(~np.isnan(values), axis=1))


def _difference(own: F64, other: F64) -> Estimate:
    """own - other, over the turns that both have."""
    both = ~(np.isnan(own) | np.isnan(other))
    first, second = (_sample(np.where(both, values, np.nan)) for values in (own, other))
    return difference(first, second)


def _share(above: F64, below: F64) -> Estimate:
    """sum(above) / sum(below) over the scripts that have both."""
    both = ~(np.isnan(above) | np.isnan(below))
    share = estimate(Sample.ratio(above[both].tolist(), below[both].tolist()))
    if estimate(Sample.mean(below[both].tolist())).low > 0:
        return share
    return Estimate(share.value, float("nan"), float("nan"))  # it could be as large as one likes
