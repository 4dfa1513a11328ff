"""`edgesteer adaptation`: measure a prompt, bundles and a LoRA as adaptations of one model, as a page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesteer.cli.files import page_and_numbers, write_page
from edgesteer.cli.options import (
    FILE,
    chat_options,
    force_option,
    max_tokens_option,
    model_argument,
    output_option,
    print_json,
    questions_of,
    questions_option,
    resolve_model,
    row_options,
    trait_option,
)
from edgesteer.cli.progress import bar
from edgesteer.cli.steering import require_trait, rows_of

if TYPE_CHECKING:
    from edgesteer.evaluate.adaptation import Adaptation

_NAME, _CELL = 36, 9


@click.command()
@model_argument
@row_options
@trait_option
@click.option(
    "--lora",
    type=FILE,
    metavar="FILE.gguf",
    help="A LoRA adapter of MODEL to measure too (in a second copy of the model).",
)
@questions_option("the held-out questions that ship")
@output_option("FILE.html", "The page; its numbers go to FILE.json beside it.")
@force_option
@max_tokens_option(64)
@chat_options
def command(
    model: str,
    steer: tuple[str, ...],
    ways: tuple[str, ...],
    trait: str | None,
    lora: Path | None,
    questions_file: Path | None,
    output: Path,
    force: bool,
    max_tokens: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure a prompt, bundles and a LoRA as adaptations of MODEL: effect, side effects, how they are
    undone, and what they cost in time, memory and data.

    \b
    Examples:
      edgesteer adaptation smollm2-135m-instruct --way pirate --way pirate-constant -o pirate.html
      edgesteer adaptation model.gguf --steer sea.steer --lora sea-lora.gguf -o sea.html
    """
    from edgesteer.cli.opening import open_chat
    from edgesteer.evaluate.adaptation import measure
    from edgesteer.evaluate.adaptation.lora import read_lora
    from edgesteer.report.adaptation_page import page

    files = page_and_numbers(output, force)
    rows = rows_of(steer, ways)
    sentence = require_trait(trait, rows)
    questions = questions_of(questions_file)
    path = resolve_model(model)
    adapter = None if lora is None else read_lora(lora, path)
    chat = open_chat(str(path), rows, max_tokens, **options)
    with bar() as progress:
        adaptation = measure(
            chat,
            sentence,
            rows,
            lora=adapter,
            questions=questions,
            max_tokens=max_tokens,
            progress=progress,
        )
    numbers = adaptation.to_json()
    write_page(files, page(f"Adaptation: {adaptation.model}", adaptation), numbers, force)
    if as_json:
        print_json(numbers)
    else:
        click.echo("\n".join([*_lines(adaptation), "", f"{files[0]}, {files[1]}"]))


def _lines(adaptation: Adaptation) -> Iterator[str]:
    """The scores as a table of at most 100 columns; a dash where a score is missing."""
    from edgesteer.report.adaptation_page import label
    from edgesteer.text import one_line

    titles = (
        axis.name if len(axis.name) < _CELL else axis.name[: _CELL - 2] + "." for axis in adaptation.axes
    )
    yield f"{'':{_NAME}}" + "".join(f"{title:>{_CELL}}" for title in titles)
    for row in adaptation.rows:
        name = one_line(label(row), _NAME - 4)
        values = ("-" if value is None else f"{value:.2f}" for value in row.scores.values())
        yield f"{name:{_NAME}}" + "".join(f"{value:>{_CELL}}" for value in values)
