"""From one sentence to a bundle: sample, contrast, fit, choose a strength, compare.

In:  a model, the trait's sentence, a Recipe, questions.
Out: a Bundle and a LearnSummary. The same model file, arguments and thread count give the same bytes.

All passes run through llama.cpp on the quantized model; only the `onnx` extra is needed besides, to write the
gate. Replies, fit and strength see training questions alone; the head-to-head asks others.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesteer.bundle import Bundle
from edgesteer.errors import LearnError, MissingExtra
from edgesteer.evaluate import Chat, Table, head_to_head
from edgesteer.learn import likelihood
from edgesteer.learn.ask import write_questions
from edgesteer.learn.calibrate import Yardstick, strength_range
from edgesteer.learn.contrast import contrast_rows, refit_sequentially, steered_blocks
from edgesteer.learn.make import Maker, without
from edgesteer.learn.methods import BlockFit, fit_blocks, method
from edgesteer.learn.pairs import Pair, keep_good, sample_pairs
from edgesteer.learn.questions import Question, built_in
from edgesteer.learn.recipe import Recipe, one_of
from edgesteer.learn.store import ReplyStore
from edgesteer.learn.summary import LearnSummary, head_to_head_facts, mean_explained, prompted_point
from edgesteer.runtime import SteeredLlama

F32 = npt.NDArray[np.float32]
Progress = Callable[[str, float], None]
Fits = dict[int, BlockFit]


# Rough shares of the time that the stages take, for the time left.
_STAGES = {"ask": 0.0, "sample": 0.45, "contrast": 0.15, "fit": 0.05, "choose": 0.35}

# Teacher's activations are kept from the sampling where they take no more; else they are computed again.
_SEEN_BYTES = 384 << 20

# Pairs that likelihoods are read on, and questions that strengths are measured on.
_N_JUDGES = 8
_N_MEASURED = 12

# Depths, as shares of all blocks, at which a single block is tried.
_DEPTHS = (0.3, 0.45, 0.55, 0.65, 0.8)


@dataclass
class _Work:
    """One run: what every stage needs, and how long each took."""

    chat: Chat
    trait: str
    recipe: Recipe
    maker: Maker
    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    def part(self, stage: str) -> Callable[[float], None]:
        names = list(_STAGES)
        before = sum(_STAGES[name] for name in names[: names.index(stage)])
        started = time.monotonic() - self.seconds.get(stage, 0.0)

        def tell(fraction: float) -> None:
            self.seconds[stage] = time.monotonic() - started
            self.progress(stage, before + _STAGES[stage] * min(fraction, 1.0))

        return tell


@dataclass(frozen=True, slots=True)
class _Data:
    """Pairs worth learning from, and the teacher's activations where they were kept."""

    pairs: list[Pair]
    seen: list[F32 | None]
    sampled: int
    dropped: dict[str, int]


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
    compare: bool = False,
    counts: Sequence[str] = (),
    sentiment: bool = False,
    progress: Progress = lambda stage, fraction: None,
) -> tuple[Bundle, LearnSummary]:
    """Learn a bundle that does to replies what `trait` does as a system prompt.

    Args:
        llm: its own steering is set aside meanwhile; `n_seq_max` above 1 makes everything faster.
        questions: None for the built-in ones, "auto" for the model's own.
        template, stop: for models without a chat template, see `evaluate.Chat`.
        store: from the facts that determine the replies to where they are kept, for a run to go on from.
        compare: end with the head-to-head on held-out questions, against A-Const and S-PSR of the same pairs.
        counts, sentiment: what the head-to-head counts besides.
        progress: called with the stage and the fraction done of the whole, 0..1.
    Raises:
        LearnError: no trait, too few questions, or no reply that shows the trait.
        MissingExtra: method "psr" without the `onnx` package.
    """
    _check_extras(recipe)
    chat = Chat(llm, template, stop)
    maker = Maker(llm.model_info, recipe.scope, name, license, f"Learnt from one sentence: {trait}")
    work = _Work(chat, trait, recipe, maker, progress)
    with llm.steered([]):
        asked = _questions(work, questions)
        data = _sample(work, asked, None if store is None else store(_replies_of(work, asked)))
        fits = _fit(work, data, recipe)
        left_out, fits, likeliest = _choose(work, data, fits)
        yardstick = _yardstick(work, data)
        dose = yardstick.dose(chat, maker.bundle(fits), likeliest, _half(work.part("choose"), 1))
        bundle = maker.bundle(fits, strength_range(dose, recipe.opposite is not None))
        table = _compare(work, data, bundle, yardstick, counts, sentiment) if compare else None
    progress("done", 1.0)
    summary = LearnSummary(
        method=f"{recipe.method}, {recipe.blocks if recipe.blocks == 'all' else 'one block'}",
        strength=dose.strength,
        layers=len(bundle.layers),
        left_out=tuple(left_out),
        sampled=data.sampled,
        kept=len(data.pairs),
        dropped=data.dropped,
        tokens=sum(len(pair.reply) for pair in data.pairs),
        explained=mean_explained(fits),
        dose=dose,
        prompted=prompted_point(yardstick),
        table=table,
        seconds=work.seconds,
        pairs=tuple(data.pairs),
    )
    return bundle.with_metadata(**_facts(work, summary)), summary


