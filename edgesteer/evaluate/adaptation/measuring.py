"""Prompt, steering and LoRA as adaptations of one model, measured by the same criteria.

In:  a Chat on the unadapted model, the trait's sentence, bundles with strengths, perhaps a LoRA adapter.
Out: an Adaptation: one row a way, with effect, specificity, reversibility, compute, memory and data.

All share one context, but a LoRA: llama_cpp.Llama takes an adapter when it is opened, so that is a second model.
Everything but the clock is the same in every run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesteer.bundle import Bundle, check_model
from edgesteer.errors import InputError
from edgesteer.evaluate.adaptation import axes
from edgesteer.evaluate.adaptation.axes import Subject
from edgesteer.evaluate.adaptation.drift import Passage, drifts_of, passages_of_the_project
from edgesteer.evaluate.adaptation.lora import Lora, opened_anew
from edgesteer.evaluate.adaptation.reversal import plain_logits, reversal
from edgesteer.evaluate.adaptation.scores import AXES, scores
from edgesteer.evaluate.adaptation.values import LORA, UNADAPTED, Adapted, Effect
from edgesteer.generate.chat import F32, REPEAT_PENALTY, Chat
from edgesteer.evaluate.headtohead import head_to_head, held_out_questions
from edgesteer.evaluate.intervals import Sample, estimate
from edgesteer.generate.progress import Done, portion
from edgesteer.generate.scoring import score
from edgesteer.evaluate.table import Row, Table, plain_values
from edgesteer.evaluate.ways import PROMPT, UNSTEERED, Way, prompts_of

__all__ = ["Adaptation", "Adapted", "measure"]

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Adaptation:
    """One row a way, the unadapted model first, and what they were measured on."""

    model: str
    trait: str
    questions: tuple[str, ...]
    max_tokens: int
    rows: tuple[Adapted, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values with the scores beside them; what is not a finite number becomes None."""
        out: dict[str, Any] = plain_values(dataclasses.asdict(self))
        for told, row in zip(out["rows"], self.rows, strict=True):
            told["scores"] = scores(row)
        out["axes"] = {axis.name: {"measured": axis.measured, "score": axis.scored} for axis in AXES}
        return out


# Where each stage ends; asking takes most of the time.
_STAGES = {"replies": 0.55, LORA: 0.65, "specificity": 0.85, "reversal": 0.9, "compute": 1.0}


def measure(
    chat: Chat,
    trait: str,
    bundles: Sequence[tuple[str, Bundle, float]],
    *,
    lora: Lora | None = None,
    questions: Sequence[str] | None = None,
    max_tokens: int = 64,
    at_prompt_coherence: bool = False,
    passages: Sequence[Passage] | None = None,
    progress: Progress = lambda stage, fraction: None,
) -> Adaptation:
    """Measure the unadapted model, the trait as system prompt, each (name, bundle, strength), and the LoRA.

    questions, max_tokens, at_prompt_coherence: as in `head_to_head`. passages: unrelated text; None for the
    project's own. The never adapted model's logits are taken first: on a context that has not steered yet, they are
    that in the strict sense.
    Raises InputError as `head_to_head` does, and for a passage that does not fit the context; IncompatibleError for a
    bundle for another model; ModelError for a LoRA that llama.cpp does not take.
    """
    asked = list(held_out_questions() if questions is None else questions)
    texts = passages_of_the_project() if passages is None else passages
    _check(asked, texts)
    for _, bundle, _ in bundles:
        check_model(bundle, chat.llm.model_info)
    never_adapted = plain_logits(chat, asked[0])
    with _under(chat, lora) as under_lora:  # what cannot be opened fails before the minutes of work
        table = head_to_head(
            chat,
            trait,
            bundles,
            questions=asked,
            max_tokens=max_tokens,
            at_prompt_coherence=at_prompt_coherence,
            timing=False,
            progress=lambda stage, part: progress(stage, part * _STAGES["replies"]),
        )
        work = _Work(chat, table, _subjects(chat, table, [bundle for _, bundle, _ in bundles]), progress)
        if lora is not None:
            work.add(Subject(Way(lora.name, work.subjects[0].way.prompts), under_lora, lora=lora))
        rows = work.rows(texts, never_adapted)
    progress("done", 1.0)
    return Adaptation(Path(chat.llm.model_path).name, trait, tuple(asked), max_tokens, rows)


