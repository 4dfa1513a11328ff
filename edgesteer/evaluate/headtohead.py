"""Unsteered, prompted and steered replies to the same questions, side by side.

In:  a Chat, the trait's sentence, bundles with strengths, questions that nothing was learnt from.
Out: a Table, one Row a way to ask. Greedy replies, with the repeat penalty of `run`; everything is scored under
the unsteered model.

A row does not depend on which other rows there are. The model's own steering is set aside meanwhile.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib import resources

from edgesteer.bundle import Bundle
from edgesteer.errors import EdgesteerWarning, InputError, SteeringOverflow
from edgesteer.evaluate import sentiment
from edgesteer.evaluate import vocabulary
from edgesteer.generate.chat import REPEAT_PENALTY, Chat, Tokens
from edgesteer.evaluate.cost import Cost, costs
from edgesteer.evaluate.dose import Dose, strength_at
from edgesteer.evaluate.matched import DISTINCT
from edgesteer.generate.progress import Done, portion, spread
from edgesteer.generate.scoring import Scores, score
from edgesteer.evaluate.table import Answers, Row, Table, rows_of
from edgesteer.evaluate.ways import PROMPT, UNSTEERED, Way, prompts_of

__all__ = ["Row", "Table", "head_to_head", "held_out_questions", "score"]

Progress = Callable[[str, float], None]

N_CALIBRATION = 8

# A 32nd of the range is less than what other questions would move the strength by.
_STEPS = 3
# How much longer than one row a dose takes.
_DOSE_UNITS = 5


def held_out_questions() -> list[str]:
    """The project's questions for evaluation; none of them is among the training questions."""
    text = resources.files("edgesteer.evaluate").joinpath("questions_heldout.txt").read_text("utf-8")
    return [line.strip() for line in text.splitlines() if line.strip()]


def head_to_head(
    chat: Chat,
    trait: str,
    bundles: Sequence[tuple[str, Bundle, float]],
    *,
    questions: Sequence[str] | None = None,
    max_tokens: int = 64,
    counts: Sequence[str] = (),
    with_sentiment: bool = False,
    at_prompt_coherence: bool = False,
    calibration_questions: Sequence[str] | None = None,
    levels: Sequence[float] = (),
    timing: bool = True,
    progress: Progress = lambda stage, fraction: None,
) -> Table:
    """Ask every question unsteered, with the trait as system prompt, and under each (name, bundle, strength).

    questions: None for `held_out_questions`.
    counts: what to count in the replies: regular expressions, or names in vocabulary.WORDS.
    at_prompt_coherence: instead of the strengths given, for each bundle the largest one within the range of its
        file at which its replies are as coherent as the prompted ones and loop hardly more. It is found on
        `calibration_questions` (None: some of the training questions), without those that are asked.
    levels: multiples of each bundle's strength at which it is asked too, none of them 1, so that its row has
        what it brings at the prompt's coherence on these very questions (`matched`).
    timing: whether to measure first_token_seconds.
    Raises InputError for no trait, no questions, levels that make no curve, a count that is no regular expression,
    or a prompt that does not fit the context; MissingExtra for sentiment without VADER; IncompatibleError for a bundle
    of another model.
    """
    asked = _asked(trait, questions, max_tokens)
    check_counts(counts, with_sentiment)
    check_levels(levels)
    _check_bundles(chat, [bundle for _, bundle, _ in bundles])
    units = 2 + len(bundles) * (1 + len(levels) + _DOSE_UNITS * at_prompt_coherence)
    tell = _Units(progress, units)
    plain, prompted = prompts_of(chat, asked, trait)
    ways = [Way(UNSTEERED, plain), Way(PROMPT, prompted)]
    doses: list[Dose | None] = [None] * len(bundles)
    if at_prompt_coherence:
        apart = _apart(asked, calibration_questions)
        doses = [*_doses(chat, [b for _, b, _ in bundles], prompts_of(chat, apart, trait), max_tokens, tell)]
    for (name, bundle, given), dose in zip(bundles, doses, strict=True):
        ways.append(Way(name, plain, bundle, given if dose is None else dose.strength, dose))
    spent = costs(chat, ways, timing=timing)

    def answers(way: Way, cost: Cost) -> Answers:
        return _answers(chat, way, (plain, prompted), max_tokens, with_sentiment, tell(way.name), cost)

    first = [answers(way, cost) for way, cost in zip(ways, spent, strict=True)]
    others = [
        _at_levels(way, levels, partial(answers, cost=cost)) for way, cost in zip(ways, spent, strict=True)
    ]
    progress("done", 1.0)
    rows = rows_of(first, list(dict.fromkeys(counts)), prompt=1, unsteered=0, others=others)
    return Table(trait, tuple(asked), max_tokens, rows)


