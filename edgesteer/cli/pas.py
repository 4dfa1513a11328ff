"""`edgesteer pas`: from a labelled multiple-choice file to a bundle. Parses, opens, saves; learns nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesteer.cli.files import check_bundle_output, check_page
from edgesteer.cli.options import (
    bundle_options,
    html_option,
    json_option,
    llama_options,
    model_argument,
    output_option,
    print_json,
    seed_option,
)
from edgesteer.cli.progress import bar

if TYPE_CHECKING:
    from edgesteer.learn.pas import Item, PasReport
    from edgesteer.runtime import SteeredLlama

# As in learn.pas, which is not imported for a help text.
_FORMATS = ("plain", "bbq", "ethics", "truthfulqa", "persona", "sycophancy", "lsat")
_VARIANTS = ("iPASwo", "iPASa", "PASf")
_POSITIONS = ("last", "conversation", "all")

# One item's prompt and its grid side by side: 120 cells and the unsteered one.
_N_CTX, _LANES = 2048, 128


@click.command()
@model_argument
@click.argument("data")
@output_option("NAME.steer", "The bundle to write.")
@click.option(
    "--format",
    "layout",
    type=click.Choice(_FORMATS),
    default="plain",
    show_default=True,
    help="The file's layout; plain has question, choices, answer (index or text), and optionally context, group.",
)
@click.option(
    "--variant",
    type=click.Choice(_VARIANTS),
    default="iPASwo",
    show_default=True,
    help="What is contrasted: iPASwo and iPASa the model's own answers, PASf whole prompts.",
)
@click.option(
    "--positions",
    type=click.Choice(_POSITIONS),
    default="last",
    show_default=True,
    help="Where it acts: each forward pass's last position, or more of the prompt (slow: no prefix is shared).",
)
@click.option(
    "--blocks", metavar="LIST", help="Blocks to try, such as 4,8,12-16; ten over the depth without it."
)
@click.option(
    "--strengths", metavar="LIST", help="Strengths to try, such as 0.5,1,4; the paper's twelve without it."
)
@click.option(
    "--choose",
    type=click.Choice(["accuracy", "balanced"]),
    default="accuracy",
    show_default=True,
    help="The validation measure whose best cell goes into the bundle; both are reported.",
)
@click.option(
    "--shots",
    type=click.IntRange(0, 64),
    default=0,
    show_default=True,
    help="Exemplars in front of every item, from training items answered wrong.",
)
@click.option(
    "--trials", type=click.IntRange(1, 1000), default=1, show_default=True, help="Seeds, each with its split."
)
@click.option("--shuffle-labels", is_flag=True, help="Test of the search: targets at random; expect no gain.")
@seed_option
@html_option("Write the report as one page too.")
@bundle_options
@llama_options
@json_option
def command(
    model: str,
    data: str,
    output: Path,
    layout: str,
    html: Path | None,
    name: str | None,
    license: str,
    force: bool,
    as_json: bool,
    n_ctx: int | None,
    n_threads: int | None,
    n_gpu_layers: int | None,
    gate_engine: str,
    **options: Any,
) -> None:
    """Learn a steering vector for MODEL from labelled multiple-choice items (Painless Activation Steering).

    DATA is a JSONL, JSON, CSV or TSV file, or a set that ships: agreement, helpfulness and sharing in few words, for
    small models; agreeableness, risk-taking, self-interest, optimism, helpful-yes-no; control. Its items are split
    60/20/20: vectors come from what the model gets wrong in the first part, block and strength from the second, and
    the third is asked once. Answers are kept in OUTPUT.part until the bundle is written: after Ctrl-C the same command
    goes on from there.

    \b
    Examples:
      edgesteer pas smollm2-135m-instruct sharing -o sharing.steer
      edgesteer pas model.gguf bbq.jsonl --format bbq -o fair.steer --html fair.html
      edgesteer pas model.gguf quiz.csv --variant iPASa --blocks 8-16 --strengths 1,2,4 -o quiz.steer
    """
    from importlib.metadata import version

    from edgesteer.bundle import save
    from edgesteer.learn.pas import STRENGTHS, KnownAnswers, PasRecipe, pas
    from edgesteer.learn.pas.shelf import Shelf

    # What can fail at once fails before the minutes of work.
    check_bundle_output(output, force, "pas")
    if html is not None:
        check_page(html, "--html", force)
        if html.resolve() == output.resolve():
            raise click.UsageError(f"--html {html}: the bundle goes there, expected another name")
    blocks, strengths = _blocks(options.pop("blocks")), _strengths(options.pop("strengths"))
    recipe = PasRecipe(blocks=blocks, strengths=strengths or STRENGTHS, **options)
    items = _items(data, layout)
    llm = _open(model, n_ctx, n_threads, n_gpu_layers, gate_engine)
    part = output.with_name(output.name + ".part")
    context = [llm.n_threads, llm.n_seq_max, llm.n_ctx(), llm.n_batch, n_gpu_layers]
    shelf = Shelf(part, [llm._identity(), version("llama-cpp-python"), context])
    try:
        with bar() as progress:
            bundle, report = pas(
                llm,
                items,
                recipe,
                name=name or output.stem,
                license=license,
                source=data,
                known=KnownAnswers(shelf),
                progress=progress,
            )
    except KeyboardInterrupt:
        if len(shelf):
            click.echo(
                f"edgesteer: {part} keeps what was asked; the same command goes on from there", err=True
            )
        raise
    save(bundle, output, force=force)
    if html is not None:
        _write_page(html, bundle.name, report, force)
    shelf.remove()
    if as_json:
        size = output.stat().st_size
        print_json({"output": str(output), "digest": bundle.digest, "bytes": size, **report.to_json()})
    else:
        _print(output, report)


def _items(data: str, layout: str) -> list[Item]:
    """Of a file, or of a shipped set where no file has that name. A name without an ending is meant as a set's."""
    from edgesteer.learn.pas import read_items, set_path

    if not Path(data).suffix and not Path(data).exists():
        return read_items(set_path(data), "plain" if data == "control" else "persona")
    return read_items(data, layout)


