"""`edgesteer pas`: from a labelled multiple-choice file to a bundle."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesteer.cli.files import check_bundle_output, check_page, write_all
from edgesteer.cli.options import (
    LLAMA_KEYS,
    bundle_options,
    html_option,
    json_option,
    llama_options,
    model_argument,
    name_of,
    output_option,
    path_of,
    print_json,
    seed_option,
)
from edgesteer.cli.progress import bar

if TYPE_CHECKING:
    from edgesteer.learn.pas import Items, PasReport
    from edgesteer.runtime import SteeredLlama

# As in edgesteer.learn.pas, which is too slow to import for a help text.
_FORMATS = ("auto", "plain", "bbq", "ethics", "truthfulqa", "persona", "sycophancy", "lsat")
_VARIANTS = ("iPASwo", "iPASa", "PASf")
_POSITIONS = ("last", "conversation", "all")

# Room for one item's prompt with the default grid of 120 cells and the unsteered one side by side.
_N_CTX, _LANES = 2048, 128


@click.command()
@model_argument
@click.argument("data")
@output_option("NAME.steer", "The bundle to write.")
@click.option(
    "--format",
    "layout",
    type=click.Choice(_FORMATS),
    default="auto",
    show_default=True,
    help="Layout of DATA, or auto: what its keys say; plain has question, choices and answer.",
)
@click.option(
    "--max-bad-rows",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    help="Share of DATA's rows that may be left out because they cannot be used.",
)
@click.option(
    "--variant",
    type=click.Choice(_VARIANTS),
    default="iPASwo",
    show_default=True,
    help="Texts to contrast: the model's own answers (iPASwo, iPASa) or whole prompts (PASf).",
)
@click.option(
    "--positions",
    type=click.Choice(_POSITIONS),
    default="last",
    show_default=True,
    help="Positions to steer: each forward pass's last, or more of the prompt (slow: no prefix is shared).",
)
@click.option(
    "--blocks",
    metavar="LIST",
    help="Blocks to try, such as 4,8,12-16; by default ten over the model's depth.",
)
@click.option(
    "--strengths", metavar="LIST", help="Strengths to try, such as 0.5,1,4; by default the paper's twelve."
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
    help="Exemplars before every item, from training items answered wrong.",
)
@click.option(
    "--trials",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="Seeds, each with its own split.",
)
@click.option(
    "--shuffle-labels", is_flag=True, help="Test the search itself: with random targets, expect no gain."
)
@seed_option
@html_option("Also write the report as a page.")
@bundle_options
@llama_options
@json_option
def command(
    model: str,
    data: str,
    output: Path,
    layout: str,
    max_bad_rows: float,
    html: Path | None,
    name: str | None,
    license: str,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Learn a steering vector for MODEL from labelled multiple-choice items (Painless Activation Steering).

    DATA is a JSONL, JSON, CSV or TSV file, or the name of a set that ships: agreement, helpfulness and
    sharing, in few words for small models; agreeableness, risk-taking, self-interest, optimism,
    helpful-yes-no; control. The items are split 60/20/20: the first part gives the vectors, from what the
    model gets wrong; the second chooses block and strength; the third tests the result, once. OUTPUT.part
    keeps the answers until the bundle is written: after Ctrl-C the same command resumes from there.

    \b
    Examples:
      edgesteer pas smollm2-135m-instruct sharing -o sharing.steer
      edgesteer pas model.gguf bbq.jsonl -o fair.steer --html fair.html
      edgesteer pas model.gguf quiz.csv --variant iPASa --blocks 8-16 --strengths 1,2,4 -o quiz.steer
    """
    from importlib.metadata import version

    from edgesteer.bundle import save
    from edgesteer.learn.part_file import PartFile, locked
    from edgesteer.learn.pas import STRENGTHS, PasRecipe, pas

    # Whatever can be checked is checked before minutes of work.
    check_bundle_output(output, force)
    if html is not None:
        check_page(html, "--html", force)
        if html.resolve() == output.resolve():
            raise click.UsageError(f"--html {html}: is the bundle's name, expected another")
    blocks, strengths = _blocks(options.pop("blocks")), _strengths(options.pop("strengths"))
    llama = {key: options.pop(key) for key in LLAMA_KEYS}
    recipe = PasRecipe(blocks=blocks, strengths=strengths or STRENGTHS, **options)
    items = _items(data, layout, max_bad_rows)
    part = output.with_name(output.name + ".part")
    with locked(part):
        llm = _open(model, **llama)
        facts = {
            "model": llm.identity(),
            "llama-cpp-python": version("llama-cpp-python"),
            "threads": llm.n_threads,
            "context": [llm.n_seq_max, llm.n_ctx(), llm.n_batch],
            "GPU layers": llama["n_gpu_layers"],
        }
        known = PartFile(part, facts, replace=force)
        try:
            with bar() as progress:
                bundle, report = pas(
                    llm,
                    items,
                    recipe,
                    name=name or name_of(output),
                    license=license,
                    source=data,
                    known=known,
                    progress=progress,
                )
        except KeyboardInterrupt:
            if len(known):
                click.echo(
                    f"edgesteer: {part} keeps the answers; the same command resumes from there", err=True
                )
            raise
        save(bundle, output, force=force)
        if html is not None:
            from edgesteer.report.pas_page import page

            write_all({html: page(bundle.name, report)}, force)
        known.remove()
    if as_json:
        size = output.stat().st_size
        print_json({"output": str(output), "digest": bundle.digest, "bytes": size, **report.to_json()})
    else:
        _print(output, report)


def _items(data: str, layout: str, max_bad_rows: float) -> Items:
    """The items of a file, or of a set that ships if DATA has no suffix and is not a file."""
    from edgesteer.learn.pas import read_items, set_path

    path = path_of(data)
    if not path.suffix and not path.exists():
        return read_items(set_path(data), "plain" if data == "control" else "persona")
    return read_items(path, layout, max_bad_rows)


def _open(model: str, n_ctx: int | None, **options: Any) -> SteeredLlama:
    from edgesteer.cli.opening import open_model

    if n_ctx and n_ctx < 2 * _LANES:  # below _LANES llama.cpp would abort
        raise click.UsageError(f"-c {n_ctx}: expected at least {2 * _LANES}, for {_LANES} cells side by side")
    return open_model(model, n_ctx=n_ctx or _N_CTX, n_seq_max=_LANES, n_batch=512, **options)


def _blocks(text: str | None) -> tuple[int, ...] | None:
    """`4,8,12-16`."""
    if text is None:
        return None
    blocks: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or len(first) > 6 or len(last) > 6:
            raise click.UsageError(f"--blocks {text}: expected numbers and ranges, such as 4,8,12-16")
        if int(last or first) < int(first):
            raise click.UsageError(f"--blocks {text}: expected ranges from a lower block to a higher one")
        blocks += range(int(first), int(last or first) + 1)
    return tuple(blocks)


def _strengths(text: str | None) -> tuple[float, ...] | None:
    """`0.5,1,4`."""
    if text is None:
        return None
    try:
        strengths = tuple(float(part) for part in text.split(","))
    except ValueError:
        strengths = (math.nan,)
    if not all(map(math.isfinite, strengths)):
        raise click.UsageError(f"--strengths {text}: expected finite numbers, such as 0.5,1,4")
    return strengths


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
