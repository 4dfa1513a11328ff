"""The stages of learning, each a function of the work before it: questions, replies, fits, blocks.

In:  a Work: a chat, the sentence, a recipe. Out: pairs, a fit for each block, a strength to search around.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from edgesteer.bundle import ModelInfo
from edgesteer.errors import LearnError
from edgesteer.generate import Chat
from edgesteer.generate.progress import Done, spread
from edgesteer.learn import likelihood
from edgesteer.learn.ask import write_questions
from edgesteer.learn.contrast import contrast_rows, refit_sequentially, steered_blocks
from edgesteer.learn.make import Maker, without
from edgesteer.learn.methods import BlockFit, fit_blocks, method
from edgesteer.learn.pairs import Pair, keep_good, sample_pairs
from edgesteer.generate.questions import Question, built_in
from edgesteer.learn.recipe import Recipe, one_of
from edgesteer.learn.rows import Rows
from edgesteer.learn.store import ReplyStore

F32 = npt.NDArray[np.float32]
Progress = Callable[[str, float], None]

# Rough shares of the time that the stages take, for the time left.
_PLAIN = {
    "ask": 0.0,
    "prompt": 0.1,
    "sample": 0.35,
    "contrast": 0.15,
    "fit": 0.03,
    "choose": 0.37,
}
_REFINING = {
    "ask": 0.0,
    "prompt": 0.04,
    "sample": 0.13,
    "contrast": 0.05,
    "fit": 0.01,
    "choose": 0.16,
    "refine": 0.25,
    "own replies": 0.05,
    "refine again": 0.15,
    "choose again": 0.16,
}

# Teacher's activations are kept from the sampling where they take no more; else they are computed again.
_SEEN_BYTES = 384 << 20

# Of SmolLM2-135M's replies the pirate prompt's show 0.39; those of sea, gloom and brevity 0.1 to 0.14, and replies
# sampled with the sentence behind the question twice to four times as much. For the pirate that makes the bundle
# worse at equal coherence.
_HEEDED = 0.25

# Pairs that likelihoods are read on.
_N_JUDGES = 6

# Depths, as shares of all blocks, at which a single block is tried.
_DEPTHS = (0.4, 0.55, 0.7)


@dataclass
class Stopwatch:
    """How long each stage took, from its beginning to the next one's."""

    seconds: dict[str, float] = field(default_factory=dict)
    _stage: str | None = None
    _since: float = 0.0

    def turn_to(self, stage: str | None) -> None:
        """None: what follows belongs to none."""
        now = time.monotonic()
        if self._stage is not None:
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = stage, now


@dataclass
class Work:
    """One run: what every stage needs, the rows that several use, and how long each stage took."""

    chat: Chat
    trait: str
    recipe: Recipe
    maker: Maker
    progress: Progress
    open: contextlib.ExitStack
    rows: dict[str, Rows] = field(default_factory=dict)
    watch: Stopwatch = field(default_factory=Stopwatch)
    emphasis: bool = False
    heeded: bool = True

    def part(self, stage: str) -> Done:
        """The stage begins; to be told how much of it is done."""
        shares = _PLAIN if self.recipe.refine is None else _REFINING
        names = list(shares)
        before = sum(shares[name] for name in names[: names.index(stage)])
        self.watch.turn_to(stage)
        return lambda fraction: self.progress(stage, before + shares[stage] * min(fraction, 1.0))

    def telling(self, what: str, fraction: float) -> Work:
        """The same work, whose stages report no more than `what`."""
        told: Progress = lambda stage, part: self.progress(what, fraction)  # noqa: E731
        return replace(self, progress=told, watch=Stopwatch())