def _check(asked: Sequence[str], texts: Sequence[Passage]) -> None:
    if not asked or not texts:
        missing = "passages" if asked else "questions"
        raise InputError(f"adaptation: no {missing}, expected at least one question and one passage")


@contextmanager
def _under(chat: Chat, lora: Lora | None) -> Iterator[Chat]:
    """A Chat on the same model under the adapter; the same Chat where there is none."""
    if lora is None:
        yield chat
        return
    llm = opened_anew(chat.llm, lora)
    try:
        yield Chat(llm, chat.template, chat.stop)
    finally:
        llm.close()


def _subjects(chat: Chat, table: Table, bundles: Sequence[Bundle]) -> list[Subject]:
    """In the order of the table's rows, at the strengths that it has."""
    plain, prompted = prompts_of(chat, table.questions, table.trait)
    steered = [
        Subject(Way(row.name, plain, bundle, row.strength), chat)
        for row, bundle in zip(table.rows[2:], bundles, strict=True)
    ]
    return [Subject(Way(UNSTEERED, plain), chat), Subject(Way(PROMPT, prompted), chat, table.trait), *steered]


@dataclass
class _Work:
    """What is measured of the subjects, one axis after the other."""

    chat: Chat
    table: Table
    subjects: list[Subject]
    progress: Progress

    def __post_init__(self) -> None:
        self.effects = [_effect(row, self.table.rows[0]) for row in self.table.rows]

    def add(self, subject: Subject) -> None:
        """A subject on another model, whose replies the table does not hold."""
        plain, prompted = (self.subjects[i].way.prompts for i in (0, 1))
        replies = subject.chat.replies(
            plain, self.table.max_tokens, repeat_penalty=REPEAT_PENALTY, progress=self._stage(LORA)
        )
        found = score(self.chat, replies, plain, prompted)
        first = self.table.rows[0]
        self.effects.append(
            Effect(
                estimate(Sample.mean(found.trait)),
                estimate(Sample.mean(found.coherence)),
                found.mean("distinct2"),
                first.trait,
                first.coherence,
                subject.chat.text(replies[0].tokens),
            )
        )
        self.subjects.append(subject)

    def rows(self, texts: Sequence[Passage], never_adapted: F32) -> tuple[Adapted, ...]:
        drifts = drifts_of(self.subjects, texts, self._stage("specificity"))
        tell, reversals = self._stage("reversal"), []
        for i, subject in enumerate(self.subjects):
            tell(i / len(self.subjects))
            reversals.append(reversal(subject, self.table.questions[0], never_adapted))
        self._stage("compute")(0.0)
        spent, speeds = axes.speeds(self.subjects, self.table.max_tokens)
        measured = zip(self.subjects, reversals, drifts, self.effects, speeds, spent, strict=True)
        return tuple(
            Adapted(
                name, kind, s.way.strength, back, drift, effect, speed, axes.memory(s, cost), axes.data(s)
            )
            for s, back, drift, effect, speed, cost in measured
            for name, kind in [_named(s)]
        )

    def _stage(self, name: str) -> Done:
        ends = list(_STAGES.values())
        i = list(_STAGES).index(name)
        return portion(lambda part: self.progress(name, part), ends[i - 1], ends[i] - ends[i - 1], 1.0)


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
    if way.bundle is None and subject.system is None:
        return UNADAPTED, UNADAPTED
    return way.name, way.kind
