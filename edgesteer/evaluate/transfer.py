"""Does a bundle work on other quantizations of the model that it was learnt on?

In:  a Chat on one file of the model, a bundle, its trait, questions.
Out: for that file, and for copies requantized from it, the measures of the steered replies, and how far
     steering moves the model, with intervals over the questions.

The copies are written one after the other to a temporary folder and deleted. A copy with more bits than the
file holds no more than the file does: it tells what other arithmetic does, not what the original weights do.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgesteer.bundle import Bundle, check_model
from edgesteer.errors import IncompatibleError, InputError, ModelError
from edgesteer.evaluate.intervals import F64, Estimate, Sample, difference, estimate
from edgesteer.evaluate.table import plain_values
from edgesteer.evaluate.way import Way, prompts_of, require_trait
from edgesteer.generate import REPEAT_PENALTY, Chat, Reply, Scores, Tokens, score
from edgesteer.generate.measures import F32, kl, log_softmax
from edgesteer.generate.progress import Done, Progress, Stages, no_progress, portion
from edgesteer.plan import SteeringPlan
from edgesteer.runtime import Sequences
from edgesteer.runtime.quantize import check_file_type, folder_for_copies, requantize

FILE_TYPES = ("Q4_0", "Q8_0", "F16")
"""What is tried unless something else is asked for."""

SCORES = ("trait", "coherence", "distinct2")


@dataclass(frozen=True, slots=True)
class Trial:
    """The bundle on one file of the model.

    file_type: such as "Q4_0". file_bytes: its size. copy: whether it was requantized for this trial.
    estimates: means of the steered replies with their intervals: "trait", "coherence" (lower is more
        coherent) and "kl" in nats a token, "distinct2" 0..1; see `measures` and `divergence`.
    minus_unsteered: the first three, less those of the unsteered replies of this file, paired by question.
    minus_first: all four, less those of the first trial, paired by question.
    replies: the steered ones. unsteered: those without steering.
    """

    file_type: str
    file_bytes: int
    copy: bool
    estimates: Mapping[str, Estimate]
    minus_unsteered: Mapping[str, Estimate]
    minus_first: Mapping[str, Estimate]
    replies: tuple[str, ...] = dataclasses.field(repr=False)
    unsteered: tuple[str, ...] = dataclasses.field(repr=False)


@dataclass(frozen=True, slots=True)
class Transfer:
    """A bundle on several files of its model; the first is the one that was given.

    learnt_on: the file type that the bundle's manifest names; None for a bare control vector.
    """

    bundle: str
    strength: float
    learnt_on: str | None
    trait: str
    questions: tuple[str, ...]
    max_tokens: int
    trials: tuple[Trial, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values; NaN becomes None."""
        out: dict[str, Any] = plain_values(dataclasses.asdict(self))
        return out

    def for_manifest(self) -> dict[str, Any]:
        """What the bundle's manifest says as `evaluation.transfer`."""
        tried = {
            trial.file_type: {key: value.for_manifest() for key, value in trial.estimates.items()}
            for trial in self.trials
        }
        return {
            "learnt_on": self.learnt_on,
            "requantized_from": self.trials[0].file_type,
            "questions": len(self.questions),
            "strength": self.strength,
            "tried_on": tried,
        }


def transfer(
    chat: Chat,
    bundle: Bundle,
    trait: str,
    questions: Sequence[str],
    *,
    strength: float | None = None,
    file_types: Sequence[str] = FILE_TYPES,
    max_tokens: int = 64,
    folder: str | os.PathLike[str] | None = None,
    progress: Progress = no_progress,
) -> Transfer:
    """Try the bundle on the chat's model and on copies of it in other file types.

    strength: None for the bundle's default.
    file_types: of the copies; one that the model's file has itself is left out.
    folder: where a copy lies while it is tried; None for the system's temporary folder. There is never more
        than one, and none is left, also after an error or Ctrl-C. What a killed process leaves there, the
        next call deletes.
    Raises InputError for no trait, no questions, a strength of 0, or an unknown file type; IncompatibleError
    for a bundle of another model, or of other base weights; ModelError and OutputError where a copy cannot be
    written; SteeringOverflow where steering overflows on one of the files.
    """
    way = Way.of(bundle.name, [], [(bundle, strength)])
    check_transfer(chat, bundle, trait, questions, strength, file_types)
    own = chat.llm.model_info.file_type
    copies = [each for each in dict.fromkeys(file_types) if each != own]
    stages = Stages(progress, 1 + 1.2 * len(copies))

    def measured(on: Chat, name: str) -> _Measured:
        return _measured(on, way.plan, trait, questions, max_tokens, stages.enter(name))

    results = [(own, chat.llm.file_bytes, measured(chat, own))]
    for file_type in copies:
        stages.enter(f"write {file_type}", 0.2)
        with _requantized(chat, file_type, folder) as other:
            results.append((file_type, other.llm.file_bytes, measured(other, file_type)))
    progress("done", 1.0)
    first = results[0][2]
    return Transfer(
        bundle=bundle.name,
        strength=float(way.strength or 0.0),
        learnt_on=None if bundle.model is None else bundle.model.file_type,
        trait=trait,
        questions=tuple(questions),
        max_tokens=max_tokens,
        trials=tuple(
            Trial(
                file_type=file_type,
                file_bytes=size,
                copy=i > 0,
                estimates={key: estimate(sample) for key, sample in each.steered.items()},
                minus_unsteered={key: difference(each.steered[key], each.unsteered[key]) for key in SCORES},
                minus_first={key: difference(each.steered[key], first.steered[key]) for key in first.steered},
                replies=each.texts,
                unsteered=each.unsteered_texts,
            )
            for i, (file_type, size, each) in enumerate(results)
        ),
    )


