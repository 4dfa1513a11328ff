"""What `edgesteer eval` asks, and with --suite the comparison as one HTML page and one JSON.

In:  the values of `eval`'s options. Out: a Suite; two files beside each other, and what stdout gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgesteer.cli.options import print_json, questions_of
from edgesteer.cli.page_files import files_beside, write_both
from edgesteer.cli.progress import bar

if TYPE_CHECKING:
    from edgesteer.bundle import Bundle
    from edgesteer.evaluate import Suite
    from edgesteer.generate import Chat


def asked_of(suite: str | None, questions: Path | None) -> Suite:
    """What is asked: the suite's questions, the file's, or those that ship. UsageError for two of them."""
    from edgesteer.evaluate import Suite, held_out_questions, read_suite

    if suite is not None and questions is not None:
        raise click.UsageError("--suite and --questions both say what to ask; give one of them")
    if suite is not None:
        return read_suite(suite)
    return Suite("questions", tuple(questions_of(questions) or held_out_questions()))


def with_options(suite: Suite, counts: Sequence[str], sentiment: bool, max_tokens: int) -> Suite:
    """The suite with what the command line says besides; a length that somebody typed goes before the suite's."""
    typed = (
        click.get_current_context().get_parameter_source("max_tokens")
        is not click.core.ParameterSource.DEFAULT
    )
    return replace(
        suite,
        counts=tuple(dict.fromkeys([*suite.counts, *counts])),
        sentiment=suite.sentiment or sentiment,
        max_tokens=max_tokens if typed else suite.max_tokens or max_tokens,
    )


def files_of(suite: str | None, name: str, output: Path | None, force: bool) -> tuple[Path, Path] | None:
    """The page and the JSON of --suite; None without it. What cannot be written after the minutes of work is
    refused before them."""
    if suite is None:
        if output is not None or force:
            raise click.UsageError("-o and --force are for the files of --suite; give --suite too")
        return None
    own = Path(suite).suffix != ""  # a file, whose numbers must not land in its place
    page = Path(f"{name}-eval.html" if own else f"{name}.html") if output is None else output
    if page.with_suffix(".json").resolve() == Path(suite).resolve():
        raise click.UsageError(
            f"{suite}: is the suite itself, and the page's numbers would go there; give -o NAME.html"
        )
    return files_beside(page, "-o", force)


def print_table(
    chat: Chat,
    asked: Suite,
    trait: str,
    bundles: Sequence[tuple[Bundle, float]],
    *,
    equal_coherence: bool,
    matched: bool,
    as_json: bool,
) -> None:
    """Without --suite: the head-to-head, or its JSON."""
    from edgesteer.evaluate import head_to_head
    from edgesteer.evaluate.comparison.comparing import MAX_TOKENS
    from edgesteer.evaluate.matched import LEVELS
    from edgesteer.report.headtohead import lines

    with bar() as progress:
        table = head_to_head(
            chat,
            trait,
            [(bundle.name, bundle, strength) for bundle, strength in bundles],
            questions=asked.questions,
            max_tokens=asked.max_tokens or MAX_TOKENS,
            counts=asked.counts,
            with_sentiment=asked.sentiment,
            at_prompt_coherence=equal_coherence,
            levels=LEVELS if matched else (),
            progress=progress,
        )
    if as_json:
        print_json(table.to_json())
    else:
        click.echo("\n".join(lines(table)))


def write_comparison(
    chat: Chat,
    suite: Suite,
    trait: str,
    bundles: Sequence[tuple[Bundle, float]],
    files: tuple[Path, Path],
    *,
    equal_coherence: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Measure, write both files, print the table or the JSON."""
    from edgesteer.evaluate import compare
    from edgesteer.report.comparison_page import page
    from edgesteer.report.headtohead import lines

    with bar() as progress:
        comparison = compare(
            chat, suite, trait, bundles, at_prompt_coherence=equal_coherence, progress=progress
        )
    told = comparison.to_json()
    write_both(files, page(comparison), told, force)
    if as_json:
        print_json(told)
    else:
        click.echo("\n".join([*lines(comparison.table), "", f"{files[0]}, {files[1]}"]))