# -- stages ------------------------------------------------------------------------------------------


def _questions(work: _Work, questions: Sequence[Question | str] | str | None) -> list[Question]:
    if questions is None:
        return built_in()
    if isinstance(questions, str):
        one_of("questions", questions, ("auto",))
        return write_questions(work.chat, work.trait, seed=work.recipe.seed, progress=work.part("ask"))
    return [q if isinstance(q, Question) else Question(q) for q in questions]


def _sample(work: _Work, asked: Sequence[Question], store: ReplyStore | None) -> _Data:
    recipe = work.recipe
    kept: dict[int, F32] = {}
    pairs = sample_pairs(
        work.chat,
        work.trait,
        asked,
        opposite=recipe.opposite,
        best_of=recipe.best_of,
        emphasis=recipe.emphasis,
        max_tokens=recipe.max_tokens,
        temperature=recipe.temperature,
        seed=recipe.seed,
        store=store,
        layers=_kept_layers(work, asked),
        keep=kept.__setitem__,
        progress=work.part("sample"),
    )
    good, dropped = keep_good(pairs)
    place = {id(pair): i for i, pair in enumerate(pairs)}
    return _Data(good, [kept.get(place[id(pair)]) for pair in good], len(pairs), dropped)


def _kept_layers(work: _Work, asked: Sequence[Question]) -> range:
    """Blocks whose activations the sampling keeps: all that may be steered, where memory holds them."""
    llm, recipe = work.chat.llm, work.recipe
    blocks = steered_blocks(llm.model_info.n_layer)
    replies = len(asked) * (2 if recipe.opposite else 1)
    takes = 4 * replies * recipe.max_tokens * len(blocks) * llm.n_embd()
    return blocks if takes <= _SEEN_BYTES else range(0)


def _fit(work: _Work, data: _Data, recipe: Recipe) -> Fits:
    """Every block's fit; of a single block those that are tried."""
    name, options = recipe.fitting
    fit = method(name)
    told: dict[str, Any] = {"scope": recipe.scope, "seen": data.seen, "progress": work.part("contrast")}
    if recipe.blocks != "all":
        told |= {"kind": "accumulated", "blocks": _tried(work, recipe), "seen": None}
    elif recipe.fit == "sequential":
        return refit_sequentially(work.chat, data.pairs, lambda h, d, w, p: fit(h, d, w, options, p), **told)
    with contrast_rows(work.chat, data.pairs, **told) as rows:
        return fit_blocks(rows, fit, options, work.part("fit"))


def _tried(work: _Work, recipe: Recipe) -> list[int]:
    blocks = steered_blocks(work.chat.llm.model_info.n_layer)
    if isinstance(recipe.blocks, int):
        if recipe.blocks not in blocks:
            raise LearnError(f"block {recipe.blocks}: expected {blocks[0]} to {blocks[-1]} in this model")
        return [recipe.blocks]
    return sorted({blocks[int(depth * len(blocks))] for depth in _DEPTHS})


