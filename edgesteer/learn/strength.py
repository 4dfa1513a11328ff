"""Choose the default strength: the largest at which steered replies are as coherent as prompted ones.

In:  fits, pairs, and the scores of prompted replies to training questions. Out: a Tuned, or the better of
    two.

There are two measures. The likelihood of prompted replies after the plain prompt is cheap: one pass, no
sampling, smooth in the strength with one minimum. It finds the region to search in, and the best of several
single blocks. It does not show how much trait is gained at which coherence; that is measured on steered
replies (`evaluate.dose`). No strength is accepted whose coherence was not measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgesteer.bundle import Bundle, StrengthRange
from edgesteer.evaluate.dose import Dose, strength_at
from edgesteer.evaluate.matched import DISTINCT
from edgesteer.generate.chat import REPEAT_PENALTY, Chat
from edgesteer.generate.progress import Done, no_progress, portion, spread
from edgesteer.generate.scoring import Scores, score
from edgesteer.learn.fit import BlockFit
from edgesteer.learn.pairs import Pair
from edgesteer.learn.task import Task

# Number of questions that strengths are measured on, and tokens per reply: four strengths take a minute.
N_MEASURED, _MEASURED_TOKENS = 10, 40

# Range of the search, in multiples of the strength at which prompted replies are likeliest. A single block
# can go beyond it, because its coherence falls late.
_LOWEST, _HIGHEST = 0.2, 1.4

# Strengths at which likelihoods are computed, and the number of pairs.
_GRID = (0.5, 1.0, 1.5, 2.25)
_N_PAIRS = 6

# The trait of prompted replies from which on the model heeds the prompt, in nats per token. With SmolLM2-135M
# the pirate prompt reaches 0.39; sea, gloom and brevity reach 0.1 to 0.14, and two to four times as much if
# the sentence is repeated after the question. For the pirate, repeating it makes the bundle worse at equal
# coherence.
HEEDED = 0.25


@dataclass(frozen=True, slots=True)
class Yardstick:
    """Greedy prompted replies to the questions that strengths are measured on, scored unsteered.

    plain, prompted: prompts. scores: of the prompted replies. target: the coherence that strengths must keep,
        in nats per token. given: whether the recipe sets the target, instead of the prompted replies.
    """

    plain: list[list[int]]
    prompted: list[list[int]]
    scores: Scores
    target: float
    max_tokens: int
    given: bool = False

    @classmethod
    def of(cls, task: Task, questions: Sequence[str], progress: Done) -> Yardstick:
        """Measure the prompt on at most N_MEASURED of the questions."""
        chat, coherence = task.chat, task.recipe.coherence
        measured = [questions[i] for i in spread(len(questions), N_MEASURED)]
        plain, prompted = ([chat.prompt(q, system) for q in measured] for system in (None, task.trait))
        max_tokens = min(task.recipe.max_tokens, _MEASURED_TOKENS)
        replies = chat.replies(
            prompted, max_tokens, repeat_penalty=REPEAT_PENALTY, progress=portion(progress, 0, 0.6, 1)
        )
        scores = score(chat, replies, plain, prompted)
        target = scores.mean("coherence") if coherence is None else coherence
        return cls(plain, prompted, scores, target, max_tokens, coherence is not None)

    @property
    def heeded(self) -> bool:
        """Whether the model heeds the sentence as a system prompt."""
        return self.scores.mean("trait") >= HEEDED

    def unsteered_coherence(self, chat: Chat) -> float:
        """The unsteered model's coherence on the same questions, nats per token."""
        with chat.llm.steered([]):
            replies = chat.replies(self.plain, self.max_tokens, repeat_penalty=REPEAT_PENALTY)
        return score(chat, replies, self.plain, self.prompted).mean("coherence")

    def dose(self, chat: Chat, bundle: Bundle, likeliest: float, progress: Done) -> Dose:
        """The largest strength that keeps the target, searched around the likeliest one, from above.

        Steering need not be more coherent than the unsteered model. If no strength keeps the prompt's
        coherence, nor does the unsteered model (such as a base model whose prompt has examples), the
        unsteered model's coherence becomes the target.
        """
        dose = self._search(chat, bundle, likeliest, self.target, progress)
        if dose.reached or self.given:
            return dose
        own = self.unsteered_coherence(chat)
        return dose if own <= self.target else self._search(chat, bundle, likeliest, own, progress)

    def _search(self, chat: Chat, bundle: Bundle, likeliest: float, target: float, progress: Done) -> Dose:
        return strength_at(
            chat,
            bundle,
            self.plain,
            self.prompted,
            target,
            min_distinct2=DISTINCT * self.scores.mean("distinct2"),
            lo=round(likeliest * _LOWEST, 2),
            hi=round(likeliest * _HIGHEST, 2),
            scan=3,
            steps=2,
            beyond=2,
            max_tokens=self.max_tokens,
            progress=progress,
        )