@dataclass(frozen=True, slots=True)
class Data:
    """Pairs worth learning from, and the teacher's activations where they were kept."""

    pairs: list[Pair]
    seen: list[F32 | None]
    sampled: int
    dropped: dict[str, int]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The fits of the blocks that stay, those left out, and the strength likeliest for prompted replies."""

    fits: dict[int, BlockFit]
    left_out: list[int]
    likeliest: float


def questions_of(work: Work, given: Sequence[Question | str] | str | None) -> list[Question]:
    if given is None:
        return built_in()
    if isinstance(given, str):
        one_of("questions", given, ("auto",))
        return write_questions(work.chat, work.trait, seed=work.recipe.seed, progress=work.part("ask"))
    return [q if isinstance(q, Question) else Question(q) for q in given]


def heeds(prompted_trait: float) -> bool:
    """Whether the model heeds the sentence as a system prompt. prompted_trait: of that prompt's own replies, nats a
    token."""
    return prompted_trait >= _HEEDED


def emphasised(recipe: Recipe, heeded: bool) -> bool:
    """Whether replies are sampled with the sentence behind the question too."""
    return recipe.emphasis == "always" or (recipe.emphasis == "auto" and not heeded)


def sample(work: Work, asked: Sequence[Question], store: ReplyStore | None) -> Data:
    """Ask, and keep what shows the trait."""
    recipe, kept = work.recipe, dict[int, F32]()
    pairs = sample_pairs(
        work.chat,
        work.trait,
        asked,
        opposite=recipe.opposite,
        best_of=recipe.best_of,
        emphasis=work.emphasis,
        max_tokens=recipe.max_tokens,
        temperature=recipe.temperature,
        seed=recipe.seed,
        store=store,
        layers=kept_layers(work, asked),
        keep=kept.__setitem__,
        progress=work.part("sample"),
    )
    good, dropped = keep_good(pairs)
    place = {id(pair): i for i, pair in enumerate(pairs)}
    return Data(good, [kept.get(place[id(pair)]) for pair in good], len(pairs), dropped)


def kept_layers(work: Work, asked: Sequence[Question]) -> range:
    """Blocks whose activations the sampling keeps: all that may be steered, where memory holds them."""
    llm, recipe = work.chat.llm, work.recipe
    blocks = steered_blocks(llm.model_info.n_layer)
    replies = len(asked) * (2 if recipe.opposite else 1)
    takes = 4 * replies * recipe.max_tokens * len(blocks) * llm.n_embd()
    return blocks if takes <= _SEEN_BYTES else range(0)


def fit(work: Work, data: Data) -> dict[int, BlockFit]:
    """Every block's fit; of a single block those that are tried."""
    recipe = work.recipe
    name, options = recipe.fitting
    one = method(name)
    if recipe.fit == "sequential" and recipe.blocks == "all":
        return refit_sequentially(
            work.chat,
            data.pairs,
            lambda h, delta, pair: one(h, delta, None, options, pair),
            scope=recipe.scope,
            seen=data.seen,
            progress=work.part("contrast"),
        )
    return fit_blocks(_rows(work, data), one, options, work.part("fit"))


def _rows(work: Work, data: Data) -> Rows:
    """Made once for all that are fitted from them."""
    recipe = work.recipe
    kind = "local" if recipe.blocks == "all" else "accumulated"
    key = f"{kind} {recipe.blocks}"
    if key not in work.rows:
        work.rows[key] = work.open.enter_context(
            contrast_rows(
                work.chat,
                data.pairs,
                kind=kind,
                scope=recipe.scope,
                blocks=None if kind == "local" else tried(work.chat.llm.model_info, recipe),
                seen=data.seen if kind == "local" else None,
                progress=work.part("contrast"),
            )
        )
    return work.rows[key]


def tried(model: ModelInfo, recipe: Recipe) -> list[int]:
    """The blocks that a single block is chosen from, or all. Raises LearnError for one that cannot be steered."""
    blocks, wanted = steered_blocks(model.n_layer), recipe.blocks
    if wanted == "all":
        return list(blocks)
    if not isinstance(wanted, int):
        return sorted({blocks[int(depth * len(blocks))] for depth in _DEPTHS})
    if wanted not in blocks:
        raise LearnError(f"block {wanted}: expected {blocks[0]} to {blocks[-1]} in this model")
    return [wanted]


def choose(work: Work, data: Data, fits: dict[int, BlockFit], tell: Done) -> Chosen:
    """Which blocks stay, and around which strength to search."""
    judges = [data.pairs[i] for i in spread(len(data.pairs), _N_JUDGES)]
    chat, maker, left_out = work.chat, work.maker, list[int]()
    if work.recipe.blocks == "one":
        best = likelihood.best_block(chat, maker, fits, judges, tell)
        fits = {best: fits[best]}
    likeliest = likelihood.likeliest(chat, maker.bundle(fits), judges, tell)
    if work.recipe.prune and len(fits) > 1:
        left_out = likelihood.droppable(chat, maker, fits, likeliest, judges, tell)
        fits = without(fits, left_out)
    return Chosen(fits, left_out, likeliest)
