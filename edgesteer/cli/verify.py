"""`edgesteer verify`: check bundles against the rules of the format, or against their source."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesteer.cli.convert import PRODUCERS, choice_options, given_options, read_source
from edgesteer.cli.options import (
    FILE,
    json_option,
    model_option,
    print_json,
    resolve_model,
    threads_option,
)
from edgesteer.cli.steering import bundle_path
from edgesteer.errors import EdgesteerError
from edgesteer.text import one_line

if TYPE_CHECKING:
    from edgesteer_converters.artifact import Converted


@click.command()
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True)
@click.option(
    "--against",
    "sources",
    type=FILE,
    multiple=True,
    metavar="SOURCE",
    help="The file (repeatable) that BUNDLE was converted from: do both act the same?",
)
@click.option(
    "--from", "producer", type=click.Choice(PRODUCERS), help="What wrote SOURCE, if the file does not say."
)
@model_option("With --against: the model.")
@choice_options
@threads_option
@json_option
def command(
    bundles: tuple[str, ...],
    sources: tuple[Path, ...],
    model: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Check bundles against every rule of the format, or one against its source.

    Checks all of them; the exit code is 1 if any is refused. With --against it runs the model twice, steered
    by the source in Torch and by the bundle in llama.cpp, and compares coefficients, block outputs and
    next-token distributions.

    \b
    Examples:
      edgesteer verify pirate.steer other.steer
      edgesteer verify network.steer --against network.safetensors --model model.gguf
    """
    if sources:
        if model is None or len(bundles) != 1:
            raise click.UsageError("--against takes one BUNDLE and --model MODEL")
        results = [_verify(bundles[0], lambda path: _compare(path, sources, str(model), **options))]
    elif given := given_options(("bundles", "sources", "as_json")):
        raise click.UsageError(f"{', '.join(given)}: only with --against SOURCE")
    else:
        results = [_verify(bundle) for bundle in bundles]
    if as_json:
        print_json(results)
    for result in results:
        _report(result, as_json)
    if not all(result["ok"] for result in results):
        sys.exit(1)


def _verify(bundle: str, compare: Callable[[Path], "Converted"] | None = None) -> dict[str, Any]:
    from edgesteer.bundle import verify

    try:
        path = bundle_path(bundle)
        result: dict[str, Any] = {"bundle": bundle, "path": str(path), "ok": True, "checks": verify(path)}
        if compare is not None:
            done = compare(path)
            result["checks"] += list(done.lines())
            result |= done.to_json()
        return result
    except EdgesteerError as error:
        return {"bundle": bundle, "ok": False, "error": one_line(error, None)}


def _compare(
    path: Path,
    sources: tuple[Path, ...],
    model: str,
    producer: str | None,
    n_threads: int | None,
    **chosen: Any,
) -> "Converted":
    from edgesteer.bundle import load, read_model_info
    from edgesteer.cli.opening import default_threads
    from edgesteer.cli.progress import bar
    from edgesteer_converters.convert import against

    gguf = resolve_model(model)
    artifact = read_source(sources, producer, read_model_info(gguf), **chosen)
    with bar() as progress:
        return against(load(path), artifact, gguf, n_threads or default_threads(), progress)


def _report(result: dict[str, Any], as_json: bool) -> None:
    if not result["ok"]:
        click.echo(f"edgesteer: error: {result['error']}", err=True)
    elif not as_json:
        click.echo(f"{result['bundle']}: ok")
        for line in result["checks"]:
            click.echo(f"  {line}")
