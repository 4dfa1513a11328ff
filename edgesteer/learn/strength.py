"""Choose the default strength, on questions that nothing was learnt from.

In:  fits, pairs, and questions in a fixed mixed order. Out: a Tuned.

There are two measures. The likelihood of prompted replies after the plain prompt is cheap: one pass, no
sampling, smooth in the strength with one minimum. It finds where to begin, and the best of several single
blocks. It does not show how much trait is gained at which coherence; that is measured on steered replies, by
a sequential test (`evaluate.dose`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgesteer.bundle import Bundle, StrengthRange
from edgesteer.errors import LearnError, SteeringOverflow
from edgesteer.evaluate.dose import Answers, Dose, Key, batches, search
from edgesteer.evaluate.intervals import F64
from edgesteer.evaluate.relevance import MIN_QUESTIONS, relevance
from edgesteer.generate.chat import REPEAT_PENALTY, Chat, Reply
from edgesteer.generate.progress import Done, no_progress, portion, spread
from edgesteer.generate.scoring import Scores, score
from edgesteer.learn.fit import BlockFit
from edgesteer.learn.pairs import Pair
from edgesteer.learn.task import Task
from edgesteer.plan import SteeringPlan

# Tokens per reply.
_MEASURED_TOKENS = 40

# Strengths at which likelihoods are computed, and the number of pairs.
_GRID = (0.5, 1.0, 1.5, 2.25)
_N_PAIRS = 6

# The trait of prompted replies from which on the model heeds the prompt, in nats per token. With SmolLM2-135M
# the pirate prompt reaches 0.39; sea, gloom and brevity reach 0.1 to 0.14, and two to four times as much if
# the sentence is repeated after the question. For the pirate, repeating it makes the bundle worse at equal
# coherence.
HEEDED = 0.25


@dataclass(slots=True, eq=False)
class Yardstick:
    """Questions that strengths are measured on, with the prompted and the unsteered replies to them.

    Replies are greedy, and are given when a search first needs them. plain, prompted: the questions' prompts.
    max_tokens: of each reply.
    """

    task: Task
    questions: list[str]
    max_tokens: int
    plain: list[list[int]] = field(init=False, repr=False)
    prompted: list[list[int]] = field(init=False, repr=False)
    _given: dict[tuple[Key, range], _Given] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        chat, trait = self.task.chat, self.task.trait
        prompts: dict[tuple[int, ...], str] = {}
        for question in self.questions:
            prompts.setdefault(tuple(chat.prompt(question, trait)), question)
        self.questions = [*prompts.values()]
        self.prompted = [list(prompt) for prompt in prompts]
        self.plain = [chat.prompt(question) for question in self.questions]

    @classmethod
    def of(cls, task: Task, questions: Sequence[str], progress: Done) -> Yardstick:
        """Measure the prompt on the first of the questions; one that occurs twice is asked once.

        Raises LearnError for no questions.
        """
        if not questions:
            raise LearnError("strength: no questions, expected some that nothing is learnt from")
        yardstick = cls(task, list(questions), min(task.recipe.max_tokens, _MEASURED_TOKENS))
        yardstick.given(None, batches(len(yardstick.questions))[0], progress)
        return yardstick

    @property
    def scores(self) -> Scores:
        """Of the prompted replies so far."""
        each = [given.scores for (key, _), given in self._given.items() if key is None]
        return Scores.joined([scores for scores in each if scores is not None])

    @property
    def heeded(self) -> bool:
        """Whether the model heeds the sentence as a system prompt."""
        return self.scores.mean("trait") >= HEEDED

    def given(self, key: Key, batch: range, progress: Done = no_progress) -> _Given:
        """The prompted replies to a batch of the questions (key None), or the unsteered ones (0)."""
        if (key, batch) not in self._given:
            self._given[key, batch] = self.answered(SteeringPlan(), batch, key is None, progress)
        return self._given[key, batch]

    def answered(
        self, plan: SteeringPlan, batch: range, prompt: bool = False, progress: Done = no_progress
    ) -> _Given:
        """Replies under the plan to a batch of the questions, with the prompt or without."""
        chat = self.task.chat
        plain, prompted = ([each[i] for i in batch] for each in (self.plain, self.prompted))
        try:
            with chat.llm.steered(plan):
                replies = chat.replies(
                    prompted if prompt else plain,
                    self.max_tokens,
                    repeat_penalty=REPEAT_PENALTY,
                    progress=portion(progress, 0, 0.6, 1),
                )
        except SteeringOverflow:
            return _Given([], None)
        unsteered = None if plan else "prompted" if prompt else "plain"
        return _Given(replies, score(chat, replies, plain, prompted, unsteered))

    def relevance(self, given: _Given, batch: range) -> F64:
        """The relevance of replies to a batch of the questions; 0 if steering overflowed."""
        if given.scores is None:
            return np.zeros(len(batch))
        questions, own = [self.questions[i] for i in batch], [one.prompted for one in given.scores.by_token]
        task = self.task
        return relevance(task.chat, task.trait, questions, given.replies, among=MIN_QUESTIONS, own=own).nats

    def dose(self, bundle: Bundle, around: float, progress: Done) -> Dose:
        """The largest strength that keeps to the bounds, searched from `around` on."""
        asked = _Asked(self, SteeringPlan.of([(bundle, 1.0, None)]))
        n, target = len(self.questions), self.task.recipe.coherence
        return search(asked, n, around, target=target, progress=progress)


@dataclass(frozen=True, slots=True)
class _Given:
    """Replies and their scores; no scores if steering overflowed."""

    replies: list[Reply]
    scores: Scores | None


@dataclass(slots=True, eq=False)
class _Asked:
    """What the search asks: the yardstick's questions under multiples of a plan."""

    yardstick: Yardstick
    unit: SteeringPlan
    _given: dict[tuple[float, range], _Given] = field(default_factory=dict)

    def prompted(self, questions: range) -> Answers:
        return _answers(self._replies(None, questions), len(questions))

    def steered(self, strength: float, questions: range) -> Answers:
        return _answers(self._replies(strength, questions), len(questions))

    def relevance(self, strength: float | None, questions: range) -> F64:
        return self.yardstick.relevance(self._replies(strength, questions), questions)

    def _replies(self, key: Key, batch: range) -> _Given:
        if not key:
            return self.yardstick.given(key, batch)
        if (key, batch) not in self._given:
            self._given[key, batch] = self.yardstick.answered(self.unit * key, batch)
        return self._given[key, batch]