def _choose(work: _Work, data: _Data, fits: Fits) -> tuple[list[int], Fits, float]:
    """Blocks left out, those that stay, and the strength that is likeliest for prompted replies."""
    judges = [data.pairs[i] for i in _spread(len(data.pairs), _N_JUDGES)]
    tell, dropped = _half(work.part("choose"), 0), []
    if work.recipe.blocks == "one":
        best, _ = likelihood.best_block(work.chat, work.maker, fits, judges, tell)
        fits = {best: fits[best]}
    strength, _ = likelihood.likeliest(work.chat, work.maker.bundle(fits), judges, tell)
    if work.recipe.prune and len(fits) > 1:
        dropped = likelihood.droppable(work.chat, work.maker, fits, strength, judges, tell)
        fits = without(fits, dropped)
    return dropped, fits, strength


def _yardstick(work: _Work, data: _Data) -> Yardstick:
    chosen = [p for p in data.pairs if p.sign == 1]
    asked = [chosen[i].question for i in _spread(len(chosen), _N_MEASURED)]
    recipe = work.recipe
    return Yardstick.of(
        work.chat,
        work.trait,
        asked,
        recipe.max_tokens,
        recipe.coherence,
        _half(work.part("choose"), 0),
    )


def _compare(
    work: _Work, data: _Data, bundle: Bundle, yardstick: Yardstick, counts: Sequence[str], sentiment: bool
) -> Table:
    """The head-to-head: this bundle beside the recipes' others, each at the same target."""
    ways = [(_label(work.recipe), bundle, bundle.strength.default)]
    quiet = dataclasses.replace(work, progress=lambda stage, fraction: work.progress("compare", 1.0))
    for kind, blocks in (("constant", "all"), ("psr", "one")):
        other = dataclasses.replace(work.recipe, method=kind, blocks=blocks, gate="relu", fit="local")
        if _label(other) == ways[0][0]:
            continue
        _, fits, likeliest = _choose(dataclasses.replace(quiet, recipe=other), data, _fit(quiet, data, other))
        dose = yardstick.dose(work.chat, work.maker.bundle(fits), likeliest, lambda fraction: None)
        ways.insert(-1, (_label(other), work.maker.bundle(fits, strength_range(dose, False)), dose.strength))
    return head_to_head(
        work.chat,
        work.trait,
        ways,
        max_tokens=work.recipe.max_tokens,
        counts=counts,
        with_sentiment=sentiment,
        progress=lambda name, fraction: work.progress(f"compare: {name}", fraction),
    )


# -- facts -------------------------------------------------------------------------------------------


def _replies_of(work: _Work, asked: Sequence[Question]) -> dict[str, Any]:
    """Everything that determines the sampled replies."""
    llm, recipe = work.chat.llm, work.recipe
    names = ("opposite", "emphasis", "best_of", "max_tokens", "temperature", "seed")
    return {
        "model": llm._identity(),
        "trait": work.trait,
        "questions": [dataclasses.asdict(q) for q in asked],
        "template": [work.chat.template, work.chat.stop],
        "lanes": [llm.n_seq_max, llm.n_ctx(), llm.n_batch, llm.n_threads, llm.n_threads_batch],
        "layers": len(_kept_layers(work, asked)),
        **{name: getattr(recipe, name) for name in names},
    }


def _facts(work: _Work, summary: LearnSummary) -> dict[str, Any]:
    """The manifest's `training` and `evaluation`."""
    recipe = {k: v for k, v in dataclasses.asdict(work.recipe).items() if v is not None}
    spoken = {"template": work.chat.template, "stop": work.chat.stop}
    training = {"trait": work.trait, **recipe, **{k: v for k, v in spoken.items() if v is not None}}
    table = {} if summary.table is None else head_to_head_facts(summary.table)
    return {
        "training": {**training, **summary.training()},
        "evaluation": {**summary.evaluation(), **table},
    }


def _label(recipe: Recipe) -> str:
    return ("A-" if recipe.blocks == "all" else "S-") + ("PSR" if recipe.method == "psr" else "Const")


def _check_extras(recipe: Recipe) -> None:
    if recipe.method == "psr" and importlib.util.find_spec("onnx") is None:
        raise MissingExtra("onnx: not installed; needed to write a gate; pip install 'edgesteer[learn]'")


def _half(tell: Callable[[float], None], which: int) -> Callable[[float], None]:
    return lambda fraction: tell((which + fraction) / 2)


def _spread(n: int, most: int) -> list[int]:
    """At most `most` of the indices 0 .. n-1, evenly spaced."""
    return list(range(n)) if n <= most else [i * n // most for i in range(most)]
