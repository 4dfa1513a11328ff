"""`edgesteer bench`: what steering costs on this machine, as ratios in one interleaved run.

Parses, prints and writes.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesteer.cli.bench_against import Part, against_prompt_part, against_repeng_part
from edgesteer.cli.options import (
    json_option,
    model_argument,
    parse_steer,
    print_json,
    resolve_model,
    threads_option,
)
from edgesteer.cli.page_files import Files, figures_beside, write_all
from edgesteer.cli.progress import bar

if TYPE_CHECKING:
    from edgesteer.bundle import Bundle

# edgesteer.evaluate.bench.scale.STUDIES, which is not imported for a help text.
STUDIES = ("blocks", "bundles", "batch", "ubatch", "width")
_PAPER = 100  # columns, where the output is no terminal


def _studies(context: click.Context, param: click.Parameter, text: str | None) -> tuple[str, ...]:
    names = [name.strip() for name in text.split(",")] if text is not None else []
    unknown = [name for name in names if name not in (*STUDIES, "all")]
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r}, expected all, or some of {','.join(STUDIES)}")
    return STUDIES if "all" in names else tuple(name for name in STUDIES if name in names)


@click.command()
@model_argument
@click.option("--steer", multiple=True, metavar="FILE", help="Bundles to time; random ones without it.")
@click.option(
    "--rounds", type=click.IntRange(5, 4096), default=200, show_default=True, help="Tokens per way and run."
)
@click.option(
    "--prefills",
    type=click.IntRange(1),
    default=7,
    show_default=True,
    help="256-token prefills per way and run.",
)
@click.option(
    "--runs",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Runs with new contexts; medians are shown.",
)
@click.option(
    "--scale",
    metavar="LIST",
    callback=_studies,
    help="How the cost grows, one study each: blocks, bundles, batch, ubatch, width, or all. They take minutes. "
    "batch and ubatch time the bundles given, the others random ones; width runs random models, 256 to 4096 wide, and "
    "needs half a gigabyte for temporary files.",
)
@click.option(
    "--against",
    multiple=True,
    type=click.Choice(["prompt", "repeng"]),
    help="Repeatable. prompt: what the trait's system prompt costs. repeng: the same vectors in repeng on Torch.",
)
@click.option(
    "--trait",
    metavar="TEXT",
    help="With --against prompt: the system prompt; the first bundle's own without it.",
)
@click.option(
    "--template",
    metavar="TEXT",
    help="With --against prompt: for a model without a chat template, such as '{system}\\nQuestion: {question}\\n"
    "Answer:'.",
)
@click.option(
    "--tokens",
    type=click.IntRange(2, 1024),
    default=32,
    show_default=True,
    help="With --against repeng: tokens of each reply.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Write the figures there, and FILE.svg, a picture of them, beside it.",
)
@click.option("--force", is_flag=True, help="Replace existing files.")
@threads_option
@json_option
def command(
    model: str,
    steer: tuple[str, ...],
    output: Path | None,
    force: bool,
    n_threads: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Time MODEL unsteered and steered, taking turns at every token in one process.

    Ratios are against the unsteered model in the same context. "(native)" is the gate evaluated by the tap
    itself instead of ONNX Runtime; "(response)" is a vector of scope response, which the tap adds. Peak memory is
    that of a process that runs the model this one way. Let nothing else run meanwhile: ratios of a busy machine are
    those of a busy machine.

    \b
    Examples:
      edgesteer bench smollm2-135m-instruct --steer pirate
      edgesteer bench smollm2-135m-instruct --scale blocks,bundles -o cost.json
      edgesteer bench smollm2-135m-instruct --steer pirate-constant --against prompt --against repeng
    """
    from edgesteer.cli.opening import default_threads

    files = None if output is None else figures_beside(output, force)
    path = str(resolve_model(model))
    bundles = _bundles(path, steer)
    parts = _parts(path, bundles, n_threads=n_threads or default_threads(), **options)
    table = _measured(parts)
    if files is not None:
        _write(files, table, force)
    if as_json:
        print_json(table)
        return
    from edgesteer.report.bench import lines

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _PAPER
    click.echo("\n".join(lines(table, width)))
    for file in files or ():
        click.echo(f"edgesteer: {file} written", err=True)


def _bundles(model: str, steer: tuple[str, ...]) -> dict[str, Bundle]:
    from edgesteer.bundle import check_model, load, read_model_info
    from edgesteer.cli.opening import note
    from edgesteer_models import resolve_bundle

    found = {given: load(resolve_bundle(parse_steer(given)[0])) for given in steer}
    names = Counter(bundle.name for bundle in found.values())
    bundles = {bundle.name if names[bundle.name] == 1 else given: bundle for given, bundle in found.items()}
    for bundle in bundles.values():
        if doubt := check_model(bundle, read_model_info(model)):
            note(doubt)
    return bundles


def _parts(
    model: str,
    bundles: dict[str, Bundle],
    *,
    n_threads: int,
    rounds: int,
    prefills: int,
    runs: int,
    scale: tuple[str, ...],
    against: tuple[str, ...],
    trait: str | None,
    template: str | None,
    tokens: int,
) -> dict[str, Part]:
    """What is to be measured, by name. What can be refused is refused here, before any of it begins."""
    from edgesteer.evaluate.bench import Asked, bench
    from edgesteer.evaluate.bench import scale as studies

    asked = Asked(model, rounds, prefills, n_threads, bundles or None)
    counts = {"rounds": rounds, "prefills": prefills, "runs": runs, "n_threads": n_threads}
    parts: dict[str, Part] = {}  # first what may yet be refused when it opens the model
    if "prompt" in against:
        parts["prompt"] = against_prompt_part(model, bundles, trait, template, runs, n_threads)
    elif trait is not None or template is not None:
        raise click.UsageError("--trait and --template: only with --against prompt")
    if "repeng" in against:
        parts["repeng"] = against_repeng_part(model, bundles, tokens, n_threads)
    parts["bench"] = lambda done: bench(model, bundles or None, **counts, progress=done)
    if scale:
        parts["scale"] = lambda done: {"scale": studies(asked, scale, done)}
    return parts


def _measured(parts: dict[str, Part]) -> dict[str, Any]:
    """One table; what is under "against" is joined."""
    table: dict[str, Any] = {}
    with bar() as show:
        for i, (name, part) in enumerate(parts.items()):
            found = part(lambda done: show(name, (i + done) / len(parts)))  # noqa: B023 - called at once
            for key, value in found.items():
                table[key] = (
                    {**table[key], **value} if key in ("scale", "against") and key in table else value
                )
    return table


def _write(files: Files, table: dict[str, Any], force: bool) -> None:
    from edgesteer.report.bench import picture

    figures, drawn = files
    told = json.dumps(table, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_all({figures: told, drawn: picture(table)}, force)
