"""Prompt, steering and LoRA as adaptations of one model, measured by the same criteria.

All but a LoRA share one context. llama_cpp.Llama takes an adapter only when it is opened, so a LoRA is
measured in a second model. Everything but the times is the same in every run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesteer.bundle import check_model
from edgesteer.errors import InputError
from edgesteer.evaluate.adaptation import resources
from edgesteer.evaluate.adaptation.criteria import AXES, LORA, UNADAPTED, Adapted, Axis, Effect
from edgesteer.evaluate.adaptation.lora import Lora
from edgesteer.evaluate.adaptation.resources import Subject
from edgesteer.evaluate.adaptation.side_effects import (
    Passage,
    drifts_of,
    passages_of_the_project,
    plain_logits,
    reversal,
)
from edgesteer.evaluate.head_to_head import head_to_head, held_out_questions, ways_of
from edgesteer.evaluate.intervals import Sample, estimate
from edgesteer.evaluate.table import Row, Table, plain_values
from edgesteer.evaluate.way import Sources, Way
from edgesteer.generate import REPEAT_PENALTY, Chat, score
from edgesteer.generate.measures import F32
from edgesteer.generate.progress import Done, Progress, Stages, no_progress


@dataclass(frozen=True, slots=True)
class Adaptation:
    """A row for each adaptation, the unadapted model first, and what they were measured on."""

    model: str
    trait: str
    questions: tuple[str, ...]
    max_tokens: int
    rows: tuple[Adapted, ...]

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The criteria, in the order of each row's scores."""
        return AXES

    def to_json(self) -> dict[str, Any]:
        """Plain values with the scores beside them; what is not a finite number becomes None."""
        out: dict[str, Any] = plain_values(dataclasses.asdict(self))
        for entry, row in zip(out["rows"], self.rows, strict=True):
            entry["scores"] = row.scores
        out["axes"] = {axis.name: {"measured": axis.measured, "score": axis.scored} for axis in self.axes}
        return out


# How long each stage takes, in parts of about 20.
_WEIGHTS = {"replies": 11, LORA: 2, "specificity": 4, "reversal": 1, "compute": 2}


def measure(
    chat: Chat,
    trait: str,
    rows: Sequence[tuple[str, Sources]],
    *,
    lora: Lora | None = None,
    questions: Sequence[str] | None = None,
    max_tokens: int = 64,
    passages: Sequence[Passage] | None = None,
    progress: Progress = no_progress,
) -> Adaptation:
    """Measure the unadapted model, the trait as system prompt, each row, and the LoRA.

    The never adapted model's logits are computed first, on a context that has never steered.

    rows, questions, max_tokens: as in `head_to_head`.
    passages: unrelated text; None for the project's own.
    Raises InputError as `head_to_head` does, and for a passage that does not fit the context;
    IncompatibleError for a bundle for another model; ModelError for a LoRA that llama.cpp refuses.
    """
    questions = list(held_out_questions() if questions is None else questions)
    texts = passages_of_the_project() if passages is None else passages
    _check(questions, texts)
    for bundle in [bundle for _, sources in rows for bundle, _ in sources]:
        check_model(bundle, chat.llm.model_info)
    stages = Stages(progress, sum(_WEIGHTS.values()) - (lora is None) * _WEIGHTS[LORA])
    never_adapted = plain_logits(chat, questions[0])
    with _under(chat, lora) as under_lora:  # what cannot be opened fails before the minutes of work
        table = head_to_head(
            chat,
            trait,
            rows,
            questions=questions,
            max_tokens=max_tokens,
            timing=False,
            progress=stages.nested(_WEIGHTS["replies"]),
        )
        work = _Work(chat, table, _subjects(chat, table, rows), stages)
        if lora is not None:
            work.add(Subject(Way(lora.name, work.subjects[0].way.prompts), under_lora, lora=lora))
        adapted = work.rows(texts, never_adapted)
    progress("done", 1.0)
    return Adaptation(Path(chat.llm.model_path).name, trait, tuple(questions), max_tokens, adapted)


def _check(questions: Sequence[str], texts: Sequence[Passage]) -> None:
    if not questions or not texts:
        missing = "passages" if questions else "questions"
        raise InputError(f"adaptation: no {missing}, expected at least one question and one passage")


@contextmanager
def _under(chat: Chat, lora: Lora | None) -> Iterator[Chat]:
    """A Chat on the same model with the adapter; the same Chat if there is none."""
    if lora is None:
        yield chat
        return
    llm = chat.llm.reopened(lora_path=lora.path)
    try:
        yield chat.like(llm)
    finally:
        llm.close()


def _subjects(chat: Chat, table: Table, rows: Sequence[tuple[str, Sources]]) -> list[Subject]:
    """The subjects in the order of the table's rows, at the table's strengths."""
    unsteered, prompt, *steered = ways_of(chat, table, rows)
    return [
        Subject(unsteered, chat),
        Subject(prompt, chat, table.trait),
        *(Subject(way, chat) for way in steered),
    ]


@dataclass
class _Work:
    """The measurements of all subjects, one criterion after the other."""

    chat: Chat
    table: Table
    subjects: list[Subject]
    stages: Stages

    def __post_init__(self) -> None:
        self.effects = [_effect(row, self.table.rows[0]) for row in self.table.rows]

    def add(self, subject: Subject) -> None:
        """Add a subject on another model, whose replies the table does not hold."""
        plain, prompted = (self.subjects[i].way.prompts for i in (0, 1))
        replies = subject.chat.replies(
            plain, self.table.max_tokens, repeat_penalty=REPEAT_PENALTY, progress=self._stage(LORA)
        )
        scores = score(self.chat, replies, plain, prompted)
        first = self.table.rows[0]
        self.effects.append(
            Effect(
                estimate(Sample.mean(scores.trait)),
                estimate(Sample.mean(scores.coherence)),
                scores.mean("distinct2"),
                first.trait,
                first.coherence,
                subject.chat.text(replies[0].tokens),
            )
        )
        self.subjects.append(subject)

    def rows(self, texts: Sequence[Passage], never_adapted: F32) -> tuple[Adapted, ...]:
        drifts = drifts_of(self.subjects, texts, self._stage("specificity"))
        progress, reversals = self._stage("reversal"), []
        for i, subject in enumerate(self.subjects):
            progress(i / len(self.subjects))
            reversals.append(reversal(subject, self.table.questions[0], never_adapted))
        self._stage("compute")(0.0)
        spent, speeds = resources.speeds(self.subjects, self.table.max_tokens)
        measured = zip(self.subjects, reversals, drifts, self.effects, speeds, spent, strict=True)
        return tuple(
            Adapted(
                name,
                kind,
                s.way.strength,
                back,
                drift,
                effect,
                speed,
                resources.memory(s, cost),
                resources.data(s),
            )
            for s, back, drift, effect, speed, cost in measured
            for name, kind in [_named(s)]
        )

    def _stage(self, name: str) -> Done:
        return self.stages.enter(name, _WEIGHTS[name])


def _effect(row: Row, unadapted: Row) -> Effect:
    estimates = row.estimates
    return Effect(
        estimates["trait"],
        estimates["coherence"],
        row.distinct2,
        unadapted.trait,
        unadapted.coherence,
        row.replies[0],
    )


def _named(subject: Subject) -> tuple[str, str]:
    """Name and kind."""
    way = subject.way
    if subject.lora is not None:
        return way.name, LORA
    if not way.unit and subject.system is None:
        return UNADAPTED if way.strength is None else way.name, UNADAPTED
    return way.name, way.kind
