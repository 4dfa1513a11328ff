"""`edgesteer verify`: every rule of the format, the gate's probe in ONNX Runtime included."""

import sys
from typing import Any

import click

from edgesteer.cli.options import json_option, print_json
from edgesteer.errors import EdgesteerError


@click.command()
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True)
@json_option
def command(bundles: tuple[str, ...], as_json: bool) -> None:
    """Check bundles against every rule of the format.

    Goes through all of them; exit code 1 if any is refused.

    \b
    Example:
      edgesteer verify pirate.steer other.steer
    """
    results = [_verify(bundle) for bundle in bundles]
    if as_json:
        print_json(results)
    for result in results:
        _report(result, as_json)
    if not all(result["ok"] for result in results):
        sys.exit(1)


def _verify(bundle: str) -> dict[str, Any]:
    from edgesteer.bundle import verify
    from edgesteer_models import resolve_bundle

    try:
        path = resolve_bundle(bundle)
        return {"bundle": bundle, "path": str(path), "ok": True, "checks": verify(path)}
    except EdgesteerError as error:
        return {"bundle": bundle, "ok": False, "error": " ".join(str(error).split())}


def _report(result: dict[str, Any], as_json: bool) -> None:
    if not result["ok"]:
        click.echo(f"edgesteer: error: {result['error']}", err=True)
    elif not as_json:
        click.echo(f"{result['bundle']}: ok")
        for line in result["checks"]:
            click.echo(f"  {line}")
