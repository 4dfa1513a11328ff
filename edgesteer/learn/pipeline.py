"""The steps of learning, in order: questions, replies, training rows, and at the end the head-to-head.

In:  a Task, and the results of earlier steps. Out: questions, Replies, Rows, a Table. (The closed form is in
`fit`, training by gradients in `training`, the choice of a strength in `strength`.)
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgesteer.bundle import Bundle, ModelInfo
from edgesteer.errors import LearnError
from edgesteer.evaluate import Table, head_to_head
from edgesteer.evaluate.head_to_head import check_counts, check_levels
from edgesteer.evaluate.judging import Judge
from edgesteer.generate.progress import Done, Progress, no_progress, portion, spread
from edgesteer.generate.questions import Question, strength_questions, training_questions
from edgesteer.learn.contrast import contrast_rows, steered_blocks
from edgesteer.learn.fit import fit_blocks
from edgesteer.learn.forecast import N_FORECAST, Forecast, forecast, late_blocks
from edgesteer.learn.pairs import Limits, Pair, keep_good, sample_pairs
from edgesteer.learn.part_file import PartFile
from edgesteer.learn.recipe import EFFORTS, Recipe
from edgesteer.learn.rows import Rows
from edgesteer.learn.strength import Yardstick, strength_range, tune
from edgesteer.learn.task import Task

F32 = npt.NDArray[np.float32]

# The simpler recipes to compare with: method and blocks.
COMPARED = {
    "A-Const": ("constant", "all"),
    "S-Const": ("constant", "one"),
    "S-PSR": ("psr", "one"),
    "A-PSR": ("psr", "all"),
}

# Keep the teacher's activations from sampling, in memory and in OUTPUT.part, up to this many bytes; beyond,
# compute them again.
_TEACHER_BYTES = 384 << 20

# From how many given questions on some are set aside for the strength.
_ENOUGH = 24

# Tokens of a reply in the head-to-head.
_COMPARED_TOKENS = 48

# Depths at which a single block is tried, as shares of all blocks.
_DEPTHS = (0.4, 0.55, 0.7)


def questions_of(
    recipe: Recipe, given: Sequence[Question | str] | None
) -> tuple[list[Question], list[str]]:
    """The questions to learn from, and those to choose the strength on, which are at most the effort's.

    given: None for the built-in ones, as many as the effort takes. Of _ENOUGH given ones without a written
        reply up to a third is set aside for the strength; of fewer, all serve for both.
    """
    effort = EFFORTS[recipe.effort]
    if given is None:
        training = [Question(q) for q in training_questions(effort.questions)]
        return training, strength_questions()[: effort.measured]
    asked = [q if isinstance(q, Question) else Question(q) for q in given]
    answered = {q.text for q in asked if q.reply is not None}
    open_ones = list(dict.fromkeys(q.text for q in asked if q.text not in answered))
    if len(open_ones) < _ENOUGH:
        return asked, list(dict.fromkeys(q.text for q in asked))[: effort.measured]
    thirds = open_ones[::3]
    apart = [thirds[i] for i in spread(len(thirds), effort.measured)]
    return [q for q in asked if q.text not in apart], apart


@dataclass(frozen=True, slots=True)
class Replies:
    """Pairs worth learning from, and for each the teacher's activations if they were kept.

    sampled: how many pairs there were before any was dropped. dropped: reason -> how many.
    forecast: from the first replies; None if too few of them are good enough for one.
    """

    pairs: list[Pair]
    teacher: list[F32 | None]
    sampled: int
    dropped: dict[str, int]
    forecast: Forecast | None


def sample(
    task: Task,
    questions: Sequence[Question],
    emphasis: bool,
    limits: Limits,
    part: PartFile,
    progress: Done,
    *,
    trains: bool,
    on_forecast: Callable[[Forecast], None],
) -> Replies:
    """Sample replies to the questions, and keep those to learn from.

    trains: whether a trainer learns from them, which needs neither the trait in each of them nor activations.
    on_forecast: called after the first replies.
    """
    pairs, teacher, said = list[Pair](), list[F32 | None](), None
    blocks = kept_blocks(task, len(questions), trains)
    by_text: dict[str, list[Question]] = {}  # the written replies to a question stay together
    for question in questions:
        by_text.setdefault(question.text, []).append(question)
    first = list(itertools.chain(*[*by_text.values()][:N_FORECAST]))
    rest = list(itertools.chain(*[*by_text.values()][N_FORECAST:]))
    for begin, some in ((0, first), (len(first), rest)):
        seen, layers = dict[int, F32](), blocks if pairs or blocks else late_blocks(task)
        new = sample_pairs(
            task.chat,
            task.trait,
            some,
            task.recipe,
            emphasis=emphasis,
            part=part,
            layers=layers,
            keep=seen.__setitem__,
            progress=portion(progress, begin, len(some), len(questions)),
        )
        if not pairs and (said := forecast(task, new, seen, layers)) is not None:
            on_forecast(said)
        pairs += new
        teacher += [seen.get(i) if blocks else None for i in range(len(new))]
    shortest = min(limits.min_tokens, task.recipe.max_tokens)
    good, dropped = keep_good(pairs, dataclasses.replace(limits, min_tokens=shortest), any_trait=trains)
    place = {id(pair): i for i, pair in enumerate(pairs)}
    return Replies(good, [teacher[place[id(pair)]] for pair in good], len(pairs), dropped, said)


def kept_blocks(task: Task, n_questions: int, trains: bool) -> range:
    """The blocks whose activations sampling keeps: all that may be steered; none for a trainer, or beyond the
    limit."""
    llm, recipe = task.chat.llm, task.recipe
    blocks = steered_blocks(llm.model_info.n_layer)
    n_replies = n_questions * (2 if recipe.opposite else 1)
    n_bytes = 4 * n_replies * recipe.max_tokens * len(blocks) * llm.n_embd()
    return blocks if n_bytes <= _TEACHER_BYTES and not trains else range(0)


def training_rows(task: Task, replies: Replies, progress: Done) -> Rows:
    """The rows that the recipe's blocks are fitted to; the caller closes them."""
    every = task.recipe.blocks == "all"
    return contrast_rows(
        task.chat,
        replies.pairs,
        kind="local" if every else "accumulated",
        scope=task.recipe.scope,
        blocks=fitted_blocks(task.chat.llm.model_info, task.recipe),
        teacher=replies.teacher if every else None,
        progress=progress,
    )


