"""`edgesteer inspect`: what a bundle or control vector says of itself, and what several do to one another.

Reads them; runs nothing in them, unless a model is given to measure them on."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from edgesteer.cli.options import MOST_THREADS, json_option, load_steering, print_json

if TYPE_CHECKING:
    from edgesteer.bundle import Bundle
    from edgesteer.cli.inspect_model import Measured

    Pairs = list[tuple[Bundle, float]]
    Measure = Callable[[Pairs], Measured | None]

KINDS = {"vector": "vector: the same on every token", "psr": "psr: a coefficient per token"}
NORMS_PER_LINE = 6


@click.command()
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True)
@click.option("--model", metavar="MODEL", help="Also measure how large they are on a text, on this model.")
@click.option(
    "-p", "--prompt", metavar="TEXT", help="With --model: the prompt, instead of a built-in question."
)
@click.option(
    "-t", "--threads", "n_threads", type=click.IntRange(1, MOST_THREADS), help="With --model: CPU threads."
)
@json_option
@click.option("--extract", metavar="DIR", help="Also write the members into the folder DIR (of one BUNDLE).")
@click.option("--force", is_flag=True, help="Replace an extracted bundle in DIR.")
def command(
    bundles: tuple[str, ...],
    model: str | None,
    prompt: str | None,
    n_threads: int | None,
    as_json: bool,
    extract: str | None,
    force: bool,
) -> None:
    """Show what a bundle or control vector holds, or what several do to one another.

    BUNDLE is a .steer file or folder, a control-vector GGUF, or the name of a bundle that ships. Of several,
    each as FILE[:STRENGTH], it shows how they act together at every block: norms, and the cosine of each
    pair, which tells whether they work against each other or add much the same.

    With --model, each as FILE[:STRENGTH], it also lets that model begin a reply (24 tokens, greedy) under them,
    and shows how large the steering is against the residual stream at every block.

    \b
    Examples:
      edgesteer inspect pirate --extract pirate/
      edgesteer inspect pirate:1.2 calm.gguf:0.5
      edgesteer inspect pirate:1.2 --model smollm2-135m-instruct -p "How do I make tea?"
    """
    if len(bundles) > 1 and (extract is not None or force):
        raise click.UsageError("--extract and --force take one BUNDLE")
    if model is None and (prompt is not None or n_threads is not None):
        raise click.UsageError("-p and -t are for --model MODEL")
    if prompt is not None and not prompt.strip():
        raise click.UsageError("give a prompt with -p TEXT, or leave it out for the built-in question")

    def measured(pairs: "Pairs") -> "Measured | None":
        from edgesteer.cli.inspect_model import measure

        return None if model is None else measure(pairs, model, prompt, n_threads)

    if len(bundles) > 1:
        _inspect_together(bundles, as_json, measured)
    else:
        _inspect_one(bundles[0], as_json, extract, force, None if model is None else measured)


def _inspect_one(
    text: str, as_json: bool, extract: str | None, force: bool, measured: "Measure | None"
) -> None:
    from edgesteer.bundle import load, save_directory
    from edgesteer_models import resolve_bundle

    told: dict[str, Any] = {}
    seen = None
    if measured is None:
        bundle = load(resolve_bundle(text))
    else:
        [(bundle, strength)] = pairs = load_steering((text,))
        seen, told = measured(pairs), {"strength_given": strength}
    if extract is not None:
        save_directory(bundle, extract, force=force)
    facts = facts_of(bundle)
    if as_json:
        print_json(facts | told | _measured_json(seen))
        return
    for line in describe(facts):
        click.echo(line)
    _echo_measured(seen)


def _inspect_together(texts: tuple[str, ...], as_json: bool, measured: "Measure") -> None:
    from edgesteer.bundle import check_together
    from edgesteer.cli.opening import note
    from edgesteer.interference import interference
    from edgesteer.plan import SteeringPlan, beyond_range
    from edgesteer.report import render_interference

    pairs = load_steering(texts)
    doubts = check_together([bundle for bundle, _ in pairs])
    plan = SteeringPlan.of((bundle, strength, None) for bundle, strength in pairs)
    seen = measured(pairs)
    for line in (*doubts, *(() if seen else beyond_range(plan))):  # steering the model has said so
        note(line)
    told, picture = [(facts_of(bundle), strength) for bundle, strength in pairs], interference(pairs)
    if as_json:
        bundles = [facts | {"strength_given": strength} for facts, strength in told]
        print_json({"bundles": bundles, "interference": picture.to_json(), **_measured_json(seen)})
        return
    for facts, strength in told:
        click.echo("\n".join([*head(facts), f"  given       {strength:g}"]))
    click.echo("\n" + render_interference(picture))
    _echo_measured(seen)


def _measured_json(seen: "Measured | None") -> dict[str, Any]:
    return {"norm_report": seen.to_json()} if seen else {}


def _echo_measured(seen: "Measured | None") -> None:
    if seen:
        click.echo("\n" + seen.render())


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


def head(facts: dict[str, Any]) -> Iterator[str]:
    """The lines that matter most."""
    from edgesteer.bundle import spans

    strength = facts["strength"]
    yield _printable(facts["name"])
    if facts["description"]:
        yield f"  {_printable(facts['description'])}"
    yield f"  kind        {KINDS[facts['kind']]}"
    yield f"  scope       {facts['scope']}"
    yield f"  blocks      {spans(facts['layers'])} ({len(facts['layers'])}), width {facts['n_embd']}"
    yield f"  strength    {strength['default']:g} by default, {strength['min']:g} to {strength['max']:g}"


def describe(facts: dict[str, Any]) -> Iterator[str]:
    """The facts as lines for people; text from the file is made printable first."""
    model = facts.get("model")
    yield from head(facts)
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
    from edgesteer.bundle.card import words

    for i, (key, value) in enumerate(sorted(facts.items())):
        yield _printable(f"  {title if i == 0 else '':<10}  {key}: {words(value)}")


def _norm_lines(norms: dict[str, float]) -> Iterator[str]:
    cells = [f"{n:>4}: {norm:<9.4g}" for n, norm in norms.items()]
    for start in range(0, len(cells), NORMS_PER_LINE):
        yield ("  " + "".join(cells[start : start + NORMS_PER_LINE])).rstrip()


def _printable(text: str) -> str:
    """One line without control characters: a bundle from elsewhere must not drive the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)
