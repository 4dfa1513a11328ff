"""`edgesteer bench`: what steering costs on this machine, as ratios in one interleaved run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from edgesteer.cli.options import (
    json_option,
    model_argument,
    parse_steer,
    print_json,
    resolve_model,
    threads_option,
)


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
@threads_option
@json_option
def command(
    model: str,
    steer: tuple[str, ...],
    rounds: int,
    prefills: int,
    runs: int,
    n_threads: int | None,
    as_json: bool,
) -> None:
    """Time MODEL unsteered and steered, taking turns at every token in one process.

    Ratios are against the unsteered model in the same context. "(native)" is the gate evaluated by the tap
    itself instead of ONNX Runtime. Let nothing else run meanwhile: ratios of a busy machine are those of a
    busy machine.

    \b
    Example:
      edgesteer bench smollm2-135m-instruct --steer pirate
    """
    from edgesteer.bundle import load
    from edgesteer.cli.opening import default_threads
    from edgesteer.cli.progress import bar
    from edgesteer.evaluate.bench import bench
    from edgesteer_models import resolve_bundle

    path = str(resolve_model(model))
    bundles = {name: load(resolve_bundle(parse_steer(name)[0])) for name in steer}
    threads = n_threads or default_threads()
    with bar() as show:
        table = bench(
            path,
            bundles or None,
            rounds=rounds,
            prefills=prefills,
            runs=runs,
            n_threads=threads,
            progress=lambda done: show("bench", done),
        )
    if as_json:
        print_json(table)
        return
    for line in lines(table):
        click.echo(line)


def lines(table: dict[str, Any]) -> Iterator[str]:
    """The table for people: a line a way, then a line a bundle."""
    yield f"{'':24}{'ms a token':>11}{'ratio':>8}{'low..high':>14}{'ms prefill':>12}{'ratio':>8}{'dial ms':>9}"
    for way, token in table["token"].items():
        prefill, dial = table["prefill"][way], table["strength_change"].get(way)
        low, high = token["ratio_range"]
        yield (
            f"{way:24}{1e3 * token['seconds']:>11.2f}{token['ratio']:>8.3f}{f'{low:.3f}..{high:.3f}':>14}"
            f"{1e3 * prefill['seconds']:>12.1f}{prefill['ratio']:>8.3f}"
            f"{1e3 * dial['seconds'] if dial else 0:>9.2f}"
        )
    yield ""
    yield f"{'':24}{'ms to load':>11}{'KB':>8}{'MB in memory':>14}"
    for name, load in table["load"].items():
        memory = table["memory"][name] / 1e6
        yield f"{name:24}{1e3 * load['seconds']:>11.1f}{load['bytes'] / 1e3:>8.1f}{memory:>14.1f}"
