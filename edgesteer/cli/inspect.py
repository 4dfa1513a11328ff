"""`edgesteer inspect`: what a bundle or control vector says of itself. Reads it; runs nothing in it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from edgesteer.cli.options import json_option, print_json

if TYPE_CHECKING:
    from edgesteer.bundle import Bundle

KINDS = {"vector": "vector: the same on every token", "psr": "psr: a coefficient per token"}
NORMS_PER_LINE = 6


@click.command()
@click.argument("bundle", metavar="BUNDLE")
@json_option
@click.option("--extract", metavar="DIR", help="Also write the members into the folder DIR.")
@click.option("--force", is_flag=True, help="Replace an extracted bundle in DIR.")
def command(bundle: str, as_json: bool, extract: str | None, force: bool) -> None:
    """Show what a bundle or control vector holds.

    BUNDLE is a .steer file or folder, a control-vector GGUF, or the name of a bundle that ships.

    \b
    Example:
      edgesteer inspect pirate --extract pirate/
    """
    from edgesteer.bundle import load, save_directory
    from edgesteer_models import resolve_bundle

    loaded = load(resolve_bundle(bundle))
    if extract is not None:
        save_directory(loaded, extract, force=force)
    facts = facts_of(loaded)
    if as_json:
        print_json(facts)
        return
    for line in describe(facts):
        click.echo(line)


def facts_of(bundle: "Bundle") -> dict[str, Any]:
    """The manifest's values, and what is computed from the members: norms [block -> L2 norm] and digest."""
    import numpy as np

    norms = {str(n): round(float(np.linalg.norm(bundle.directions[n])), 6) for n in bundle.layers}
    return bundle.manifest | {
        "path": bundle.source,
        "digest": bundle.digest,
        "n_embd": bundle.n_embd,
        "norms": norms,
        "architecture": bundle.model.architecture if bundle.model else bundle.architecture_hint,
    }


def describe(facts: dict[str, Any]) -> Iterator[str]:
    """The facts as lines for people; text from the file is made printable first."""
    from edgesteer.bundle import spans

    strength, model = facts["strength"], facts.get("model")
    yield _printable(facts["name"])
    if facts["description"]:
        yield f"  {_printable(facts['description'])}"
    yield f"  kind        {KINDS[facts['kind']]}"
    yield f"  scope       {facts['scope']}"
    yield f"  blocks      {spans(facts['layers'])} ({len(facts['layers'])}), width {facts['n_embd']}"
    yield f"  strength    {strength['default']:g} by default, {strength['min']:g} to {strength['max']:g}"
    if model:
        text = "{name} ({architecture}, {n_layer} blocks, {file_type})".format_map(model)
        yield f"  model       {_printable(text)}"
        yield f"  base        {model.get('base_sha256', 'not known')}"
    else:
        yield f"  model       not known; architecture {_printable(facts['architecture'] or 'not given')}"
    yield f"  licence     {_printable(facts['license'])}"
    for key in ("training", "evaluation"):
        yield from _section(key, facts[key])
    for name, file in facts.get("files", {}).items():
        yield f"  {'file':<10}  {name}  {file['size']} bytes  SHA-256 {file['sha256']}"
    yield "  norms       of the directions, by block"
    yield from _norm_lines(facts["norms"])


def _section(title: str, facts: dict[str, Any]) -> Iterator[str]:
    for i, (key, value) in enumerate(sorted(facts.items())):
        text = f"{value:g}" if isinstance(value, float) else str(value)
        yield _printable(f"  {title if i == 0 else '':<10}  {key}: {text}")


def _norm_lines(norms: dict[str, float]) -> Iterator[str]:
    cells = [f"{n:>4}: {norm:<9.4g}" for n, norm in norms.items()]
    for start in range(0, len(cells), NORMS_PER_LINE):
        yield ("  " + "".join(cells[start : start + NORMS_PER_LINE])).rstrip()


def _printable(text: str) -> str:
    """One line without control characters: a bundle from elsewhere must not drive the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)
