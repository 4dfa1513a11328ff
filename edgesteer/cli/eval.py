"""`edgesteer eval`: bundles against the prompt they imitate, as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesteer.cli.judges import JUDGE_KEYS, check_judge, judge_options, note_cost, open_judge
from edgesteer.cli.options import (
    at_option,
    chat_options,
    max_tokens_option,
    measure_options,
    model_argument,
    print_json,
    questions_of,
    questions_option,
    row_options,
    trait_option,
)
from edgesteer.cli.progress import bar
from edgesteer.cli.steering import require_trait, rows_of

if TYPE_CHECKING:
    from edgesteer.cli.steering import Rows


@click.command()
@model_argument
@row_options
@at_option
@trait_option
@questions_option("the held-out questions that ship")
@click.option(
    "--turns",
    type=click.IntRange(1, 10),
    help="Hold six scripted conversations of this many turns instead, and show each turn.",
)
@click.option(
    "--side-effects",
    is_flag=True,
    help="Measure instead what else it changes: 200 facts by likelihood, and 60 checkable instructions.",
)
@measure_options
@judge_options
@max_tokens_option(64)
@chat_options
def command(
    model: str,
    steer: tuple[str, ...],
    ways: tuple[str, ...],
    at: str,
    trait: str | None,
    questions_file: Path | None,
    turns: int | None,
    side_effects: bool,
    counts: tuple[str, ...],
    sentiment: bool,
    max_tokens: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare greedy replies of MODEL: unsteered, prompted with the trait, and steered, a row each.

    Measures are in nats per token under the unsteered model. trait: how much likelier the reply is after the
    trait's prompt than after the plain one. coherence: how unlikely the reply is after whichever of the two
    makes it likelier (lower: more coherent). nll0: how unlikely it is without any prompt. relevance: how much
    likelier the reply is after its own question than after others, 0 if all replies are the same; question
    matched: how often it is likelier there than after each of about four others. Brackets are 95 % intervals
    over the questions. +tokens: what the prompt adds to the context, beyond the template's default system
    prompt. first: the time to the first token.

    A --judge has no stake in these. With a URL, alignment and coherence are 0 to 100, harmonic is 0 to 2.
    With --at matched, TA@Cp is the alignment at the largest strength that is judged as coherent as the
    prompt, TA@C80 at a coherence of 80. Scores of different judges cannot be compared.

    \b
    Examples:
      edgesteer eval smollm2-135m-instruct --steer pirate --count pirate
      edgesteer eval smollm2-135m-instruct --way pirate --way half=pirate:0.5 --at matched
      edgesteer eval smollm2-135m-instruct --way constant=pirate-constant --way both=pirate:0.5+calm.steer
      edgesteer eval model.gguf --steer sea.steer --at matched --count sea --count "fish|crab"
      edgesteer eval smollm2-135m-instruct --steer pirate --judge minilm
      edgesteer eval smollm2-135m-instruct --steer pirate --turns 10
      edgesteer eval smollm2-135m-instruct --steer pirate --side-effects
      edgesteer eval model.gguf --steer sea.steer --at matched --judge http://localhost:8080/v1
      edgesteer eval base.gguf --steer short.steer --template "Q: {question}\\nA:" --stop "\\n" --json
    """
    from edgesteer.cli.opening import open_chat
    from edgesteer.evaluate import head_to_head
    from edgesteer.evaluate.matched import LEVELS
    from edgesteer.report.head_to_head import lines

    judge = {key: options.pop(key) for key in JUDGE_KEYS}
    check_judge(**judge)
    if turns is not None or side_effects:
        if at != "default" or questions_file or counts or sentiment or judge["judge"]:
            own = "--side-effects" if side_effects else "--turns"
            raise click.UsageError(
                f"{own} has questions and measures of its own; leave --at, --questions, --count, --sentiment "
                "and --judge out"
            )
        if turns is not None and side_effects:
            raise click.UsageError("--turns and --side-effects are two measurements; give one of them")
        rows = rows_of(steer, ways)
        if side_effects:
            _measure_side_effects(model, rows, trait, as_json, options)
        else:
            _hold_conversations(model, rows, trait, turns or 1, max_tokens, as_json, options)
        return
    rows = rows_of(steer, ways)
    sentence = require_trait(trait, rows)
    questions = questions_of(questions_file)
    with open_judge(**judge, n_threads=options["n_threads"]) as opened:
        chat = open_chat(model, rows, max_tokens, **options)
        with bar() as progress:
            table = head_to_head(
                chat,
                sentence,
                rows,
                questions=questions,
                max_tokens=max_tokens,
                counts=counts,
                with_sentiment=sentiment,
                levels=LEVELS if at == "matched" else (),
                judge=opened,
                progress=progress,
            )
    note_cost(table.judge)
    if as_json:
        print_json(table.to_json())
    else:
        click.echo("\n".join(lines(table)))


def _hold_conversations(
    model: str,
    rows: Rows,
    trait: str | None,
    turns: int,
    max_tokens: int,
    as_json: bool,
    options: dict[str, Any],
) -> None:
    from edgesteer.cli.opening import open_chat
    from edgesteer.evaluate.conversations import conversations
    from edgesteer.report.conversations import lines

    sentence = require_trait(trait, rows)
    chat = open_chat(model, rows, max_tokens, **options)
    with bar() as progress:
        table = conversations(chat, sentence, rows, turns=turns, max_tokens=max_tokens, progress=progress)
    if as_json:
        print_json(table.to_json())
    else:
        click.echo("\n".join(lines(table)))


def _measure_side_effects(
    model: str, rows: Rows, trait: str | None, as_json: bool, options: dict[str, Any]
) -> None:
    from edgesteer.cli.opening import open_chat
    from edgesteer.evaluate.facts import facts
    from edgesteer.evaluate.obedience import MAX_TOKENS, obedience
    from edgesteer.generate.progress import Stages
    from edgesteer.report.side_effects import facts_lines, obedience_lines

    sentence = require_trait(trait, rows)
    chat = open_chat(model, rows, MAX_TOKENS, **options)
    with bar() as progress:
        stages = Stages(progress, 2)
        known = facts(chat, sentence, rows, progress=stages.nested(1))
        obeyed = obedience(chat, sentence, rows, progress=stages.nested(1))
    if as_json:
        print_json({"facts": known.to_json(), "instructions": obeyed.to_json()})
    else:
        click.echo("\n".join([*facts_lines(known), "", *obedience_lines(obeyed)]))
