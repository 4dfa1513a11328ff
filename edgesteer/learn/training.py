"""Train steering by gradients: on the teacher's replies, then on the steered model's own as well.

In:  pairs, a Trainer that knows the model. Out: fits, and facts for the manifest.

The objective is the KL divergence from the prompted model's next-token distribution, which can be compared
after any text. A gate that has only read the prompted model's replies meets other text as soon as it steers.
So the quantized model answers the same questions again, steered by the trained fits, and training continues
on both kinds of replies (on-policy distillation, arXiv 2306.13649). A few questions are held out: the fits
that are kept are those with the lowest KL on the replies to them. docs/log.md says what each step gains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from edgesteer.errors import SteeringOverflow
from edgesteer.generate.progress import Done, Stages, portion, spread
from edgesteer.learn.contrast import steered_blocks
from edgesteer.learn.fit import BlockFit
from edgesteer.learn.pairs import Pair
from edgesteer.learn.recipe import EFFORTS
from edgesteer.learn.sampling import reply_stream
from edgesteer.learn.task import Task
from edgesteer.scope import BIT, scope_bits

# Rough shares of the time.
_TRAIN, _OWN_REPLIES, _TRAIN_AGAIN = 60, 30, 110
TRAINING = _TRAIN + _OWN_REPLIES + _TRAIN_AGAIN

# One question of so many is held out, and at most as many as the second number.
_ONE_OF, _MOST_HELD = 10, 12


class Trainer(Protocol):
    """Trains steering by gradients; it knows the model that the pairs belong to."""

    def __call__(
        self,
        pairs: Sequence[Pair],
        held: Sequence[Pair],
        *,
        blocks: Sequence[int],
        gated: bool,
        steps: range,
        total: int,
        start: Mapping[int, BlockFit] | None,
        starts: Sequence[int] | None,
        seed: int,
        progress: Done,
    ) -> tuple[dict[int, BlockFit], dict[str, Any]]:
        """The trained fits, each with mean coefficient 1, and facts for the manifest.

        The same arguments give the same results.

        pairs, held: to train on, and to choose by when to stop; their tokens and signs are used.
        gated: whether each block has a gate, or is steered by a constant.
        steps: which of all `total` steps to take; the rate falls to 0 over the total.
        start: fits to go on from; None for a random start.
        starts: where scope `conversation` begins in the plain prompts of pairs and held; None for scope
            `response`, which begins at the last token.
        """
        ...


def train(
    task: Task, pairs: Sequence[Pair], trainer: Trainer, stages: Stages
) -> tuple[dict[int, BlockFit], dict[str, Any]]:
    """The trained fits, and the trainer's facts, those of the second training under "own"."""
    recipe, (used, held) = task.recipe, _split(pairs)
    every = steered_blocks(task.chat.llm.model_info.n_layer)
    first, second = EFFORTS[recipe.effort].steps
    blocks = [recipe.blocks] if isinstance(recipe.blocks, int) else every

    def trained(
        start: dict[int, BlockFit] | None,
        pairs: Sequence[Pair],
        held: Sequence[Pair],
        steps: range,
        done: Done,
    ) -> tuple[dict[int, BlockFit], dict[str, Any]]:
        return trainer(
            pairs,
            held,
            blocks=blocks if start is None else list(start),
            gated=recipe.method == "psr",
            steps=steps,
            total=first + second,
            start=start,
            starts=_scope_starts(task, [*pairs, *held]),
            seed=recipe.seed,
            progress=done,
        )

    fits, facts = trained(None, used, held, range(first), stages.enter("train", _TRAIN))
    progress = stages.enter("own replies", _OWN_REPLIES)
    own = _own_replies(task, fits, [*used, *held], progress) if second else []
    if own:
        questions = {pair.question for pair in held}
        own_used, own_held = ([p for p in own if (p.question in questions) is h] for h in (False, True))
        steps, done = range(first, first + second), stages.enter("train again", _TRAIN_AGAIN)
        fits, again = trained(fits, [*used, *own_used], [*held, *own_held], steps, done)
        facts = {**facts, "own": again}
    return fits, facts


def _split(pairs: Sequence[Pair]) -> tuple[list[Pair], list[Pair]]:
    """The pairs to train on, and those to hold out: whole questions, spread over the list."""
    questions = list(dict.fromkeys(pair.question for pair in pairs))
    n = min(len(questions) // _ONE_OF, _MOST_HELD)
    held = {questions[i] for i in spread(len(questions), n)} if n else set()
    return [p for p in pairs if p.question not in held], [p for p in pairs if p.question in held]


def _own_replies(
    task: Task, fits: dict[int, BlockFit], pairs: Sequence[Pair], progress: Done
) -> list[Pair]:
    """For each question and sign a pair with the steered model's reply at the trained strength; those
    without a reply are dropped. Empty if steering overflows."""
    recipe, bundle, own = task.recipe, task.bundle(fits), list[Pair]()
    signs = sorted({pair.sign for pair in pairs}, reverse=True)
    for done, sign in enumerate(signs):
        side = [*{pair.question: pair for pair in pairs if pair.sign == sign}.values()]
        try:
            with task.chat.llm.steered(bundle, sign):
                replies = task.chat.replies(
                    [pair.plain for pair in side],
                    recipe.max_tokens,
                    recipe.temperature,
                    [reply_stream(recipe.seed, pair.question, sign, 1) for pair in side],
                    progress=portion(progress, done, 1, len(signs)),
                )
        except SteeringOverflow:
            return []
        for pair, reply in zip(side, replies, strict=True):
            if reply.all_tokens:
                own.append(replace(pair, reply=reply.all_tokens, given=False))
    return own


def _scope_starts(task: Task, pairs: Sequence[Pair]) -> list[int] | None:
    """Where in each plain prompt scope `conversation` begins."""
    if task.recipe.scope == "response":
        return None
    turns = task.chat.llm.turns
    bits = [scope_bits(pair.plain, len(pair.plain), turns) for pair in pairs]
    return [int(((one & BIT["conversation"]) != 0).argmax()) for one in bits]
