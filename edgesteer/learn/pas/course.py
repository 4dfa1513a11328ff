"""From a labelled file to a bundle: split, introspect, contrast, search, and judge once.

    items --split--> train --what the model gets wrong--> vectors --validation grid--> a cell --test--> PasReport

In:  a model, items, a PasRecipe. Out: a Bundle and a PasReport. The same model file, items, arguments and thread
count give the same bytes.

The order is the method: nothing of the test split is asked before the cell is chosen, and then it is asked once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgesteer.bundle import Bundle, StrengthRange
from edgesteer.errors import LearnError
from edgesteer.generate.progress import Done
from edgesteer.learn.pas.answers import Cell, cells_of, under, unsteered
from edgesteer.learn.pas.control import control_items
from edgesteer.learn.pas.items import Item
from edgesteer.learn.pas.judge import Scores, right, scores
from edgesteer.learn.pas.prompts import Asker
from edgesteer.learn.pas.recipe import PasRecipe
from edgesteer.learn.pas.report import PasReport, Shots, Skipped, Trial
from edgesteer.learn.pas.search import Grid, check_grid, default_blocks, grid
from edgesteer.learn.pas.shelf import Shelf
from edgesteer.learn.pas.split import Split, prepare, with_shuffled_labels
from edgesteer.learn.pas.talk import free_text
from edgesteer.learn.pas.variants import contrast, vectors
from edgesteer.runtime import SteeredLlama

Progress = Callable[[str, float], None]

# Rough shares of a trial's time, for the time left.
_SHARES = {"introspect": 0.25, "contrast": 0.15, "search": 0.45, "test": 0.15}

# Tokens of an exemplar's reply with its end.
_REPLY = 8

# Wide enough for every strength of a grid.
_TRIAL = StrengthRange(1.0, -1000.0, 1000.0)


def pas(
    llm: SteeredLlama,
    items: Sequence[Item],
    recipe: PasRecipe = PasRecipe(),  # noqa: B008 - immutable
    *,
    name: str = "steering",
    license: str = "unspecified",
    source: str = "the data",
    shelf: Shelf | None = None,
    progress: Progress = lambda stage, fraction: None,
) -> tuple[Bundle, PasReport]:
    """Learn a constant vector in one block from labelled items.

    Args:
        llm: its own steering is set aside meanwhile; `n_seq_max` above 1 makes everything faster.
        items: as the readers of `formats` give them; each trial permutes and splits them anew.
        source: what messages call the items, such as their file.
        shelf: where answers are kept for a stopped run to go on from.
        progress: called with the stage and the fraction done of the whole, 0..1.
    Raises LearnError for items that cannot be learnt from, or a grid that does not fit the model.
    """
    started = time.monotonic()
    blocks = list(recipe.blocks or default_blocks(llm.model_info.n_layer))
    check_grid(llm.model_info.n_layer, blocks, recipe.strengths)
    work = _Work(llm, recipe, blocks, Shelf() if shelf is None else shelf, progress, name, license, source)
    fitting, skipped = _fitting(work, items)
    with llm.steered([]):
        trials = [_trial(work, fitting, number) for number in range(recipe.trials)]
        first = trials[0]
        bundle, report = work.bundle_of(first), first.trial
        talk = free_text(first.asker.chat, bundle, report.chosen.strength, work.part("talk", recipe.trials))
        control = _control(work, first)
    progress("done", 1.0)
    told = PasReport(
        recipe=recipe,
        blocks=tuple(blocks),
        skipped=skipped,
        trials=tuple(trial.trial for trial in trials),
        control=control,
        free_text=talk,
        shots=first.shots,
        seconds=time.monotonic() - started,
    )
    return bundle.with_metadata(training=told.training(), evaluation=told.evaluation()), told


@dataclass
class _Done:
    """A trial, with what its bundle is made of."""

    trial: Trial
    asker: Asker
    bundles: dict[int, Bundle]
    shots: Shots | None


@dataclass
class _Work:
    llm: SteeredLlama
    recipe: PasRecipe
    blocks: list[int]
    shelf: Shelf
    progress: Progress
    name: str
    license: str
    source: str

    def part(self, stage: str, trial: int) -> Done:
        """To be told how much of this stage of this trial is done; the last twentieth is for talk and control."""
        whole, names = 0.95 / self.recipe.trials, list(_SHARES)
        if stage not in _SHARES:
            return lambda fraction: self.progress(
                stage, 0.95 + (0.03 if stage == "control" else 0) + 0.02 * fraction
            )
        before = sum(_SHARES[one] for one in names[: names.index(stage)])
        return lambda fraction: self.progress(stage, whole * (trial + before + _SHARES[stage] * fraction))

    def bundle(self, block: int, vector: object, strength: StrengthRange = _TRIAL) -> Bundle:
        return Bundle.build(
            directions={block: vector},  # type: ignore[dict-item]
            gate=None,
            model=self.llm.model_info,
            scope=self.recipe.scope,
            strength=strength,
            name=self.name,
            license=self.license,
            description=f"{self.recipe.variant} from labelled items, block {block}",
        )

    def bundle_of(self, done: _Done) -> Bundle:
        """The chosen cell's, with the range that was searched."""
        chosen, tried = done.trial.chosen, [0.0, *self.recipe.strengths]
        vector = done.bundles[chosen.block].directions[chosen.block]
        return self.bundle(chosen.block, vector, StrengthRange(chosen.strength, min(tried), max(tried)))


