"""`edgesteer bench`: what steering costs on this machine, as ratios in one interleaved run."""

from __future__ import annotations

import click

from edgesteer.cli.options import json_option, model_argument, parse_steer, print_json, resolve_model


@click.command()
@model_argument
@click.option("--steer", multiple=True, metavar="FILE", help="Bundles to time; random ones without it.")
@click.option(
    "--rounds", type=click.IntRange(10, 4096), default=200, show_default=True, help="Tokens per way."
)
@click.option(
    "--prefills", type=click.IntRange(1), default=7, show_default=True, help="256-token prefills per way."
)
@click.option("-t", "--threads", "n_threads", type=click.IntRange(1), help="CPU threads.")
@json_option
def command(
    model: str, steer: tuple[str, ...], rounds: int, prefills: int, n_threads: int | None, as_json: bool
) -> None:
    """Time MODEL unsteered and steered, taking turns at every token; ratios are against the unsteered model.

    \b
    Example:
      edgesteer bench smollm2-135m-instruct --steer pirate
    """
    from edgesteer.bundle import load
    from edgesteer.cli.opening import default_threads
    from edgesteer.evaluate.bench import bench
    from edgesteer_models import resolve_bundle

    path = str(resolve_model(model))
    bundles = {name: load(resolve_bundle(parse_steer(name)[0])) for name in steer}
    table = bench(path, bundles or None, rounds, prefills, n_threads or default_threads())
    if as_json:
        print_json(table)
        return
    click.echo(f"{'':24}{'ms per token':>14}{'ratio':>8}{'ms prefill 256':>18}{'ratio':>8}")
    for way in table["token"]:
        token, prefill = table["token"][way], table["prefill"][way]
        click.echo(
            f"{way:24}{1e3 * token['seconds']:>14.2f}{token['ratio']:>8.3f}"
            f"{1e3 * prefill['seconds']:>18.1f}{prefill['ratio']:>8.3f}"
        )
