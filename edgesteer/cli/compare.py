"""`edgesteer compare`: bundles against the prompt they imitate, as a page and a file of its numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from edgesteer.cli.files import page_and_numbers, write_page
from edgesteer.cli.judges import JUDGE_KEYS, check_judge, judge_options, note_cost, open_judge
from edgesteer.cli.options import (
    chat_options,
    force_option,
    max_tokens_option,
    measure_options,
    model_argument,
    output_option,
    path_of,
    print_json,
    row_options,
    trait_option,
)
from edgesteer.cli.progress import bar
from edgesteer.cli.steering import require_trait, rows_of

if TYPE_CHECKING:
    from edgesteer.evaluate import Suite


@click.command()
@model_argument
@row_options
@trait_option
@click.option(
    "--suite",
    metavar="FILE",
    help="The questions: a JSON suite, a file of questions, or `pirate`, which ships; without it, held-out "
    "questions.",
)
@output_option("FILE.html", "The page; its numbers go to FILE.json beside it.")
@force_option
@measure_options
@judge_options
@max_tokens_option(64)
@chat_options
def command(
    model: str,
    steer: tuple[str, ...],
    ways: tuple[str, ...],
    trait: str | None,
    suite: str | None,
    output: Path,
    force: bool,
    counts: tuple[str, ...],
    sentiment: bool,
    max_tokens: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare replies of MODEL in full: unsteered, prompted with the trait, and steered, a row each.

    Measures what `edgesteer eval` does and writes a page: every reply with its tokens coloured by trait,
    trait against coherence over strength, and the cost of each row. A suite is {"questions": [...]} and
    optionally "trait", "counts", "sentiment", "max_tokens" and "strengths" (for the curves); options on the
    command line override it.

    \b
    Examples:
      edgesteer compare smollm2-135m-instruct --way pirate --way pirate-constant --suite pirate -o pirate.html
      edgesteer compare model.gguf --steer sea.steer --count sea -o sea.html
    """
    from edgesteer.cli.opening import open_chat
    from edgesteer.evaluate import compare
    from edgesteer.report.comparison_page import page
    from edgesteer.report.head_to_head import lines

    judge = {key: options.pop(key) for key in JUDGE_KEYS}
    check_judge(**judge)
    questions = _suite(suite, counts, sentiment, max_tokens)
    files = page_and_numbers(output, force)
    if suite is not None and files[1].resolve() == path_of(suite).resolve():
        raise click.UsageError(f"-o {output}: its numbers would replace the suite itself; give another name")
    rows = rows_of(steer, ways)
    sentence = require_trait(questions.trait if trait is None else trait, rows)
    with open_judge(**judge, n_threads=options["n_threads"]) as opened:
        chat = open_chat(model, rows, questions.max_tokens or max_tokens, **options)
        with bar() as progress:
            comparison = compare(
                chat,
                questions,
                sentence,
                rows,
                judge=opened,
                progress=progress,
            )
    note_cost(comparison.table.judge)
    numbers = comparison.to_json()
    write_page(files, page(comparison), numbers, force)
    if as_json:
        print_json(numbers)
    else:
        click.echo("\n".join([*lines(comparison.table), "", f"{files[0]}, {files[1]}"]))


def _suite(source: str | None, counts: tuple[str, ...], sentiment: bool, max_tokens: int) -> Suite:
    """The suite with the options applied; -n on the command line overrides the suite's. Raises InputError,
    and MissingExtra for a suite that needs the `sentiment` extra."""
    from edgesteer.evaluate import Suite, held_out_questions, read_suite
    from edgesteer.evaluate.text_measures import sentiment_analyzer

    if source is None:
        suite = Suite("questions", tuple(held_out_questions()))
    else:
        suite = read_suite(path_of(source) if path_of(source).exists() else source)
    if suite.sentiment:
        sentiment_analyzer()
    default = click.get_current_context().get_parameter_source("max_tokens") is ParameterSource.DEFAULT
    return replace(
        suite,
        counts=tuple(dict.fromkeys([*suite.counts, *counts])),
        sentiment=suite.sentiment or sentiment,
        max_tokens=(suite.max_tokens if default else None) or max_tokens,
    )