def _fitting(work: _Work, items: Sequence[Item]) -> tuple[list[Item], Skipped]:
    """The items that the context holds, and how many it does not, with room for the grid's lanes."""
    asker, room, shots = Asker(work.llm), work.llm.n_ctx() - work.llm.n_seq_max, work.recipe.shots
    lengths = [len(asker.prompt(item)) for item in items]
    # Exemplars stand in front of every item, with their replies: each may be as long as the longest that is kept.
    room = (room - _REPLY * shots) // (shots + 1)
    kept = [item for item, n in zip(items, lengths, strict=True) if n <= room]
    if items and not kept:
        raise LearnError(
            f"all {len(items)} items are longer than the context leaves room for ({room} tokens; the shortest has "
            f"{min(lengths)}); give a larger -c"
        )
    return kept, Skipped(len(items) - len(kept), room)


def _trial(work: _Work, items: Sequence[Item], number: int) -> _Done:
    recipe = work.recipe
    seed = recipe.seed + number
    parts = prepare(items, seed, work.source)
    if recipe.shuffle_labels:
        parts = with_shuffled_labels(parts, seed)
    asker, train = _introspected(work, parts)
    answered = unsteered(asker, train, work.shelf, work.part("introspect", number))
    found = contrast(asker, train, answered.tolist(), recipe.variant)
    moved = vectors(asker, work.blocks, found, work.part("contrast", number))
    bundles = {block: work.bundle(block, vector) for block, vector in moved.items() if vector.any()}
    if len(bundles) < len(moved):
        raise LearnError("right and wrong texts are the same to this model; there is nothing to learn from")
    searched = _searched(work, asker, parts.validation, bundles, number)
    chosen = {measure: searched.best(measure) for measure in searched.values}
    tested = _tested(work, asker, parts.test, bundles, chosen, number)
    trial = Trial(
        seed=seed,
        sizes=(len(parts.train), len(parts.validation), len(parts.test)),
        duplicates=parts.duplicates,
        wrong=int((~right(train, answered)).sum()),
        texts=(len(found.positive), len(found.negative)),
        norms={block: float((vector**2).sum() ** 0.5) for block, vector in moved.items()},
        grid=searched,
        by=recipe.choose,
        choices=chosen,
        test=tested,
    )
    return _Done(trial, asker, bundles, _without_shots(work, asker, parts.test))


def _introspected(work: _Work, parts: Split) -> tuple[Asker, tuple[Item, ...]]:
    """Who asks, and the training items that are left when exemplars were taken from those answered wrong."""
    asker, k = Asker(work.llm), work.recipe.shots
    if not k:
        return asker, parts.train
    answered = unsteered(asker, parts.train, work.shelf)
    wrong = [item for item, ok in zip(parts.train, right(parts.train, answered), strict=True) if not ok]
    if len(wrong) <= k:
        raise LearnError(
            f"{len(wrong)} training items are answered wrong, expected more than --shots {k}; take fewer"
        )
    exemplars = wrong[:k]  # the split has put the items into random order
    left = tuple(item for item in parts.train if item not in exemplars)
    return asker.with_shots(exemplars), left


def _without_shots(work: _Work, asker: Asker, test: Sequence[Item]) -> Shots | None:
    """What the exemplars alone do to the test split; asked last."""
    if not asker.shots:
        return None
    plain = right(test, unsteered(Asker(work.llm), test, work.shelf))
    return Shots(len(asker.shots), float(plain.mean()), tuple(item.question for item in asker.shots))


def _searched(
    work: _Work, asker: Asker, items: Sequence[Item], bundles: dict[int, Bundle], number: int
) -> Grid:
    strengths = work.recipe.strengths
    cells = cells_of(work.blocks, strengths)
    told = work.part("search", number)
    answered = under(asker, items, bundles, cells, work.recipe.scope, work.shelf, told)
    return grid(items, work.blocks, strengths, answered)


def _tested(
    work: _Work,
    asker: Asker,
    items: Sequence[Item],
    bundles: dict[int, Bundle],
    chosen: dict[str, Cell],
    number: int,
) -> dict[str, Scores]:
    """For each way to choose, the test split before and after, side by side in one batch."""
    told = work.part("test", number)
    cells = [Cell(next(iter(bundles)), 0.0), *dict.fromkeys(chosen.values())]
    answered = under(asker, items, bundles, cells, work.recipe.scope, work.shelf, told)
    return {
        measure: scores(items, answered[:, 0], answered[:, cells.index(cell)], work.recipe.seed)
        for measure, cell in chosen.items()
    }


def _control(work: _Work, first: _Done) -> Scores:
    """General knowledge, before and after, asked as the items are; nothing was chosen on it."""
    chosen = first.trial.chosen
    asker, items = Asker(work.llm), control_items(work.recipe.seed)
    cells = [Cell(chosen.block, 0.0), chosen]
    told = work.part("control", work.recipe.trials)
    answered = under(asker, items, first.bundles, cells, work.recipe.scope, work.shelf, told)
    return scores(items, answered[:, 0], answered[:, 1], work.recipe.seed)
