"""`edgesteer eval`: bundles against the prompt they imitate, on questions they were not learnt from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesteer.cli.options import (
    json_option,
    llama_options,
    load_steering,
    max_tokens_option,
    model_argument,
    print_json,
    questions_option,
)
from edgesteer.cli.progress import bar

if TYPE_CHECKING:
    from edgesteer.bundle import Bundle
    from edgesteer.evaluate import Row, Table


@click.command()
@model_argument
@click.option(
    "--steer",
    multiple=True,
    required=True,
    metavar="FILE[:STRENGTH]",
    help="Repeatable: one row each.",
)
@click.option(
    "--trait", metavar="TEXT", help="The system prompt to compare with; the first bundle's own without it."
)
@questions_option("Questions, one a line.")
@click.option(
    "--count", "pattern", metavar="REGEX", help="Count matches in the replies; `pirate` is a ready list."
)
@max_tokens_option(64)
@llama_options
@json_option
def command(
    model: str,
    steer: tuple[str, ...],
    trait: str | None,
    questions_file: Path | None,
    pattern: str | None,
    max_tokens: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare greedy replies of MODEL: unsteered, prompted with the trait, and steered.

    trait and nll0 are in nats a token under the unsteered model: how much more the trait's prompt expects
    the reply than the plain one does, and how unlikely the reply is without any prompt (lower: more coherent).

    \b
    Example:
      edgesteer eval smollm2-135m-instruct --steer pirate --steer pirate-constant --count pirate
    """
    from edgesteer.cli.opening import open_for_scoring
    from edgesteer.evaluate import head_to_head
    from edgesteer.learn import read_questions

    _check_pattern(pattern)
    loaded = load_steering(steer)
    bundles = [(bundle.name, bundle, strength) for bundle, strength in loaded]
    questions = None if questions_file is None else [q.text for q in read_questions(questions_file)]
    sentence = trait or _own_trait(loaded[0][0], steer[0])
    llm = open_for_scoring(model, max_tokens, **options)
    with bar() as progress:
        table = head_to_head(
            llm,
            sentence,
            bundles,
            questions=questions,
            max_tokens=max_tokens,
            pattern=pattern,
            progress=progress,
        )
    if as_json:
        print_json(table.to_json())
    else:
        _print(table)


def _own_trait(bundle: Bundle, named: str) -> str:
    trait = bundle.training.get("trait")
    if not isinstance(trait, str) or not trait.strip():
        raise click.UsageError(f"{named} does not say what it was learnt from; give --trait TEXT")
    return trait


def _check_pattern(pattern: str | None) -> None:
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise click.UsageError(f"--count {pattern}: not a regular expression ({error})") from None


def _print(table: Table) -> None:
    counted = any(row.count for row in table.rows)
    head = f"{'':24}{'strength':>9}{'trait':>8}{'nll0':>7}{'distinct-2':>12}"
    click.echo(head + (f"{'per 100 words':>15}{'replies with any':>18}" if counted else ""))
    for row in table.rows:
        click.echo(_line(row))
    click.echo(f"{len(table.questions)} questions, greedy, at most {table.max_tokens} tokens")


def _line(row: Row) -> str:
    strength = "" if row.strength is None else f"{row.strength:g}"
    line = f"{row.name:24}{strength:>9}{row.trait:>8.2f}{row.nll0:>7.2f}{row.distinct2:>12.2f}"
    return line + (f"{row.count.per_100_words:>15.1f}{row.count.share:>18.0%}" if row.count else "")