def divergence(
    chat: Chat,
    plan: SteeringPlan,
    prompts: Sequence[Tokens],
    replies: Sequence[Reply],
    progress: Done = no_progress,
) -> F64:
    """KL(steered || unsteered) of the next token, nats a token: float64 [replies], the mean over each reply.

    Both read the same replies, each behind its prompt. Sees how far a plan moves the model where the model
    itself would go; does not see where its own steered replies lead. 0 for no plan, NaN for a reply without
    tokens. The plan in force is set aside.
    """
    out = np.full(len(replies), np.nan)
    with chat.llm.steered([]), Sequences(chat.llm) as sequences:
        for i, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
            progress(i / len(replies))
            if reply.all_tokens:
                unsteered = _log_probs(sequences, SteeringPlan(), prompt, reply)
                steered = _log_probs(sequences, plan, prompt, reply)
                out[i] = np.mean([kl(p, q) for p, q in zip(steered, unsteered, strict=True)])
    return out


def _log_probs(sequences: Sequences, plan: SteeringPlan, prompt: Tokens, reply: Reply) -> list[F32]:
    """For each token of the reply the distribution that it is drawn from: float32 [n_vocab]."""
    sequence = sequences.open(plan, prompt_len=len(prompt))
    for _ in sequences.feed({sequence: list(prompt[:-1])}, wanted=False):
        pass
    rows = [
        log_softmax(logits, sum_in=np.float64)
        for _, logits in sequences.feed({sequence: [prompt[-1], *reply.all_tokens[:-1]]})
    ]
    sequences.drop(sequence)
    return rows


@dataclass(frozen=True, slots=True)
class _Measured:
    """The samples of one file by measure, and the replies. Only the steered ones have "kl"."""

    steered: dict[str, Sample]
    unsteered: dict[str, Sample]
    texts: tuple[str, ...]
    unsteered_texts: tuple[str, ...]


def _measured(
    chat: Chat, plan: SteeringPlan, trait: str, questions: Sequence[str], max_tokens: int, progress: Done
) -> _Measured:
    plain, prompted = prompts_of(chat, questions, trait)
    replies = []
    for i, each in enumerate((SteeringPlan(), plan)):
        done = portion(progress, 0.35 * i, 0.35, 1)
        with chat.llm.steered(each):
            replies.append(chat.replies(plain, max_tokens, repeat_penalty=REPEAT_PENALTY, progress=done))
    unsteered, steered = (_samples(score(chat, each, plain, prompted)) for each in replies)
    moved = divergence(chat, plan, plain, replies[0], portion(progress, 0.8, 0.2, 1))
    texts = [tuple(chat.text(reply.tokens) for reply in each) for each in replies]
    return _Measured(steered | {"kl": Sample.mean(moved.tolist())}, unsteered, texts[1], texts[0])


def _samples(scores: Scores) -> dict[str, Sample]:
    return {key: Sample.mean(getattr(scores, key)) for key in SCORES}


@contextlib.contextmanager
def _requantized(chat: Chat, file_type: str, folder: str | os.PathLike[str] | None) -> Iterator[Chat]:
    """The same chat on a copy of its model, which is deleted at the end."""
    with folder_for_copies(folder) as temporary:
        path = temporary / f"{Path(chat.llm.model_path).stem}-{file_type}.gguf"
        requantize(chat.llm.model_path, path, file_type, n_threads=chat.llm.n_threads)
        llm = chat.llm.reopened(model_path=str(path))
        try:
            before, after = chat.llm.model_info.base_sha256, llm.model_info.base_sha256
            if before != after:
                raise ModelError(f"{path}: other base weights than {chat.llm.model_path}, expected the same")
            yield chat.like(llm)
        finally:
            llm.close()


def check_transfer(
    chat: Chat,
    bundle: Bundle,
    trait: str,
    questions: Sequence[str],
    strength: float | None = None,
    file_types: Sequence[str] = FILE_TYPES,
) -> None:
    """Raise what `transfer` would refuse of these, before the minutes of work."""
    if not questions:
        raise InputError("transfer: no questions, expected at least one")
    require_trait(trait)
    way = Way.of(bundle.name, [], [(bundle, strength)])
    if not way.plan:
        raise InputError(
            f"transfer: {way.name} at strength {way.strength:g} steers nothing, expected another"
        )
    for file_type in file_types:
        check_file_type(file_type)
    # Steering only warns of other base weights; but what they do would be blamed on the file types.
    doubt = check_model(bundle, chat.llm.model_info)
    if doubt and bundle.model is not None:
        raise IncompatibleError(doubt)
    with chat.llm.steered(way.plan):
        pass
