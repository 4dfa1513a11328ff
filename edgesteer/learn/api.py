"""`learn`: from one sentence to a bundle.

Sampling, strength and the closed form run through llama.cpp on the quantized model; only the `onnx` package
is needed besides, to write the gate. A Trainer, which learns more, needs Torch. The strength is chosen on
questions that nothing was learnt from, and the head-to-head asks others again. The same model file, arguments
and thread count give the same bytes, also in a run that was stopped and resumed.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from edgesteer.bundle import Bundle
from edgesteer.errors import LearnError, MissingExtra
from edgesteer.generate import Chat
from edgesteer.generate.progress import Progress, Stages, no_progress
from edgesteer.generate.questions import Question
from edgesteer.learn.fit import BlockFit, fit_blocks
from edgesteer.learn.forecast import Forecast
from edgesteer.learn.pairs import Limits, check_questions
from edgesteer.learn.part_file import PartFile
from edgesteer.learn.pipeline import (
    Comparison,
    Replies,
    compare,
    fitted_blocks,
    kept_blocks,
    questions_of,
    sample,
    training_rows,
)
from edgesteer.learn.recipe import EFFORTS, Recipe
from edgesteer.learn.strength import Yardstick, at_coherence, best_block, strength_range, tune
from edgesteer.learn.summary import LearnSummary, head_to_head_facts, mean_explained, prompted_point
from edgesteer.learn.task import Task
from edgesteer.learn.training import TRAINING, Trainer, train
from edgesteer.runtime import SteeredLlama

# Rough shares of the time: of a question, of a step, or of the stage.
_PROMPT, _SAMPLE, _CONTRAST, _CHOOSE, _STEP = 0.3, 0.7, 0.3, 1.0, 1.0
_FIT, _COMPARE = 3, 150


def learn(
    llm: SteeredLlama,
    trait: str,
    recipe: Recipe = Recipe(),  # noqa: B008 - immutable
    *,
    questions: Sequence[Question | str] | None = None,
    name: str = "steering",
    license: str = "unspecified",
    template: str | None = None,
    stop: str | None = None,
    reasoning: str = "skip",
    limits: Limits = Limits(),  # noqa: B008 - immutable
    part: str | os.PathLike[str] | None = None,
    replace: bool = False,
    trainer: Trainer | None = None,
    on_forecast: Callable[[Forecast], None] = no_progress,
    comparison: Comparison | None = None,
    progress: Progress = no_progress,
) -> tuple[Bundle, LearnSummary]:
    """Learn a bundle that changes replies as the system prompt `trait` does.

    Args:
        llm: its own steering is set aside meanwhile; `n_seq_max` above 1 makes everything faster.
        questions: None for the built-in ones; see `pipeline.questions_of`.
        template, stop, reasoning: see `generate.Chat`.
        limits: which replies are good enough to learn from.
        part: a file that keeps the sampled replies and their activations, up to half a gigabyte, so that a
            stopped run can be resumed; remove it when the bundle is saved. replace: overwrite the file if it
            is another run's. Two runs at once must not share it; see `part_file.locked`.
        trainer: learns by gradients; `edgesteer_converters.train` has one. None: the closed form.
        on_forecast: called with the forecast as soon as the first replies are there.
        comparison: end with this head-to-head on held-out questions.
        progress: called with the stage and the fraction of the whole that is done, 0..1.
    Raises:
        LearnError: no trait, too few questions, no reply that shows the trait, or contradictory arguments.
        InputError: a template, a prompt or a count that cannot be used.
        OutputError: `part` is another run's, or cannot be written.
        MissingExtra: method "psr" without the `onnx` package.
    """
    trains = trainer is not None
    label = f"{recipe.label}+KL" if trains else recipe.label
    _check(llm, recipe, label, trains, comparison)
    training, apart = questions_of(recipe, questions)
    check_questions(trait, recipe.opposite, training)
    task = Task(Chat(llm, template, stop, reasoning), trait, recipe, name, license)
    effort, clock = EFFORTS[recipe.effort], _Clock(progress)
    stages = Stages(clock, _whole(recipe, len(training), trains, comparison is not None))
    with llm.steered([]):
        yardstick = Yardstick.of(task, apart, stages.enter("prompt", _PROMPT * effort.measured))
        # Small models heed a sentence that is repeated after the question. A trainer imitates the system
        # prompt alone, whose coherence is the target (docs/log.md).
        emphasis = not trains and not yardstick.heeded
        replies = sample(
            task,
            training,
            emphasis,
            limits,
            PartFile(part, _facts_of_replies(task, training, emphasis, trains), replace),
            stages.enter("sample", _SAMPLE * len(training)),
            trains=trains,
            on_forecast=on_forecast,
        )
        explained, trained, choosing = None, dict[str, Any](), _CHOOSE * effort.measured
        if trainer is None:
            fits = _closed_form(task, replies, stages)
            tuned = tune(task, fits, replies.pairs, yardstick, stages.enter("choose", choosing))
            explained = mean_explained(tuned.fits)
        else:
            at_block = _at_best_block(task, replies, stages)
            training_stages = Stages(stages.nested(_STEP * sum(effort.steps)), TRAINING)
            fits, trained = train(at_block, replies.pairs, trainer, training_stages)
            tuned = at_coherence(task, fits, yardstick, 1.0, stages.enter("choose", choosing))
        prompted = prompted_point(yardstick)  # before others ask more of its questions
        bundle = task.bundle(tuned.fits, strength_range(tuned.dose, recipe.opposite is not None))
        table = None
        if comparison is not None:
            done = stages.nested(_COMPARE)
            table = compare(task, replies, bundle, label, yardstick, comparison, done)
    clock("done", 1.0)
    summary = LearnSummary(
        method=label,
        effort=recipe.effort,
        strength=tuned.dose.strength,
        layers=len(tuned.fits),
        questions=len({q.text for q in training}),
        sampled=replies.sampled,
        kept=len(replies.pairs),
        dropped=replies.dropped,
        tokens=sum(len(pair.reply) for pair in replies.pairs),
        forecast=replies.forecast,
        explained=explained,
        dose=tuned.dose,
        prompted=prompted,
        table=table,
        emphasised=emphasis,
        trained=trained,
        seconds=clock.seconds,
        pairs=tuple(replies.pairs),
    )
    return bundle.with_metadata(**_manifest_facts(task, summary)), summary


def _closed_form(task: Task, replies: Replies, stages: Stages) -> dict[int, BlockFit]:
    """Each block's fit, without gradients."""
    contrast = stages.enter("contrast", _CONTRAST * len(replies.pairs))
    with training_rows(task, replies, contrast) as rows:
        return fit_blocks(rows, task.recipe, stages.enter("fit", _FIT))


