"""Contrast pairs: the same reply y' after two prompts, with the trait (x') and without (x).

In:  a model, the trait's sentence (and its opposite's), questions, a seed.
Out: pairs worth learning from, and how many were dropped and why.

As in PSR (arXiv 2605.03907), y' is sampled after x', and replies without the trait or coherence are dropped.
The model itself judges both: a token's log-probability after x' less that after x is its share of the trait.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgesteer.bundle.container import write_file
from edgesteer.errors import LearnError
from edgesteer.generate import measures
from edgesteer.generate.chat import Chat
from edgesteer.generate.progress import Done, no_progress
from edgesteer.generate.questions import Question
from edgesteer.learn.part_file import PartFile
from edgesteer.learn.recipe import Recipe
from edgesteer.learn.sampling import Scored, Wanted, given_replies, sampled_replies
from edgesteer.text import one_line

Keep = Callable[[int, npt.NDArray[np.float32]], None]

# With fewer questions, the replies may have topics in common rather than the trait.
MIN_QUESTIONS = 4


@dataclass(frozen=True, slots=True)
class Pair:
    """Token ids of x, x' and y', and the measures of y' in nats a token (see generate.measures).

    reply: with the end token if the model produced it. given: whether a person wrote it. ended: whether it
        ended before the token limit.
    sign: +1 for a reply with the trait, -1 for one with its opposite, whose sentence is then in x'.
    """

    question: str
    plain: list[int]
    prompted: list[int]
    reply: list[int]
    trait: float
    coherence: float
    nll0: float
    nll_prompted: float
    given: bool = False
    sign: int = 1
    ended: bool = False
    text: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """When a reply is dropped, and under which reason.

    short: below `min_tokens`, unless it ended by itself and shows the trait. repetitive: below
    `min_distinct2`. incoherent: above `max_nll` nats per token even with the trait's prompt. no trait: below
    `min_trait` times the median trait of the replies with its sign.
    """

    min_tokens: int = 8
    min_distinct2: float = 0.6
    max_nll: float = 3.0
    min_trait: float = 0.3


def sample_pairs(
    chat: Chat,
    trait: str,
    questions: Sequence[Question],
    recipe: Recipe,
    *,
    emphasis: bool = False,
    part: PartFile | None = None,
    layers: Sequence[int] = (),
    keep: Keep | None = None,
    progress: Done = no_progress,
) -> list[Pair]:
    """One pair for each question, in order; with `recipe.opposite` followed by one for each with sign -1.

    If a question has written replies with a sign, those are used unchanged; otherwise one is sampled, with
    its own random numbers. The model must be unsteered.

    recipe: opposite, max_tokens, temperature and seed are used.
    emphasis: repeat the sentence after the question, so that small models heed it.
    part: holds replies, and their residual stream, which are not computed again.
    layers, keep: keep(i, seen) is called with the residual stream of these blocks at the rows that predicted
        pair i's reply, float32 [layers, len(reply), n_embd], as soon as it is known; not for written replies.
    Raises InputError for a question that the context cannot hold. See `check_questions` for others.
    """
    sentences = _sentences(trait, recipe.opposite)
    wanted = _wanted(questions, sentences)
    prompted_with = chat.emphasised if emphasis else chat.prompt
    prompted = [prompted_with(one.question, sentences[one.sign]) for one in wanted]
    plain = {q: chat.prompt(q) for q in dict.fromkeys(one.question for one in wanted)}
    prompts = [(plain[one.question], x) for one, x in zip(wanted, prompted, strict=True)]
    replies = given_replies(chat, wanted, prompts, recipe.max_tokens)
    kept, seen = PartFile(None, {}) if part is None else part, tuple(layers) if keep else ()
    for i, (reply, unprompted) in sampled_replies(chat, wanted, prompts, recipe, seen, kept, progress):
        if keep is not None and reply.seen is not None:
            keep(i, reply.seen)
        replies[i] = Scored(dataclasses.replace(reply, seen=None), unprompted)
    return [_pair(chat, one, *prompts[i], replies[i], recipe.max_tokens) for i, one in enumerate(wanted)]


def check_questions(trait: str, opposite: str | None, questions: Sequence[Question]) -> None:
    """Check the sentences, that there are MIN_QUESTIONS different questions, and the written replies.

    Raises LearnError.
    """
    for name, sentence, example in (
        ("trait", trait, "You are a pirate."),
        ("opposite", opposite, "You are a sober clerk."),
    ):
        if sentence is not None and not sentence.strip():
            raise LearnError(f"the {name} is empty, expected a sentence such as '{example}'")
    if opposite is not None and trait.strip().casefold() == opposite.strip().casefold():
        raise LearnError(
            f"trait and opposite are both {trait.strip()!r}, expected two that differ; reword one"
        )
    n = len({q.text for q in questions})
    if n == 0:
        raise LearnError(f"no training questions, expected at least {MIN_QUESTIONS}")
    if n < MIN_QUESTIONS:
        raise LearnError(
            f"{n} training question{'s' * (n > 1)}, expected at least {MIN_QUESTIONS} different ones: from "
            "fewer, what is learnt is their topic; give more, or none to use the built-in ones"
        )
    for q in questions:
        if q.reply is not None and q.sign < 0 and opposite is None:
            raise LearnError(
                f"{q.text!r}: its reply has sign {q.sign}, but there is no sentence for the opposite; give "
                "one, or leave such replies out"
            )
        if q.reply is not None and not q.reply.strip():
            raise LearnError(f"{q.text!r}: its reply is empty, expected text or none")


def _sentences(trait: str, opposite: str | None) -> dict[int, str]:
    """Sign -> sentence."""
    return {1: trait} if opposite is None else {1: trait, -1: opposite}


def _wanted(questions: Sequence[Question], sentences: dict[int, str]) -> list[Wanted]:
    """The replies to get, one sign after the other: written ones, or one for a question without any."""
    given = {(q.text, q.sign) for q in questions if q.reply is not None}
    wanted: dict[Wanted, None] = {}
    for sign in sentences:
        for q in questions:
            if q.reply is not None and q.sign == sign:
                wanted.setdefault(Wanted(q.text, sign, q.reply))
            elif (q.text, sign) not in given:
                wanted.setdefault(Wanted(q.text, sign, None))
    return list(wanted)


def _pair(
    chat: Chat, wanted: Wanted, plain: list[int], prompted: list[int], scored: Scored, max_tokens: int
) -> Pair:
    reply, base = scored
    return Pair(
        wanted.question,
        plain,
        prompted,
        reply.all_tokens,
        trait=measures.trait(reply.log_probs, base),
        coherence=measures.coherence(reply.log_probs, base),
        nll0=measures.nll(base),
        nll_prompted=measures.nll(reply.log_probs),
        given=wanted.text is not None,
        sign=wanted.sign,
        ended=reply.end is not None or len(reply.tokens) < max_tokens,
        text=chat.text(reply.tokens),
    )


def trait_floor(pairs: Sequence[Pair], limits: Limits = Limits(), sign: int = 1) -> float:
    """The trait above which a reply of that sign shows it: a share of their median, not below 0; in nats."""
    traits = [p.trait for p in pairs if p.sign == sign and p.trait == p.trait]  # NaN: an empty reply
    return limits.min_trait * max(float(np.median(traits)), 0.0) if traits else 0.0


def keep_good(
    pairs: Sequence[Pair], limits: Limits = Limits(), any_trait: bool = False
) -> tuple[list[Pair], dict[str, int]]:
    """The pairs with written replies or with trait and coherence; and how many were dropped, by reason.

    any_trait: keep short replies and replies without the trait too, for training that imitates all that the
        prompted model does.
    Raises LearnError if all replies of a sign are dropped.
    """
    floors = {sign: None if any_trait else trait_floor(pairs, limits, sign) for sign in (1, -1)}
    faults = [None if p.given else _fault(p, limits, floors[p.sign]) for p in pairs]
    for sign in (1, -1):
        side = [(p, fault) for p, fault in zip(pairs, faults, strict=True) if p.sign == sign]
        if side and all(fault is not None for _, fault in side):
            raise LearnError(_all_dropped([p for p, _ in side], [str(fault) for _, fault in side]))
    kept = [pair for pair, fault in zip(pairs, faults, strict=True) if fault is None]
    return kept, _counted([fault for fault in faults if fault is not None])


def _counted(faults: Sequence[str]) -> dict[str, int]:
    return dict(sorted(Counter(faults).items()))


def _fault(pair: Pair, limits: Limits, floor: float | None) -> str | None:
    """Why the pair is dropped. floor: the trait above which it is good; None if it need not have any."""
    # A trait may be brevity.
    brief = floor is None or (pair.ended and pair.text.strip() and pair.trait > floor)
    if not pair.reply or (len(pair.reply) < limits.min_tokens and not brief):
        return "short"
    if measures.distinct(pair.reply) < limits.min_distinct2:
        return "repetitive"
    if not pair.nll_prompted <= limits.max_nll:
        return "incoherent"
    return None if floor is None or pair.trait > floor else "no trait"


def _all_dropped(pairs: Sequence[Pair], faults: Sequence[str]) -> str:
    reasons = ", ".join(f"{n} {fault}" for fault, n in _counted(faults).items())
    side, name = ("", "trait") if pairs[0].sign > 0 else (" of the opposite", "opposite")
    shown = "; ".join(
        f"{fault}: '{one_line(p.text, 80)}'" for p, fault in list(zip(pairs, faults, strict=True))[:2]
    )
    return (
        f"all {len(pairs)} replies{side} were dropped ({reasons}), expected some that show the trait; "
        f"word the {name} more strongly, or give more questions. Examples of dropped replies: {shown}"
    )


def write_replies(path: str | os.PathLike[str], pairs: Sequence[Pair], force: bool = False) -> int:
    """Write the pairs that have text as JSON Lines, which `--questions` accepts; return how many.

    Raises OutputError.
    """
    replies = [
        {
            "question": pair.question,
            "reply": pair.text,
            "sign": pair.sign,
            "trait": round(pair.trait, 4),
            "coherence": round(pair.coherence, 4),
        }
        for pair in pairs
        if pair.text.strip()
    ]
    lines = [json.dumps(reply, ensure_ascii=False, allow_nan=False) + "\n" for reply in replies]
    write_file(Path(path), "".join(lines).encode(), force)
    return len(lines)