def _answers(given: _Given, n: int) -> Answers:
    if given.scores is None:
        return Answers(np.full(n, np.nan), np.full(n, np.inf), np.zeros(n))
    scores = given.scores
    return Answers(*(np.array(each) for each in (scores.trait, scores.coherence, scores.distinct2)))


@dataclass(frozen=True, slots=True)
class Tuned:
    """Fits, and the strength that was chosen for them, with the curve that it was found on."""

    fits: dict[int, BlockFit]
    dose: Dose


def tune(
    task: Task,
    fits: Mapping[int, BlockFit],
    pairs: Sequence[Pair],
    yardstick: Yardstick,
    progress: Done = no_progress,
) -> Tuned:
    """All fits, or with `blocks` "one" the best one, at the strength that the yardstick gives."""
    chosen, first = dict(fits), portion(progress, 0, 1, 4)
    if task.recipe.blocks == "one":
        best = best_block(task, chosen, pairs, first)
        chosen = {best: chosen[best]}
    around = _likeliest(task.chat, task.bundle(chosen), _some(pairs), first)
    return at_coherence(task, chosen, yardstick, around, portion(progress, 1, 3, 4))


def at_coherence(
    task: Task, fits: Mapping[int, BlockFit], yardstick: Yardstick, around: float, progress: Done
) -> Tuned:
    """The fits at the strength that the yardstick gives. around: where the search begins."""
    return Tuned(dict(fits), yardstick.dose(task.bundle(fits), around, progress))


def strength_range(dose: Dose, both_ways: bool) -> StrengthRange:
    """The chosen strength, and the measured range: from 0, or symmetric if the bundle steers both ways."""
    highest = max(point.strength for point in dose.curve)
    return StrengthRange(dose.strength, -highest if both_ways else 0.0, highest)


def best_block(
    task: Task, fits: Mapping[int, BlockFit], pairs: Sequence[Pair], progress: Done = no_progress
) -> int:
    """The single block whose steering best predicts the replies, at the better of two strengths."""
    losses: dict[int, float] = {}
    for done, (block, fit) in enumerate(fits.items()):
        progress(done / len(fits))
        bundle = task.bundle({block: fit})
        losses[block] = min(_steered_nll(task.chat, bundle, s, _some(pairs)) for s in _GRID[1::2])
    return min(losses, key=lambda block: (losses[block], block))


# -- the likelihood of prompted replies --------------------------------------------------------------


def _some(pairs: Sequence[Pair]) -> list[Pair]:
    return [pairs[i] for i in spread(len(pairs), _N_PAIRS)]


def _steered_nll(chat: Chat, bundle: Bundle, strength: float, pairs: Sequence[Pair]) -> float:
    """Mean over all reply tokens of -log p(token) after the plain prompt, steered, in nats. Replies with sign
    -1 are read at the negative strength."""
    log_probs = []
    for sign in (1, -1):
        texts = [(pair.plain, pair.reply) for pair in pairs if pair.sign == sign]
        if texts:
            with chat.llm.steered(bundle, sign * strength):
                log_probs += chat.log_probs(texts)
    return float(-np.concatenate(log_probs).mean())


def _likeliest(chat: Chat, bundle: Bundle, pairs: Sequence[Pair], progress: Done) -> float:
    """The strength of lowest NLL, from the parabola through the best of _GRID and its neighbours.

    Goes up the grid only until the NLL rises.
    """
    losses: list[float] = []
    for strength in _GRID:
        progress(len(losses) / len(_GRID))
        losses.append(_steered_nll(chat, bundle, strength, pairs))
        if len(losses) >= 3 and losses[-1] >= losses[-2]:
            break
    return round(lowest(_GRID[: len(losses)], losses), 2)


def lowest(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The x at which a smooth function with one minimum is lowest, from samples at ascending xs.

    It is the vertex of the parabola through the lowest sample and its neighbours, within the samples' range.
    """
    middle = min(max(int(np.argmin(ys)), 1), len(xs) - 2)
    a, b, c = xs[middle - 1 : middle + 2]
    fa, fb, fc = ys[middle - 1 : middle + 2]
    left, right = (b - a) * (fb - fc), (b - c) * (fb - fa)
    if left - right == 0:
        return float(xs[int(np.argmin(ys))])
    vertex = b - 0.5 * ((b - a) * left - (b - c) * right) / (left - right)
    return float(min(max(vertex, xs[0]), xs[-1]))