def _at_best_block(task: Task, replies: Replies, stages: Stages) -> Task:
    """The task; for blocks "one" at the block whose closed form serves best."""
    if task.recipe.blocks != "one":
        return task
    block = best_block(task, _closed_form(task, replies, stages), replies.pairs)
    return dataclasses.replace(task, recipe=dataclasses.replace(task.recipe, blocks=block))


def _whole(recipe: Recipe, n_questions: int, trains: bool, compares: bool) -> float:
    """The sum of the stages' shares."""
    effort = EFFORTS[recipe.effort]
    whole = (_PROMPT + _CHOOSE) * effort.measured + _SAMPLE * n_questions + _COMPARE * compares
    if trains:
        whole += _STEP * sum(effort.steps)
    if not trains or recipe.blocks == "one":
        whole += _CONTRAST * n_questions + _FIT
    return whole


class _Clock:
    """Passes progress on, and adds up the seconds of each stage, until the next one begins."""

    def __init__(self, progress: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self._progress, self._stage, self._since = progress, "", 0.0

    def __call__(self, stage: str, fraction: float) -> None:
        name, now = stage.partition(":")[0], time.monotonic()
        if name != self._stage:
            if self._stage:
                self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + now - self._since
            self._stage, self._since = name, now
        self._progress(stage, fraction)


def _check(
    llm: SteeredLlama,
    recipe: Recipe,
    label: str,
    trains: bool,
    comparison: Comparison | None,
) -> None:
    """Check everything that can fail at once, before the minutes of work."""
    if recipe.method == "psr" and importlib.util.find_spec("onnx") is None:
        raise MissingExtra("onnx: not installed; needed to write a gate; pip install 'edgesteer[learn]'")
    if trains and not EFFORTS[recipe.effort].trains:
        raise LearnError(
            f"trainer: effort {recipe.effort!r} does not train; expected normal or thorough, or no "
            "trainer"
        )
    fitted_blocks(llm.model_info, recipe)
    if comparison is not None:
        comparison.check(label)


def _facts_of_replies(
    task: Task, asked: Sequence[Question], emphasis: bool, trains: bool
) -> dict[str, Any]:
    """Everything that determines the sampled replies."""
    llm, recipe = task.chat.llm, task.recipe
    names = ("opposite", "max_tokens", "temperature", "seed")
    return {
        "model": llm.identity(),
        "trait": task.trait,
        "questions": [dataclasses.asdict(q) for q in asked],
        "template": task.chat.facts(),
        "lanes": [llm.n_seq_max, llm.n_ctx(), llm.n_batch, llm.n_threads, llm.n_threads_batch],
        "layers": len(kept_blocks(task, len(asked), trains)),
        "emphasis": emphasis,
        **{name: getattr(recipe, name) for name in names},
    }


def _manifest_facts(task: Task, summary: LearnSummary) -> dict[str, Any]:
    """The manifest's `training` and `evaluation`."""
    recipe = {**dataclasses.asdict(task.recipe), **task.chat.facts()}
    unused = ("ridge", "cap") if summary.trained else ()
    recipe = {key: value for key, value in recipe.items() if value is not None and key not in unused}
    table = {} if summary.table is None else head_to_head_facts(summary.table)
    return {
        "training": {
            "trait": task.trait,
            **recipe,
            "emphasised": summary.emphasised,
            **summary.training(),
        },
        "evaluation": {**summary.evaluation(), **table},
    }
