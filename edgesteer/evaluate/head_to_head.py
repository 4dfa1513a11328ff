"""Unsteered, prompted and steered replies to the same questions, side by side.

Replies are greedy, with the repeat penalty of `edgesteer run`, to questions that no bundle was learnt from,
and are scored under the unsteered model. A judge may score them too. No row depends on another. The plan in
force is set aside.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import resources

from edgesteer.errors import EdgesteerWarning, InputError, SteeringOverflow
from edgesteer.evaluate import text_measures
from edgesteer.evaluate.controls import CONTROLS, check_controls, controls_of
from edgesteer.evaluate.cost import Cost, costs
from edgesteer.evaluate.judging import Judge, Rater, check_questions, rater, training_replies
from edgesteer.evaluate.relevance import MIN_QUESTIONS, chance, relevance
from edgesteer.evaluate.snapshot import snapshot_cost
from edgesteer.evaluate.table import Answers, Table, rows_of
from edgesteer.evaluate.way import PROMPT, UNSTEERED, Sources, Way, prompts_of, require_trait
from edgesteer.generate import Chat, Reply, Tokens, score
from edgesteer.generate.progress import Done, Progress, Stages, no_progress, portion

Further = Callable[[Sequence[Reply], Sequence[str], Done], Mapping[str, tuple[float, ...]]]

QUESTION_MATCHED = "question matched"


def held_out_questions() -> list[str]:
    """The project's questions for evaluation; none of them is among the training questions."""
    text = resources.files("edgesteer.evaluate").joinpath("questions_heldout.txt").read_text("utf-8")
    return [line.strip() for line in text.splitlines() if line.strip()]


def head_to_head(
    chat: Chat,
    trait: str,
    rows: Sequence[tuple[str, Sources]],
    *,
    questions: Sequence[str] | None = None,
    max_tokens: int = 64,
    counts: Sequence[str] = (),
    with_sentiment: bool = False,
    levels: Sequence[float] = (),
    judge: Judge | None = None,
    controls: bool = False,
    timing: bool = True,
    progress: Progress = no_progress,
) -> Table:
    """Ask every question unsteered, with the trait as system prompt, and in each of the rows.

    rows: (name, sources), with different names; the (bundle, strength) pairs in `sources` add up.
    questions: None for `held_out_questions`.
    counts: what to count in the replies: regular expressions, or names in text_measures.WORDS.
    levels: multiples of each row's strength, none of them 1, to measure it at too; from these its values at
        the prompt's coherence on the same questions are computed (`matched`).
    judge: as for `rater`. It needs at least eight questions.
    controls: two more rows, RANDOM (the first of the rows with other directions of the same norms) and GUIDED
        (guided decoding, an upper bound), and what the prompt costs if its KV is kept.
    timing: whether to measure first_token_seconds.
    Relevance is measured if there are at least three questions, all different.
    Raises InputError for no trait, no questions, levels that make no curve, a count that is no regular
    expression, a prompt that does not fit the context, too few questions for a judge, one that cannot judge,
    or controls of no row or of a model opened for a single sequence;
    MissingExtra for sentiment without VADER; IncompatibleError for a bundle of another model.
    """
    questions = list(held_out_questions() if questions is None else questions)
    check_table(chat, trait, rows, questions, max_tokens, counts, with_sentiment, judge, controls)
    check_levels(levels)
    units = 2 + len(rows) * (1 + len(levels)) + controls * len(CONTROLS) * (1 + len(levels))
    training = 0.0
    if judge is not None:
        training = training_replies(judge) / len(questions)
    stages = Stages(progress, units + training)
    plain, prompted = prompts_of(chat, questions, trait)
    comparable = len(questions) >= MIN_QUESTIONS and len(set(map(tuple, prompted))) == len(questions)
    judging: Rater | None = None
    if judge is not None:
        judging = rater(judge, chat, trait, questions, max_tokens, stages.enter("judge", training))
    steered = [Way.of(name, plain, sources) for name, sources in rows]
    ways = [Way(UNSTEERED, plain), Way(PROMPT, prompted), *steered]
    spent = costs(chat, ways, timing=timing)
    snapshot = None
    if controls:
        ways += controls_of(steered[0], prompted)
        spent += costs(chat, [ways[0], *ways[len(spent) :]], timing=False)[1:]
        snapshot = snapshot_cost(chat, trait, questions, timing=timing)

    def further(
        replies: Sequence[Reply], texts: Sequence[str], done: Done
    ) -> Mapping[str, tuple[float, ...]]:
        out: dict[str, tuple[float, ...]] = {}
        if comparable:
            own = relevance(chat, trait, questions, replies)
            matched = own.matched.astype(float)
            out = {"relevance": tuple(own.nats.tolist()), QUESTION_MATCHED: tuple(matched.tolist())}
        done(0.5)
        return out if judging is None else out | judging.rate(questions, texts, portion(done, 0.5, 0.5, 1))

    def answers(way: Way, cost: Cost) -> Answers:
        done = stages.enter(way.name)
        return _answers(chat, way, (plain, prompted), max_tokens, with_sentiment, further, done, cost)

    first = [answers(way, cost) for way, cost in zip(ways, spent, strict=True)]
    others = [
        _at_levels(way, levels, partial(answers, cost=cost)) for way, cost in zip(ways, spent, strict=True)
    ]
    judged = [
        judging.at_coherence([first[0], own, *more], first[1]) if judging and more else {}
        for own, more in zip(first, others, strict=True)
    ]
    progress("done", 1.0)
    results = rows_of(first, list(dict.fromkeys(counts)), prompt=1, unsteered=0, others=others, judged=judged)
    return Table(
        trait,
        tuple(questions),
        max_tokens,
        results,
        chance=chance(len(questions)) if comparable else None,
        judge=None if judging is None else judging.judging,
        snapshot=snapshot,
    )


