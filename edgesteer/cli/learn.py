"""`edgesteer learn`: from one sentence to a bundle, on the quantized model. Parses, opens, saves; learns nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesteer.cli.options import (
    Finite,
    json_option,
    llama_options,
    max_tokens_option,
    model_argument,
    print_json,
    questions_option,
)
from edgesteer.cli.progress import bar, check_output

if TYPE_CHECKING:
    from edgesteer.learn import LearnSummary

_METHODS = ("psr", "constant")  # learn.METHODS, which is not imported for a help text


@click.command()
@model_argument
@click.option("--trait", required=True, metavar="TEXT", help="One sentence, worded as a system prompt.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The bundle to write.")
@click.option(
    "--method", type=click.Choice(_METHODS), default="psr", show_default=True, help="Per token, or constant."
)
@questions_option('Training questions, one a line, or JSON Lines with "question" and optionally "reply".')
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Same seed, same bytes.")
@max_tokens_option(48)
@click.option("--temperature", type=Finite(0), default=0.7, show_default=True, help="Of the replies.")
@click.option("--name", help="The bundle's name; the output's without it.")
@click.option("--license", default="unspecified", show_default=True, help="The bundle's license.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@llama_options
@json_option
def command(
    model: str,
    trait: str,
    output: Path,
    method: str,
    questions_file: Path | None,
    seed: int,
    max_tokens: int,
    temperature: float,
    name: str | None,
    license: str,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Learn a steering bundle for MODEL from one sentence.

    \b
    Examples:
      edgesteer learn smollm2-135m-instruct --trait "You are a pirate." -o pirate.steer
      edgesteer learn model.gguf --trait "You answer in rhymes." --method constant -o rhymes.steer
    """
    from edgesteer.bundle import save
    from edgesteer.cli.opening import open_for_scoring
    from edgesteer.learn import learn, read_questions

    # What can fail at once fails before the minutes of work.
    check_output(output, force)
    questions = None if questions_file is None else read_questions(questions_file)
    llm = open_for_scoring(model, max_tokens, **options)
    with bar() as progress:
        bundle, summary = learn(
            llm,
            trait,
            method=method,
            questions=questions,
            seed=seed,
            max_tokens=max_tokens,
            temperature=temperature,
            name=name or output.stem,
            license=license,
            progress=progress,
        )
    save(bundle, output, force=force)
    if as_json:
        print_json({"output": str(output), "digest": bundle.digest, **summary.to_json()})
    else:
        _print(output, summary)


def _print(output: Path, summary: LearnSummary) -> None:
    dropped = ", ".join(f"{n} {why}" for why, n in summary.dropped.items()) or "none"
    click.echo(
        f"{output}: {summary.method} on {summary.layers} blocks, default strength {summary.strength:g}"
    )
    click.echo(
        f"replies     {summary.sampled} sampled, {summary.kept} kept (dropped: {dropped}), {summary.tokens} tokens"
    )
    click.echo(
        f"trait rate  {summary.trait_rate:.0%} of {summary.checked} steered replies to training questions"
    )
    click.echo(f"trait       {summary.steered_trait:.2f} steered, {summary.prompted_trait:.2f} prompted")
    click.echo(
        f"nll0        {summary.steered_nll0:.2f} steered, {summary.prompted_nll0:.2f} prompted (lower: more coherent)"
    )
    click.echo(f"time        {summary.seconds:.0f} s")
