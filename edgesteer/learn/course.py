"""From one sentence to a bundle: sample, contrast, fit, choose a strength, compare.

In:  a model, the trait's sentence, a Recipe, questions.
Out: a Bundle and a LearnSummary. The same model file, arguments and thread count give the same bytes.

All passes run through llama.cpp on the quantized model; only the `onnx` extra is needed besides, to write the
gate. Replies, fit and strength see training questions alone; the head-to-head asks others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

from edgesteer.bundle import Bundle
from edgesteer.errors import LearnError, MissingExtra
from edgesteer.evaluate import Table
from edgesteer.generate import Chat
from edgesteer.evaluate.headtohead import check_counts, check_levels
from edgesteer.generate.progress import spread
from edgesteer.learn.ask import own
from edgesteer.learn.calibrate import Yardstick, strength_range
from edgesteer.learn.compare import check_ways, compare, label
from edgesteer.learn.make import Maker
from edgesteer.learn.pairs import check_asked
from edgesteer.generate.questions import Question
from edgesteer.learn.recipe import Recipe
from edgesteer.learn.refining import Trainer, refined
from edgesteer.learn.stages import (
    Data,
    Progress,
    Work,
    emphasised,
    fit,
    heeds,
    kept_layers,
    questions_of,
    sample,
    tried,
)
from edgesteer.learn.store import ReplyStore
from edgesteer.learn.summary import LearnSummary, head_to_head_facts, mean_explained, prompted_point
from edgesteer.learn.tune import Tuned, better, kept_facts, retuned, tuned
from edgesteer.runtime import SteeredLlama

# Questions that strengths are measured on, and how many tokens of each reply: a minute for four strengths.
_N_MEASURED, _MEASURED_TOKENS = 10, 40


def learn(
    llm: SteeredLlama,
    trait: str,
    recipe: Recipe = Recipe(),  # noqa: B008 - immutable
    *,
    questions: Sequence[Question | str] | str | None = None,
    name: str = "steering",
    license: str = "unspecified",
    template: str | None = None,
    stop: str | None = None,
    store: Callable[[dict[str, Any]], ReplyStore] | None = None,
    against: Sequence[str] = (),
    counts: Sequence[str] = (),
    sentiment: bool = False,
    levels: Sequence[float] = (),
    trainer: Trainer | None = None,
    progress: Progress = lambda stage, fraction: None,
) -> tuple[Bundle, LearnSummary]:
    """Learn a bundle that does to replies what `trait` does as a system prompt.

    Args:
        llm: its own steering is set aside meanwhile; `n_seq_max` above 1 makes everything faster.
        questions: None for the built-in ones, "auto" for the model's own.
        template, stop: for models without a chat template, see `evaluate.Chat`.
        store: from the facts that determine the replies to where they are kept, for a run to go on from.
        against: names of `compare.WAYS`; where there are any, a head-to-head on held-out questions ends it.
        counts, sentiment: what the head-to-head counts besides.
        levels: multiples of the strengths that it asks at too, see `evaluate.head_to_head`.
        trainer: what `recipe.refine` needs; `edgesteer_converters.train` has one.
        progress: called with the stage and the fraction done of the whole, 0..1.
    Raises:
        LearnError: no trait, too few questions, or no reply that shows the trait.
        MissingExtra: method "psr" without the `onnx` package.
    """
    _check_extras(recipe)
    if recipe.refine is not None and trainer is None:
        raise LearnError(f"refine {recipe.refine!r}: no trainer, expected one; `edgesteer learn` brings it")
    _check_before_work(llm, recipe, against, counts, sentiment)
    check_levels(levels)
    chat = Chat(llm, template, stop)
    maker = Maker(llm.model_info, recipe.scope, name, license, f"Learnt from one sentence: {trait}")
    with llm.steered([]), contextlib.ExitStack() as opened:
        work = Work(chat, trait, recipe, maker, progress, opened)
        asked = questions_of(work, questions)
        yardstick = _yardstick(work, asked)
        work.heeded = heeds(yardstick.scores.mean("trait"))
        work.emphasis = emphasised(recipe, work.heeded)
        data = sample(work, asked, None if store is None else store(_replies_of(work, asked)))
        found, trained, closed = _tuned(work, data, yardstick, trainer)
        bundle = maker.bundle(found.chosen.fits, strength_range(found.dose, recipe.opposite is not None))
        table = None
        if against:
            work.watch.turn_to("compare")
            table = compare(work, data, bundle, yardstick, against, counts, sentiment, closed, levels)
        work.watch.turn_to(None)
    progress("done", 1.0)
    written = own(asked) if questions == "auto" else None
    summary = _summary(work, data, found, yardstick, table, trained, written)
    return bundle.with_metadata(**_facts(work, summary)), summary


def _yardstick(work: Work, asked: Sequence[Question]) -> Yardstick:
    check_asked(work.trait, work.recipe.opposite, asked)
    return Yardstick.of(
        work.chat,
        work.trait,
        [asked[i].text for i in spread(len(asked), _N_MEASURED)],
        min(work.recipe.max_tokens, _MEASURED_TOKENS),
        work.recipe.coherence,
        work.part("prompt"),
    )


def _tuned(
    work: Work, data: Data, yardstick: Yardstick, trainer: Trainer | None
) -> tuple[Tuned, dict[str, Any], Tuned]:
    """The fit at its strength; where a trainer goes on from it, the better of the two, the facts of that, and the fit.

    The blocks are chosen first: what is left out is not trained. The yardstick's questions are not trained on.
    """
    closed = tuned(work, data, yardstick, fit(work, data), work.part("choose"))
    fits, facts = refined(work, data, closed.chosen.fits, trainer, yardstick.plain)
    if not facts:
        return closed, {}, closed
    trained = retuned(work, yardstick, fits, closed.chosen.left_out, work.part("choose again"))
    return better(closed, trained), facts | kept_facts(closed, trained), closed


def _summary(
    work: Work,
    data: Data,
    found: Tuned,
    yardstick: Yardstick,
    table: Table | None,
    trained: dict[str, Any],
    written: int | None,
) -> LearnSummary:
    chosen, dose = found.chosen, found.dose
    return LearnSummary(
        method=label(work.recipe),
        strength=dose.strength,
        layers=len(chosen.fits),
        left_out=tuple(chosen.left_out),
        sampled=data.sampled,
        kept=len(data.pairs),
        dropped=data.dropped,
        tokens=sum(len(pair.reply) for pair in data.pairs),
        explained=mean_explained(chosen.fits),
        dose=dose,
        prompted=prompted_point(yardstick),
        table=table,
        emphasised=work.emphasis,
        written=written,
        refined=trained,
        seconds=work.watch.seconds,
        pairs=tuple(data.pairs),
    )


def _replies_of(work: Work, asked: Sequence[Question]) -> dict[str, Any]:
    """Everything that determines the sampled replies."""
    llm, recipe = work.chat.llm, work.recipe
    names = ("opposite", "best_of", "max_tokens", "temperature", "seed")
    return {
        "model": llm._identity(),
        "trait": work.trait,
        "questions": [dataclasses.asdict(q) for q in asked],
        "template": [work.chat.template, work.chat.stop],
        "lanes": [llm.n_seq_max, llm.n_ctx(), llm.n_batch, llm.n_threads, llm.n_threads_batch],
        "layers": len(kept_layers(work, asked)),
        "emphasis": work.emphasis,
        **{name: getattr(recipe, name) for name in names},
    }


def _facts(work: Work, summary: LearnSummary) -> dict[str, Any]:
    """The manifest's `training` and `evaluation`."""
    spoken = {"template": work.chat.template, "stop": work.chat.stop}
    recipe = {k: v for k, v in {**dataclasses.asdict(work.recipe), **spoken}.items() if v is not None}
    table = {} if summary.table is None else head_to_head_facts(summary.table)
    return {
        "training": {
            "trait": work.trait,
            **recipe,
            "emphasised": work.emphasis,
            **summary.training(),
        },
        "evaluation": {**summary.evaluation(), **table},
    }


def _check_before_work(
    llm: SteeredLlama, recipe: Recipe, against: Sequence[str], counts: Sequence[str], sentiment: bool
) -> None:
    """What can fail at once fails before the minutes of work."""
    tried(llm.model_info, recipe)
    check_counts(counts, sentiment)
    check_ways(recipe, against)


def _check_extras(recipe: Recipe) -> None:
    if recipe.method == "psr" and importlib.util.find_spec("onnx") is None:
        raise MissingExtra("onnx: not installed; needed to write a gate; pip install 'edgesteer[learn]'")
