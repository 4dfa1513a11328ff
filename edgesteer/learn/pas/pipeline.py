"""Painless Activation Steering, from labelled items to a bundle: split, introspect, contrast, search, test.

    items --split--> train --wrong answers--> vectors --validation grid--> a cell --test--> PasReport

In:  a model, items, a PasRecipe. Out: a Bundle and a PasReport. The same model file, items, arguments and
     thread count give the same bytes, also in a run that was stopped and resumed.

The order matters: the model sees no test item before the cell is chosen, and then each one once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from edgesteer.bundle import Bundle, StrengthRange
from edgesteer.errors import LearnError, SteeringOverflow
from edgesteer.evaluate import held_out_questions
from edgesteer.generate import Chat, measures
from edgesteer.generate.chat import REPEAT_PENALTY, Reply
from edgesteer.generate.progress import Done, Progress, no_progress, portion
from edgesteer.learn.part_file import PartFile
from edgesteer.learn.pas.answers import steered_answers, unsteered_answers
from edgesteer.learn.pas.files import read_items, set_path
from edgesteer.learn.pas.items import Item, Items, prepare, with_shuffled_labels
from edgesteer.learn.pas.prompts import F32, Prompts, contrast, vectors
from edgesteer.learn.pas.report import FreeText, PasRecipe, PasReport, Shots, Skipped, Trial
from edgesteer.learn.pas.scores import I8, Cell, cells_of, grid, right, scores
from edgesteer.runtime import SteeredLlama

Bundles = Mapping[int, Bundle]

# Rough shares of a trial's time; and of the run's time, for all trials and for the steps after them.
_STAGES = {"introspect": 0.25, "contrast": 0.15, "search": 0.45, "test": 0.15}
_TRIALS, _FREE_TEXT = 0.95, 0.03

# Tokens of an exemplar's reply, with its end token.
_REPLY = 8

# Contains every strength of a grid.
_ANY_STRENGTH = StrengthRange(1.0, -1000.0, 1000.0)

_N_QUESTIONS, _MAX_TOKENS = 10, 48


def pas(
    llm: SteeredLlama,
    items: Sequence[Item],
    recipe: PasRecipe = PasRecipe(),  # noqa: B008 - immutable
    *,
    name: str = "steering",
    license: str = "unspecified",
    source: str = "the data",
    known: PartFile | None = None,
    control: Sequence[Item] | None = None,
    questions: Sequence[str] | None = None,
    progress: Progress = no_progress,
) -> tuple[Bundle, PasReport]:
    """Learn a constant vector in one block from labelled items.

    Args:
        llm: its own steering is set aside meanwhile; `n_seq_max` above 1 makes everything faster.
        items: as `read_items` returns them; each trial splits and shuffles them anew.
        source: how messages name the items, such as their file.
        known: the answers of a stopped run, which are not computed again; this run's are added.
        control: items that test general ability, which steering should not reduce; None for the shipped set.
        questions: for steered and unsteered free text; None for ten held-out ones.
        progress: called with the stage and the fraction of the whole that is done, 0..1.
    Raises LearnError for items that cannot be learned from, or a grid that does not fit the model.
    """
    started = time.monotonic()
    blocks = recipe.blocks_of(llm.model_info.n_layer)
    known = PartFile(None, {}) if known is None else known
    run = _Run(llm, recipe, blocks, Prompts(llm), known, name, license, progress)
    control = _control_items(recipe.seed) if control is None else control
    questions = held_out_questions()[:_N_QUESTIONS] if questions is None else questions
    kept, skipped = _that_fit(run, items)
    with llm.steered([]):
        results = [_trial(run, kept, number, source) for number in range(recipe.trials)]
        first = results[0]
        chosen = first.trial.chosen
        bundle = run.bundle_of(chosen, first.bundles)
        shots = _shots(run, first)
        done = portion(partial(progress, "talk"), _TRIALS, _FREE_TEXT, 1)
        text = free_text(first.prompts.chat, bundle, chosen.strength, questions, done)
        done = portion(partial(progress, "control"), _TRIALS + _FREE_TEXT, 1 - _TRIALS - _FREE_TEXT, 1)
        cells = [Cell(chosen.block, 0.0), chosen]
        answers = run.steered(run.prompts, control, first.bundles, cells, done)
    progress("done", 1.0)
    report = PasReport(
        recipe=recipe,
        blocks=blocks,
        skipped=skipped,
        trials=tuple(result.trial for result in results),
        control=scores(control, answers[:, 0], answers[:, 1], recipe.seed),
        free_text=text,
        shots=shots,
        seconds=time.monotonic() - started,
        bad_rows=items.bad_rows if isinstance(items, Items) else 0,
    )
    facts = run.prompts.chat.facts() if run.prompts.has_template else {}
    training = report.training() | {key: value for key, value in facts.items() if value is not None}
    return bundle.with_metadata(training=training, evaluation=report.evaluation()), report


@dataclass(frozen=True)
class _Run:
    """What all steps need, and none changes. prompts: without exemplars."""

    llm: SteeredLlama
    recipe: PasRecipe
    blocks: tuple[int, ...]
    prompts: Prompts
    known: PartFile
    name: str
    license: str
    progress: Progress

    def stage(self, stage: str, trial: int) -> Done:
        """The progress of one stage of one trial."""
        before = sum(list(_STAGES.values())[: list(_STAGES).index(stage)])
        return portion(
            partial(self.progress, stage), trial + before, _STAGES[stage], self.recipe.trials / _TRIALS
        )

    def steered(
        self, prompts: Prompts, items: Sequence[Item], bundles: Bundles, cells: Sequence[Cell], done: Done
    ) -> I8:
        return steered_answers(prompts, items, bundles, cells, self.recipe.scope, self.known, done)

    def bundle(self, block: int, vector: F32, strength: StrengthRange = _ANY_STRENGTH) -> Bundle:
        return Bundle.build(
            directions={block: vector},
            gate=None,
            model=self.llm.model_info,
            scope=self.recipe.scope,
            strength=strength,
            name=self.name,
            license=self.license,
            description=f"{self.recipe.variant} from labelled items, block {block}",
        )

    def bundle_of(self, chosen: Cell, bundles: Bundles) -> Bundle:
        """The bundle of the chosen cell, with the range of strengths that was searched."""
        tried = [0.0, *self.recipe.strengths]
        vector = bundles[chosen.block].directions[chosen.block]
        return self.bundle(chosen.block, vector, StrengthRange(chosen.strength, min(tried), max(tried)))


def _control_items(seed: int) -> tuple[Item, ...]:
    """The shipped control set, with choices shuffled as in a split."""
    split = prepare(read_items(set_path("control")), seed)
    return (*split.train, *split.validation, *split.test)


def _that_fit(run: _Run, items: Sequence[Item]) -> tuple[list[Item], Skipped]:
    """The items that fit into the context beside the grid's lanes, and how many do not."""
    room, shots = run.llm.n_ctx() - run.llm.n_seq_max, run.recipe.shots
    lengths = [len(run.prompts.multiple_choice(item)) for item in items]
    # Exemplars and their replies precede every item; each may be as long as the longest item that is kept.
    room = (room - _REPLY * shots) // (shots + 1)
    kept = [item for item, n in zip(items, lengths, strict=True) if n <= room]
    if items and not kept:
        raise LearnError(
            f"all {len(items)} items are longer than the context leaves room for ({room} tokens; the "
            f"shortest has {min(lengths)}); give a larger -c"
        )
    return kept, Skipped(len(items) - len(kept), room)


