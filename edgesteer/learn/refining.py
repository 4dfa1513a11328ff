"""From closed-form fits to trained ones: the teacher's replies first, then the steered model's own.

In:  fits, pairs, a Trainer that knows the model. Out: fits, and facts for the manifest.

A gate that has only read what the prompted model said meets other text as soon as it steers: its own. So for the
objective that needs no reply to imitate (KL: the teacher's distribution behind any text) the model, steered by what was
trained so far, answers the same questions, on the quantized model itself, and the training goes on with that
(on-policy distillation, arXiv 2306.13649). docs/log.md has what it gains.

A teacher that goes further than the prompt is followed only where the model hardly heeds the prompt: beyond one that it
heeds, coherence is lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from edgesteer.errors import SteeringOverflow
from edgesteer.generate.progress import Done, portion
from edgesteer.learn.methods import BlockFit
from edgesteer.learn.pairs import Pair
from edgesteer.learn.sampling import reply_stream
from edgesteer.learn.stages import Data, Work
from edgesteer.runtime.turns import read_turns
from edgesteer.scope import BIT, scope_bits

# Objectives whose teacher has something to say behind text that it did not write.
_ON_POLICY = ("kl",)


class Trainer(Protocol):
    """What `learn` hands fits to, to go on with by gradients; it knows the model that they belong to."""

    def __call__(
        self,
        fits: Mapping[int, BlockFit],
        pairs: Sequence[Pair],
        *,
        objective: str,
        scope: str,
        starts: Sequence[int] | None,
        seed: int,
        guided: bool,
        again: bool,
        progress: Done,
    ) -> tuple[dict[int, BlockFit], dict[str, Any]]:
        """The fits it ends with, each of mean coefficient 1, and facts, which the manifest calls `refined`: the same
        for the same arguments. starts: where in each plain prompt scope `conversation` begins; None for scope
        `response`, which begins at its last token. guided: whether to follow a teacher that goes further than the
        prompt. again: a second, shorter training of fits that have had one. Of a
        pair it reads the tokens and the sign."""
        ...


def refined(
    work: Work,
    data: Data,
    fits: dict[int, BlockFit],
    trainer: Trainer | None,
    apart: Sequence[Sequence[int]] = (),
) -> tuple[dict[int, BlockFit], dict[str, Any]]:
    """The fits as the recipe's trainer leaves them, and its facts, those of the training on own replies under "own";
    without a recipe's trainer the fits, and none.

    apart: plain prompts whose replies are not trained on, see `_trained_on`.
    """
    if work.recipe.refine is None:
        return fits, {}
    assert trainer is not None  # `learn` has seen to it
    pairs = _followed(work, _trained_on(data.pairs, apart))
    fits, facts = _trained(work, trainer, fits, pairs, again=False)
    if work.recipe.refine in _ON_POLICY and (own := _own_replies(work, fits, pairs)):
        fits, told = _trained(work, trainer, fits, own, again=True)
        facts = {**facts, "own": told}
    return fits, facts


def _trained(
    work: Work, trainer: Trainer, fits: dict[int, BlockFit], pairs: Sequence[Pair], again: bool
) -> tuple[dict[int, BlockFit], dict[str, Any]]:
    return trainer(
        fits,
        pairs,
        objective=str(work.recipe.refine),
        scope=work.recipe.scope,
        starts=_starts(work, pairs),
        seed=work.recipe.seed,
        guided=not work.heeded,
        again=again,
        progress=work.part("refine again" if again else "refine"),
    )


def _own_replies(work: Work, fits: dict[int, BlockFit], pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs with what the steered model says, at the strength that was trained; without those where it says
    nothing. None where steering overflows."""
    chat, recipe, bundle, own = work.chat, work.recipe, work.maker.bundle(fits), list[Pair]()
    signs = sorted({pair.sign for pair in pairs}, reverse=True)
    for done, sign in enumerate(signs):
        side = [pair for pair in pairs if pair.sign == sign]
        try:
            with chat.llm.steered(bundle, sign):
                replies = chat.replies(
                    [pair.plain for pair in side],
                    recipe.max_tokens,
                    recipe.temperature,
                    [reply_stream(recipe.seed, p.question, int(sign < 0), recipe.best_of) for p in side],
                    progress=portion(work.part("own replies"), done, 1, len(signs)),
                )
        except SteeringOverflow:
            return []
        said = zip(side, replies, strict=True)
        own += [replace(pair, reply=reply.spoken, given=False) for pair, reply in said if reply.spoken]
    return own


def _trained_on(pairs: Sequence[Pair], apart: Sequence[Sequence[int]]) -> list[Pair]:
    """Without the questions that strength and trait are measured on: gates that have seen the replies do better
    there than elsewhere. All, where fewer than two thirds would be left."""
    measured = {tuple(prompt) for prompt in apart}
    kept = [pair for pair in pairs if tuple(pair.plain) not in measured]
    return kept if 3 * len(kept) >= 2 * len(pairs) else list(pairs)


def _followed(work: Work, pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs as a trainer follows them: behind the system prompt alone, whose coherence is the target, unless
    emphasis was asked for. Trained on emphasised prompts, steering reaches further, and is as coherent as the
    prompt only at strengths where it shows less (docs/log.md)."""
    recipe, chat = work.recipe, work.chat
    if recipe.emphasis == "always" or not work.emphasis:
        return list(pairs)
    sentences = {1: work.trait, -1: recipe.opposite or ""}
    return [replace(pair, prompted=chat.prompt(pair.question, sentences[pair.sign])) for pair in pairs]


def _starts(work: Work, pairs: Sequence[Pair]) -> list[int] | None:
    """Where in each plain prompt scope `conversation` begins."""
    if work.recipe.scope == "response":
        return None
    turns = read_turns(work.chat.llm)
    bits = [scope_bits(pair.plain, len(pair.plain), turns) for pair in pairs]
    return [int(((one & BIT["conversation"]) != 0).argmax()) for one in bits]