def _at_levels(way: Way, levels: Sequence[float], ask: Callable[[Way], Answers]) -> list[Answers]:
    """The way at multiples of its strength, without those that overflow; none where nothing steers. That a curve leaves
    the evaluated range is what it is for."""
    found = []
    for level in levels if way.strength else ():
        with warnings.catch_warnings(), contextlib.suppress(SteeringOverflow):
            warnings.simplefilter("ignore", EdgesteerWarning)
            found.append(ask(replace(way, strength=level * (way.strength or 0.0))))
    return found


def _answers(
    chat: Chat,
    way: Way,
    prompts: tuple[Sequence[Tokens], Sequence[Tokens]],
    max_tokens: int,
    with_sentiment: bool,
    progress: Done,
    cost: Cost,
) -> Answers:
    with way.steered(chat):
        replies = chat.replies(
            way.prompts,
            max_tokens,
            repeat_penalty=REPEAT_PENALTY,
            progress=portion(progress, 0, 0.7, 1),
        )
    progress(0.7)
    texts = tuple(chat.text(reply.tokens) for reply in replies)
    return Answers(
        name=way.name,
        strength=way.strength,
        dose=way.dose,
        context_tokens=cost.context_tokens,
        replies=texts,
        scores=score(chat, replies, *prompts),
        sentiments=tuple(sentiment.compound(texts)) if with_sentiment else None,
        first_token_seconds=cost.first_token_seconds,
    )


def _doses(
    chat: Chat,
    bundles: Sequence[Bundle],
    prompts: tuple[list[list[int]], list[list[int]]],
    max_tokens: int,
    tell: _Units,
) -> list[Dose]:
    """Each bundle's strength at the prompt's coherence."""
    plain, prompted = prompts
    target = _scores(chat, prompted, prompts, max_tokens)
    if target.empty == len(prompted):
        raise InputError(
            "evaluation: every prompted reply is empty, expected some to compare the bundles with"
        )
    # No more is asked of a bundle than the unsteered model gives.
    unsteered = _scores(chat, plain, prompts, max_tokens).mean("distinct2")
    least = min(DISTINCT * target.mean("distinct2"), unsteered)
    return [
        strength_at(
            chat,
            bundle,
            plain,
            prompted,
            target.mean("coherence"),
            min_distinct2=least,
            lo=min(max(0.0, bundle.strength.min), bundle.strength.max),
            hi=bundle.strength.max,
            steps=_STEPS,
            max_tokens=max_tokens,
            progress=tell("calibrate", _DOSE_UNITS),
        )
        for bundle in bundles
    ]


def _scores(
    chat: Chat, asked: Sequence[Tokens], prompts: tuple[Sequence[Tokens], Sequence[Tokens]], max_tokens: int
) -> Scores:
    with chat.llm.steered([]):
        return score(chat, chat.replies(asked, max_tokens, repeat_penalty=REPEAT_PENALTY), *prompts)


def _apart(asked: Sequence[str], given: Sequence[str] | None) -> list[str]:
    """Questions to calibrate on: at most N_CALIBRATION, evenly spread, none of them among those asked."""
    if given is None:
        from edgesteer.generate.questions import built_in

        given = [question.text for question in built_in()]
    judged = set(asked)
    left = [question for question in given if question not in judged]
    if not left:
        raise InputError(
            "evaluation: no question is left to find the strength on, expected some that are not among those asked"
        )
    return [left[i] for i in spread(len(left), N_CALIBRATION)]


def _asked(trait: str, questions: Sequence[str] | None, max_tokens: int) -> list[str]:
    asked = list(held_out_questions() if questions is None else questions)
    if not asked:
        raise InputError("evaluation: no questions, expected at least one")
    if not trait.strip():
        raise InputError(
            "evaluation: the trait is empty, expected a sentence to compare with as system prompt"
        )
    if max_tokens < 1:
        raise InputError(f"evaluation: max_tokens {max_tokens}, expected at least 1")
    return asked


def check_levels(levels: Sequence[float]) -> None:
    """Raises InputError for multiples that, with 0 and 1, give no curve."""
    sound = all(math.isfinite(level) and level > 0 for level in levels)
    if not sound or len({1.0, *levels}) != 1 + len(levels):
        raise InputError(
            f"evaluation: levels {', '.join(f'{level:g}' for level in levels)}; expected different multiples of a "
            "strength, above 0 and none of them 1"
        )


def check_counts(counts: Sequence[str], with_sentiment: bool) -> None:
    """What can fail at once fails before the minutes of work."""
    for pattern in counts:
        vocabulary.expression(pattern)
    if with_sentiment:
        sentiment.analyzer()


def _check_bundles(chat: Chat, bundles: Sequence[Bundle]) -> None:
    """One for another model, or whose gate cannot be evaluated here, is refused before anything is asked: only steering
    tells both. What is only odd is said when it is asked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EdgesteerWarning)
        for bundle in bundles:
            with chat.llm.steered(bundle):
                pass


class _Units:
    """Hands out progress functions for one piece of work after another."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._begun = progress, total, 0

    def __call__(self, stage: str, units: int = 1) -> Done:
        first = self._begun
        self._begun += units
        self._progress(stage, first / self._total)
        return portion(lambda part: self._progress(stage, part), first, units, self._total)