# -- one trial -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Result:
    """A trial, and the vectors that its bundle is made from."""

    trial: Trial
    prompts: Prompts
    bundles: Bundles
    test: Sequence[Item]


def _trial(run: _Run, items: Sequence[Item], number: int, source: str) -> _Result:
    recipe = run.recipe
    seed = recipe.seed + number
    split = prepare(items, seed, source)
    if recipe.shuffle_labels:
        split = with_shuffled_labels(split, seed)

    # Introspect: which items does the model answer wrong?
    prompts, train = _with_shots(run, split.train)
    answers = unsteered_answers(prompts, train, run.known, run.stage("introspect", number))

    # Contrast: the vectors from its answers to the targets.
    texts = contrast(prompts, train, answers.tolist(), recipe.variant)
    moved = vectors(prompts, run.blocks, texts, run.stage("contrast", number))
    bundles = {block: run.bundle(block, vector) for block, vector in moved.items()}

    # Search: the block and strength that are best on the validation split, by either measure.
    cells = cells_of(run.blocks, recipe.strengths)
    validated = run.steered(prompts, split.validation, bundles, cells, run.stage("search", number))
    searched = grid(split.validation, run.blocks, recipe.strengths, validated)
    best = {measure: searched.best(measure) for measure in searched.values}

    # Test: the unsteered model and the chosen cells, side by side in one batch.
    cells = [Cell(run.blocks[0], 0.0), *dict.fromkeys(best.values())]
    tested = run.steered(prompts, split.test, bundles, cells, run.stage("test", number))
    trial = Trial(
        seed=seed,
        sizes=(len(split.train), len(split.validation), len(split.test)),
        duplicates=split.duplicates,
        wrong=int((~right(train, answers)).sum()),
        texts=(len(texts.positive), len(texts.negative)),
        norms={block: float((vector**2).sum() ** 0.5) for block, vector in moved.items()},
        grid=searched,
        by=recipe.choose,
        choices=best,
        test={
            measure: scores(split.test, tested[:, 0], tested[:, cells.index(cell)], recipe.seed)
            for measure, cell in best.items()
        },
    )
    return _Result(trial, prompts, bundles, split.test)


