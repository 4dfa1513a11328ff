"""`edgesteer scan`: the effect of each steered block alone, at equal norm. Parses, opens, prints; measures nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesteer.cli.bundles_own import text_of, trait_of
from edgesteer.cli.options import (
    json_option,
    llama_options,
    load_steering,
    model_argument,
    parse_steer,
    print_json,
    questions_of,
    questions_option,
    template_options,
)
from edgesteer.cli.progress import bar, check_output

if TYPE_CHECKING:
    from edgesteer.evaluate.scan.found import Scan

# Cells side by side, which share their prompt.
_LANES, _N_CTX = 32, 2048


@click.command()
@model_argument
@click.option(
    "--steer",
    required=True,
    metavar="FILE[:STRENGTH]",
    help="Bundle or control vector, or the name of a shipped bundle. Of a strength only the sign counts.",
)
@click.option("--trait", metavar="TEXT", help="The sentence it imitates; the bundle's own without it.")
@click.option(
    "--shares",
    metavar="LIST",
    help="Norms to try as shares of the residual stream's; 0.025,0.05,0.1,0.2 without it.",
)
@click.option("--norms", metavar="LIST", help="Norms to try instead, in the residual stream's own units.")
@questions_option("Questions, one a line; six of the training questions without it.")
@click.option(
    "-n",
    "--max-tokens",
    type=click.IntRange(1),
    default=12,
    show_default=True,
    help="Longest reply that is read.",
)
@click.option("--html", type=click.Path(path_type=Path), help="Write the maps as one HTML file too.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@template_options
@llama_options
@json_option
def command(
    model: str,
    steer: str,
    trait: str | None,
    shares: str | None,
    norms: str | None,
    questions_file: Path | None,
    max_tokens: int,
    html: Path | None,
    force: bool,
    template: str | None,
    stop: str | None,
    as_json: bool,
    n_ctx: int | None,
    **options: Any,
) -> None:
    """Map which blocks of MODEL are worth steering: each block of a bundle alone, at equal norms.

    Two numbers a cell. trait: how much likelier, in nats a token, the steered model finds the replies that the
    trait's prompt brought, without that prompt. KL: how far steering moves the next token's distribution on the
    unsteered model's own replies. Strengths are set so that at every block what steering adds has the same norm on
    average, gates included; it acts from the prompt's last token on. Takes minutes: every question is read twice in
    every cell.

    \b
    Examples:
      edgesteer scan smollm2-135m-instruct --steer pirate
      edgesteer scan smollm2-135m-instruct --steer pirate --shares 0.1,0.3 --html pirate-scan.html
      edgesteer scan model.gguf --steer vector.gguf --trait "You talk like a sailor." --norms 2,4,8
    """
    from edgesteer.bundle import check_model
    from edgesteer.cli.opening import open_model
    from edgesteer.generate.chat import Chat
    from edgesteer.evaluate.scan import SHARES, scan

    sizes, unit = _sizes(shares, norms)
    if html is not None:
        check_output(html, force)
    sign = _sign(steer)
    ((bundle, _),) = load_steering((steer,))
    sentence = trait_of(trait, bundle)
    questions = questions_of(questions_file)
    llm = open_model(
        model, n_ctx=n_ctx or _N_CTX, n_seq_max=min(_LANES, n_ctx or _LANES), n_batch=512, **options
    )
    check_model(
        bundle, llm.model_info
    )  # before a template is asked for, which is of no help to another model
    chat = Chat(llm, text_of(template, bundle, "template"), text_of(stop, bundle, "stop"))
    with bar() as progress:
        found = scan(
            chat,
            bundle,
            sentence,
            sizes=sizes or SHARES,
            unit=unit,
            sign=sign,
            questions=questions,
            max_tokens=max_tokens,
            progress=progress,
        )
    if html is not None:
        _write_page(html, found, force)
    if as_json:
        print_json(found.to_json())
    else:
        from edgesteer.report.scan import render_scan

        click.echo(render_scan(found))


def _sizes(shares: str | None, norms: str | None) -> tuple[tuple[float, ...] | None, str]:
    """The sizes (None: the usual shares) and their unit."""
    if shares is not None and norms is not None:
        raise click.UsageError("--shares and --norms say the same in other units; give one of them")
    if norms is not None:
        return _numbers("--norms", norms), "norm"
    return None if shares is None else _numbers("--shares", shares), "share"


def _numbers(option: str, text: str) -> tuple[float, ...]:
    """`0.05,0.1`."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = (math.nan,)
    if not all(math.isfinite(size) and size > 0 for size in found):
        raise click.UsageError(f"{option} {text}: expected finite numbers above 0, such as 0.1,0.2")
    return found


def _sign(steer: str) -> int:
    strength = parse_steer(steer)[1]
    if strength == 0:
        raise click.UsageError(f"--steer {steer}: strength 0 steers nothing; leave it out, or give its sign")
    return -1 if strength is not None and strength < 0 else 1


def _write_page(path: Path, found: Scan, force: bool) -> None:
    from edgesteer.bundle.container import write_file
    from edgesteer.report.scan_page import page

    write_file(path, page(found).encode(), force)