def fitted_blocks(model: ModelInfo, recipe: Recipe) -> list[int]:
    """All blocks that can be steered; or the candidates for the best one; or the block that the recipe names.

    Raises LearnError for a block that cannot be steered.
    """
    blocks, wanted = steered_blocks(model.n_layer), recipe.blocks
    if wanted == "all":
        return list(blocks)
    if not isinstance(wanted, int):
        return sorted({blocks[int(depth * len(blocks))] for depth in _DEPTHS})
    if wanted not in blocks:
        raise LearnError(f"block {wanted}: expected {blocks[0]} to {blocks[-1]} in this model")
    return [wanted]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A head-to-head of what is learnt with simpler recipes.

    against: names in COMPARED, or the summary's `method`.
    counts, sentiment, levels, judge: as in `evaluate.head_to_head`.
    """

    against: Sequence[str]
    counts: Sequence[str] = ()
    sentiment: bool = False
    levels: Sequence[float] = ()
    judge: Judge | None = None

    def check(self, label: str) -> None:
        """Raises LearnError for an unknown name, InputError for what cannot be measured."""
        check_counts(self.counts, self.sentiment)
        check_levels(self.levels)
        if unknown := sorted(set(self.against) - COMPARED.keys() - {label}):
            raise LearnError(f"compare {unknown[0]!r}: unknown, expected some of {', '.join(COMPARED)}")


def compare(
    task: Task,
    replies: Replies,
    learnt: Bundle,
    label: str,
    yardstick: Yardstick,
    comparison: Comparison,
    progress: Progress,
) -> Table:
    """The head-to-head of `learnt`, called `label`, on held-out questions.

    The others are fitted in closed form to the same replies, and all strengths are chosen on the same
    questions for the same target.
    """
    others = [name for name in COMPARED if name in comparison.against and name != label]
    rows_of_table: list[tuple[str, list[tuple[Bundle, float]]]] = []
    with contextlib.ExitStack() as opened:
        by_blocks: dict[str, Rows] = {}
        for done, name in enumerate(others):
            progress(f"compare: learning {name}", done / len(others) / 2)
            method, blocks = COMPARED[name]
            other = dataclasses.replace(
                task, recipe=dataclasses.replace(task.recipe, method=method, blocks=blocks)
            )
            if blocks not in by_blocks:
                by_blocks[blocks] = opened.enter_context(training_rows(other, replies, no_progress))
            tuned = tune(other, fit_blocks(by_blocks[blocks], other.recipe), replies.pairs, yardstick)
            bundle = other.bundle(tuned.fits, strength_range(tuned.dose, both_ways=False))
            rows_of_table.append((name, [(bundle, tuned.dose.strength)]))
    rows_of_table.append((label, [(learnt, learnt.strength.default)]))
    return head_to_head(
        task.chat,
        task.trait,
        rows_of_table,
        max_tokens=_COMPARED_TOKENS,
        counts=comparison.counts,
        with_sentiment=comparison.sentiment,
        levels=comparison.levels,
        judge=comparison.judge,
        progress=lambda name, part: progress(f"compare: {name}", 0.5 + part / 2),
    )