def _with_shots(run: _Run, train: Sequence[Item]) -> tuple[Prompts, Sequence[Item]]:
    """Prompts with exemplars, which are training items that are answered wrong, and the other items."""
    n = run.recipe.shots
    if not n:
        return run.prompts, train
    answers = unsteered_answers(run.prompts, train, run.known)
    wrong = [item for item, correct in zip(train, right(train, answers), strict=True) if not correct]
    if len(wrong) <= n:
        raise LearnError(
            f"{len(wrong)} training items are answered wrong, expected more than --shots {n}; take fewer"
        )
    shots = wrong[:n]  # the split has put the items into random order
    return Prompts(run.llm, shots), tuple(item for item in train if item not in shots)


def _shots(run: _Run, first: _Result) -> Shots | None:
    """The test accuracy with the exemplars alone."""
    if not first.prompts.shots:
        return None
    correct = right(first.test, unsteered_answers(run.prompts, first.test, run.known))
    questions = tuple(item.question for item in first.prompts.shots)
    return Shots(len(questions), float(correct.mean()), questions)


# -- free text -------------------------------------------------------------------------------------


def free_text(
    chat: Chat, bundle: Bundle, strength: float, questions: Sequence[str], done: Done = no_progress
) -> FreeText:
    """How the vector changes greedy replies to ordinary questions."""
    prompts = [chat.prompt(question) for question in questions]
    before = _replies(chat, prompts, portion(done, 0, 1, 2))
    (nll, distinct2), text = _measured(chat, prompts, before), chat.text(before[0].tokens)
    try:
        with chat.llm.steered(bundle, strength):
            after = _replies(chat, prompts, portion(done, 1, 1, 2))
    except SteeringOverflow:
        return FreeText((nll, None), (distinct2, None), (questions[0], text, ""))
    steered_nll, steered_distinct2 = _measured(chat, prompts, after)
    sample = questions[0], text, chat.text(after[0].tokens)
    return FreeText((nll, steered_nll), (distinct2, steered_distinct2), sample)


def _replies(chat: Chat, prompts: Sequence[list[int]], done: Done) -> list[Reply]:
    return chat.replies(prompts, _MAX_TOKENS, repeat_penalty=REPEAT_PENALTY, progress=done)


def _measured(chat: Chat, prompts: Sequence[list[int]], replies: Sequence[Reply]) -> tuple[float, float]:
    """Mean nll0 and distinct2 of the replies that are not empty."""
    pairs = [(prompt, reply) for prompt, reply in zip(prompts, replies, strict=True) if reply.all_tokens]
    log_probs = chat.log_probs([(prompt, reply.all_tokens) for prompt, reply in pairs])
    nll = [measures.nll(one) for one in log_probs]
    distinct2 = [measures.distinct(reply.tokens) for _, reply in pairs]
    return float(np.mean(nll)), float(np.mean(distinct2))