def _open(
    model: str, n_ctx: int | None, n_threads: int | None, n_gpu_layers: int | None, gate_engine: str
) -> SteeredLlama:
    from edgesteer.cli.opening import open_model

    if n_ctx and n_ctx < 2 * _LANES:  # below _LANES llama.cpp would abort
        raise click.UsageError(f"-c {n_ctx}: expected at least {2 * _LANES}, for {_LANES} cells side by side")
    return open_model(
        model,
        n_threads=n_threads,
        n_ctx=n_ctx or _N_CTX,
        n_gpu_layers=n_gpu_layers,
        gate_engine=gate_engine,
        n_seq_max=_LANES,
        n_batch=512,
    )


def _blocks(text: str | None) -> tuple[int, ...] | None:
    """`4,8,12-16`."""
    if text is None:
        return None
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or len(first) > 6 or len(last) > 6:
            raise click.UsageError(f"--blocks {text}: expected numbers and ranges, such as 4,8,12-16")
        if int(last or first) < int(first):
            raise click.UsageError(
                f"--blocks {text}: expected ranges whose first block is not behind the last"
            )
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


def _strengths(text: str | None) -> tuple[float, ...] | None:
    """`0.5,1,4`."""
    if text is None:
        return None
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = (math.nan,)
    if not all(map(math.isfinite, found)):
        raise click.UsageError(f"--strengths {text}: expected finite numbers, such as 0.5,1,4")
    return found


def _write_page(path: Path, title: str, report: PasReport, force: bool) -> None:
    from edgesteer.bundle.container import write_file
    from edgesteer.report.pas_page import page

    write_file(path, page(title, report).encode(), force)


def _print(output: Path, report: PasReport) -> None:
    from edgesteer.report.pas import lines
    from edgesteer.report.terminal import wants_color

    chosen = report.chosen
    click.echo(
        f"{output}: {report.recipe.variant}, block {chosen.block}, default strength {chosen.strength:g}"
    )
    for line in lines(report, wants_color()):
        click.echo(line)
    click.echo(f"time       {report.seconds:.0f} s, {output.stat().st_size} bytes")