def ways_of(chat: Chat, table: Table, rows: Sequence[tuple[str, Sources]]) -> list[Way]:
    """The table's rows as ways to ask, at the table's strengths."""
    plain, prompted = prompts_of(chat, table.questions, table.trait)
    steered = [
        replace(Way.of(name, plain, sources), strength=row.strength)
        for (name, sources), row in zip(rows, table.rows[2:], strict=True)
    ]
    return [Way(UNSTEERED, plain), Way(PROMPT, prompted), *steered]


def _at_levels(way: Way, levels: Sequence[float], ask: Callable[[Way], Answers]) -> list[Answers]:
    """The way at multiples of its strength, without those that overflow; empty if nothing steers.

    These leave the evaluated range on purpose.
    """
    results: list[Answers] = []
    if not way.has_strengths or way.strength is None:
        return []
    for level in levels:
        with warnings.catch_warnings(), contextlib.suppress(SteeringOverflow):
            warnings.simplefilter("ignore", EdgesteerWarning)
            results.append(ask(replace(way, strength=level * way.strength)))
    return results


def _answers(
    chat: Chat,
    way: Way,
    prompts: tuple[Sequence[Tokens], Sequence[Tokens]],
    max_tokens: int,
    with_sentiment: bool,
    further: Further,
    progress: Done,
    cost: Cost,
) -> Answers:
    replies = way.replies(chat, max_tokens, portion(progress, 0, 0.6, 1))
    texts = tuple(chat.text(reply.tokens) for reply in replies)
    scores = score(chat, replies, *prompts)
    progress(0.7)
    return Answers(
        name=way.name,
        strength=way.strength,
        context_tokens=cost.context_tokens,
        replies=texts,
        scores=scores,
        sentiments=tuple(text_measures.sentiment(texts)) if with_sentiment else None,
        first_token_seconds=cost.first_token_seconds,
        sources=way.sources,
        further=further(replies, texts, portion(progress, 0.7, 0.3, 1)),
    )


def check_table(
    chat: Chat,
    trait: str,
    rows: Sequence[tuple[str, Sources]],
    questions: Sequence[str],
    max_tokens: int,
    counts: Sequence[str] = (),
    with_sentiment: bool = False,
    judge: Judge | None = None,
    controls: bool = False,
) -> None:
    """Raise what `head_to_head` would refuse of these, before the minutes of work."""
    if not questions:
        raise InputError("evaluation: no questions, expected at least one")
    require_trait(trait)
    if max_tokens < 1:
        raise InputError(f"evaluation: max_tokens {max_tokens}, expected at least 1")
    check_counts(counts, with_sentiment)
    check_rows(chat, rows, CONTROLS if controls else ())
    if controls:
        check_controls(chat, rows)
    if judge is not None:
        check_questions(questions)


def check_levels(levels: Sequence[float]) -> None:
    """Raises InputError for multiples that, with 0 and 1, give no curve."""
    sound = all(math.isfinite(level) and level > 0 for level in levels)
    if not sound or len({1.0, *levels}) != 1 + len(levels):
        raise InputError(
            f"evaluation: levels {', '.join(f'{level:g}' for level in levels)}; expected different "
            f"multiples of a strength, above 0 and none of them 1"
        )


def check_counts(counts: Sequence[str], with_sentiment: bool) -> None:
    """Check everything that can fail at once, before the minutes of work."""
    for pattern in counts:
        text_measures.expression(pattern)
    if with_sentiment:
        text_measures.sentiment_analyzer()


def check_rows(chat: Chat, rows: Sequence[tuple[str, Sources]], more: Sequence[str] = ()) -> None:
    """Refuse equal names, bundles for another model, and gates that cannot be evaluated here.

    more: names of further rows.
    Raises InputError, IncompatibleError, SteeringUnavailable. Steers with each row, as only that tells.
    """
    names = [UNSTEERED, PROMPT, *more, *(name for name, _ in rows)]
    if again := [name for name in names if names.count(name) > 1]:
        raise InputError(f"evaluation: two rows are named {again[0]!r}, expected a name for each")
    for name, sources in rows:
        if not sources:
            raise InputError(f"evaluation: row {name!r} has no bundle, expected at least one")
        for bundle, _ in sources:
            with chat.llm.steered(bundle):
                pass