@dataclass(frozen=True, slots=True)
class Tuned:
    """Fits, and the strength that was chosen for them, with the curve that it was found on."""

    fits: dict[int, BlockFit]
    dose: Dose

    @property
    def trait(self) -> float:
        """The trait on training questions at the chosen strength, from the smooth curve; nats per token."""
        return self.dose.smoothed.trait


def tune(
    task: Task,
    fits: Mapping[int, BlockFit],
    pairs: Sequence[Pair],
    yardstick: Yardstick,
    progress: Done = no_progress,
) -> Tuned:
    """All fits, or with the recipe's `blocks` "one" only the best, at the yardstick's coherence."""
    chosen, some = dict(fits), [pairs[i] for i in spread(len(pairs), _N_PAIRS)]
    first, second = portion(progress, 0, 1, 2), portion(progress, 1, 1, 2)
    if task.recipe.blocks == "one":
        best = _best_block(task, chosen, some, first)
        chosen = {best: chosen[best]}
    around = _likeliest(task.chat, task.bundle(chosen), some, first)
    return at_coherence(task, chosen, yardstick, around, second)


def at_coherence(
    task: Task, fits: Mapping[int, BlockFit], yardstick: Yardstick, around: float, progress: Done
) -> Tuned:
    """The fits at the yardstick's coherence. around: the strength around which to search."""
    return Tuned(dict(fits), yardstick.dose(task.chat, task.bundle(fits), around, progress))


def better(closed: Tuned, trained: Tuned) -> Tuned:
    """The one with more trait at equal coherence; one that does not reach the coherence loses.

    Training lowers its own objective, which need not increase the trait (docs/log.md), so both are measured.
    """
    return max(trained, closed, key=lambda one: (one.dose.reached, math.isfinite(one.trait), one.trait))


def kept_facts(closed: Tuned, trained: Tuned) -> dict[str, Any]:
    """Facts for the manifest: which one was kept, and the trait of each; None if steering overflowed."""
    traits = {"closed": closed.trait, "trained": trained.trait}
    return {
        "kept": better(closed, trained) is trained,
        "trait": {name: round(trait, 4) if math.isfinite(trait) else None for name, trait in traits.items()},
    }


def strength_range(dose: Dose, both_ways: bool) -> StrengthRange:
    """The chosen strength, and the measured range: from 0, or symmetric if the bundle steers both ways."""
    highest = max(point.strength for point in dose.curve)
    return StrengthRange(dose.strength, -highest if both_ways else 0.0, highest)


# -- the likelihood of prompted replies --------------------------------------------------------------


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


def _best_block(task: Task, fits: Mapping[int, BlockFit], pairs: Sequence[Pair], progress: Done) -> int:
    """The single block whose steering best predicts the replies, at the better of two strengths."""
    losses: dict[int, float] = {}
    for done, (block, fit) in enumerate(fits.items()):
        progress(done / len(fits))
        bundle = task.bundle({block: fit})
        losses[block] = min(_steered_nll(task.chat, bundle, strength, pairs) for strength in _GRID[1::2])
    return min(losses, key=lambda block: (losses[block], block))
