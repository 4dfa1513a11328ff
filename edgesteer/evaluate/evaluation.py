"""All that was measured of some bundles on one model: for one page, one JSON, and a bundle's card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgesteer.bundle import ModelInfo
from edgesteer.evaluate.controls import CONTROLS
from edgesteer.evaluate.conversation_scripts import check_conversations, read_scripts
from edgesteer.evaluate.conversation_table import ConversationTable
from edgesteer.evaluate.conversations import conversations
from edgesteer.evaluate.facts import FactsTable, facts, read_facts
from edgesteer.evaluate.head_to_head import check_table, head_to_head, held_out_questions
from edgesteer.evaluate.instructions import read_instructions
from edgesteer.evaluate.judging import Judge, check_questions, rater, training_replies
from edgesteer.evaluate.matched import LEVELS
from edgesteer.evaluate.obedience import MAX_TOKENS as OBEDIENCE_TOKENS
from edgesteer.evaluate.obedience import Obedience, obedience
from edgesteer.evaluate.table import Table
from edgesteer.evaluate.transfer import FILE_TYPES, Transfer, check_transfer, transfer
from edgesteer.evaluate.way import Sources
from edgesteer.generate import Chat
from edgesteer.generate.progress import Progress, Stages, no_progress

# Rough times, in replies to one question: of a fact, an instruction, a turn, a question to a copy.
_FACT, _INSTRUCTION, _TURN, _TRIAL = 0.15, 2.0, 1.5, 4.0

MEASUREMENTS = ("replies", "conversations", "facts", "instructions", "transfer")


@dataclass(frozen=True, slots=True)
class Selection:
    """What to measure.

    table: the head-to-head; controls, counts, sentiment: as there. matched: read it at the prompt's
        coherence too.
    turns: of conversations, 0 for none, at this temperature. side_effects: facts and instructions. transfer:
        of the first row, a single bundle.
    questions: of table and transfer; None for the held-out ones.
    """

    table: bool = True
    controls: bool = False
    turns: int = 0
    side_effects: bool = False
    transfer: bool = False
    matched: bool = False
    counts: Sequence[str] = ()
    sentiment: bool = False
    temperature: float = 0.0
    max_tokens: int = 64
    questions: Sequence[str] | None = None

    @property
    def longest_reply(self) -> int:
        """In tokens."""
        return max(self.max_tokens, OBEDIENCE_TOKENS) if self.side_effects else self.max_tokens


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Measurements of the same rows; None is one that was not made."""

    model: ModelInfo
    trait: str
    replies: Table | None = None
    conversations: ConversationTable | None = None
    facts: FactsTable | None = None
    instructions: Obedience | None = None
    transfer: Transfer | None = None

    def to_json(self) -> dict[str, Any]:
        """The plain values of a measurement; of several, each by its name in MEASUREMENTS."""
        made = {name: one.to_json() for name in MEASUREMENTS if (one := getattr(self, name)) is not None}
        if len(made) == 1:
            (only,) = made.values()
            return dict(only)
        return made

    def for_manifest(self, name: str) -> dict[str, Any]:
        """What the manifest of the row's bundle says as `evaluation`, by measurement.

        Raises ValueError if there is no row of that name.
        """
        rows = (self.replies, self.conversations, self.facts, self.instructions)
        out = {
            key: one.for_manifest(name)
            for key, one in zip(MEASUREMENTS, rows, strict=False)
            if one is not None
        }
        return out if self.transfer is None else {**out, "transfer": self.transfer.for_manifest()}


def measure(
    chat: Chat,
    trait: str,
    rows: Sequence[tuple[str, Sources]],
    selection: Selection,
    judge: Judge | None = None,
    progress: Progress = no_progress,
) -> Evaluation:
    """Make the measurements of the selection, one after the other.

    rows: as for `head_to_head`. judge: of the table and the conversations; an embedder is trained once for
    both. Raises what they raise; what they refuse, before the first of them begins.
    """
    asked = list(held_out_questions() if selection.questions is None else selection.questions)
    weights = _weights(selection, len(asked), len(rows))
    training = 0 if judge is None else training_replies(judge)
    stages = Stages(progress, sum(weights.values()) + training)
    _check(chat, trait, rows, selection, asked, judge)
    result = Evaluation(chat.llm.model_info, trait)
    if judge is not None:
        scripts = read_scripts() if selection.turns else []
        judged = [turn for script in scripts for turn in script.turns[: selection.turns]]
        judged += asked if selection.table else []
        done = stages.enter("judge", training)
        judge = rater(judge, chat, trait, judged, selection.max_tokens, done)
    if selection.table:
        table = head_to_head(
            chat,
            trait,
            rows,
            questions=asked,
            max_tokens=selection.max_tokens,
            counts=selection.counts,
            with_sentiment=selection.sentiment,
            levels=LEVELS if selection.matched else (),
            judge=judge,
            controls=selection.controls,
            progress=stages.nested(weights["table"]),
        )
        result = replace(result, replies=table)
    if selection.turns:
        held = conversations(
            chat,
            trait,
            rows,
            turns=selection.turns,
            max_tokens=selection.max_tokens,
            temperature=selection.temperature,
            judge=judge,
            progress=stages.nested(weights["turns"]),
        )
        result = replace(result, conversations=held)
    if selection.side_effects:
        known = facts(chat, trait, rows, progress=stages.nested(weights["facts"]))
        followed = obedience(chat, trait, rows, progress=stages.nested(weights["instructions"]))
        result = replace(result, facts=known, instructions=followed)
    if selection.transfer:
        ((bundle, strength),) = rows[0][1]
        copies = transfer(
            chat,
            bundle,
            trait,
            asked,
            strength=strength,
            max_tokens=selection.max_tokens,
            progress=stages.nested(weights["transfer"]),
        )
        result = replace(result, transfer=copies)
    progress("done", 1.0)
    return result


def _check(
    chat: Chat,
    trait: str,
    rows: Sequence[tuple[str, Sources]],
    selection: Selection,
    asked: Sequence[str],
    judge: Judge | None,
) -> None:
    tokens, scripts = selection.max_tokens, read_scripts()
    if selection.table:
        counts, sentiment = selection.counts, selection.sentiment
        check_table(chat, trait, rows, asked, tokens, counts, sentiment, judge, selection.controls)
    if selection.turns:
        check_conversations(chat, trait, scripts, selection.turns, tokens, selection.temperature)
        if judge is not None:
            check_questions([turn for script in scripts for turn in script.turns[: selection.turns]])
    if selection.transfer:
        ((bundle, strength),) = rows[0][1]
        check_transfer(chat, bundle, trait, asked, strength)


def _weights(selection: Selection, n_questions: int, n_rows: int) -> dict[str, float]:
    """Rough times of the measurements, in replies."""
    ways = 2 + n_rows
    steered = n_rows + len(CONTROLS) * selection.controls
    return {
        "table": selection.table * n_questions * (2 + steered * (1 + len(LEVELS) * selection.matched)),
        "turns": selection.turns * len(read_scripts()) * ways * _TURN,
        "facts": selection.side_effects * len(read_facts()) * ways * _FACT,
        "instructions": selection.side_effects * len(read_instructions()) * ways * _INSTRUCTION,
        "transfer": selection.transfer * n_questions * (1 + len(FILE_TYPES)) * _TRIAL,
    }
