"""`edgesteer inspect`: the content of a bundle or control vector, and how several act together.

Runs nothing unless a model is given; then it measures how large the steering is on a text.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesteer.cli.options import (
    FILE,
    force_option,
    json_option,
    model_option,
    print_json,
    threads_option,
)
from edgesteer.cli.steering import load_bundle, load_steering
from edgesteer.errors import InputError, ModelError, PlanError
from edgesteer.text import one_line

if TYPE_CHECKING:
    from edgesteer.bundle import Bundle
    from edgesteer.cli.steering import Pairs
    from edgesteer.norms import NormReport
    from edgesteer.runtime import SteeredLlama

QUESTION = "How do I make a good cup of tea?"
REPLY_TOKENS = 24
REPEAT_PENALTY = 1.1  # as in `edgesteer run`, so that the reply is the same
KINDS = {"vector": "vector: the same on every token", "psr": "psr: a coefficient per token"}
NORMS_PER_LINE = 6


@click.command()
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True)
@model_option("Also measure how large they are on a text, with this model.")
@click.option(
    "-p", "--prompt", metavar="TEXT", help="With --model: the prompt, instead of a built-in question."
)
@threads_option
@json_option
@click.option(
    "--extract", type=FILE, metavar="DIR", help="Also write the members into the folder DIR (of one BUNDLE)."
)
@force_option
def command(
    bundles: tuple[str, ...],
    model: str | None,
    prompt: str | None,
    n_threads: int | None,
    as_json: bool,
    extract: Path | None,
    force: bool,
) -> None:
    """Show what a bundle or control vector holds, or how several act together.

    BUNDLE is a .steer file or folder, a control-vector GGUF, or the name of a bundle that ships. Several,
    each as FILE[:STRENGTH], are compared at every block: norms, and the cosine of each pair, which shows
    whether they work against each other or add much the same.

    With --model, that model also begins a reply (24 tokens, greedy) steered by them, each as FILE[:STRENGTH],
    and the size of the steering is shown against the residual stream at every block.

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
    alone = len(bundles) == 1 and model is None  # a strength would change nothing here, and is refused
    pairs = [(load_bundle(bundles[0]), 1.0)] if alone else load_steering(bundles)
    measured = None if model is None else measure(pairs, model, prompt, n_threads)
    if extract is not None:
        from edgesteer.bundle import save_directory

        save_directory(pairs[0][0], extract, force=force)
    show = _show_together if len(pairs) > 1 else _show_one
    show(pairs, as_json, measured)


def _show_one(pairs: Pairs, as_json: bool, measured: Measured | None) -> None:
    ((bundle, strength),) = pairs
    facts = facts_of(bundle)
    if as_json:
        print_json(facts | ({"strength_given": strength} if measured else {}) | _measured_json(measured))
        return
    for line in describe(facts):
        click.echo(line)
    _echo_measured(measured)


def _show_together(pairs: Pairs, as_json: bool, measured: Measured | None) -> None:
    from edgesteer.bundle import check_together
    from edgesteer.cli.opening import note
    from edgesteer.interference import interference
    from edgesteer.plan import SteeringPlan, beyond_range
    from edgesteer.report import render_interference

    doubts = check_together([bundle for bundle, _ in pairs])
    plan = SteeringPlan.of((bundle, strength, None) for bundle, strength in pairs)
    for line in (*doubts, *(() if measured else beyond_range(plan))):  # steering the model has already warned
        note(line)
    facts, picture = [(facts_of(bundle), strength) for bundle, strength in pairs], interference(pairs)
    if as_json:
        bundles = [each | {"strength_given": strength} for each, strength in facts]
        print_json({"bundles": bundles, "interference": picture.to_json(), **_measured_json(measured)})
        return
    for each, strength in facts:
        click.echo("\n".join([*head(each), f"  given       {strength:g}"]))
    click.echo("\n" + render_interference(picture))
    _echo_measured(measured)


def _measured_json(measured: Measured | None) -> dict[str, Any]:
    return {"norm_report": measured.to_json()} if measured else {}


def _echo_measured(measured: Measured | None) -> None:
    if measured:
        click.echo("\n" + measured.render())


# -- what a bundle holds


def facts_of(bundle: Bundle) -> dict[str, Any]:
    """The manifest, and values computed from the members, among them norms (block -> L2 norm) and digest."""
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
    """The most important facts, as lines."""
    from edgesteer.bundle import spans

    strength = facts["strength"]
    yield one_line(facts["name"], None)
    if facts["description"]:
        yield f"  {one_line(facts['description'], None)}"
    yield f"  kind        {KINDS[facts['kind']]}"
    yield f"  scope       {facts['scope']}"
    yield f"  blocks      {spans(facts['layers'])} ({len(facts['layers'])}), width {facts['n_embd']}"
    yield f"  strength    {strength['default']:g} by default, {strength['min']:g} to {strength['max']:g}"


def describe(facts: dict[str, Any]) -> Iterator[str]:
    """The facts as lines; text from the file is made printable."""
    model = facts.get("model")
    yield from head(facts)
    if model:
        text = "{name} ({architecture}, {n_layer} blocks, {file_type})".format_map(model)
        yield f"  model       {one_line(text, None)}"
        yield f"  base        {model.get('base_sha256', 'not known')}"
    else:
        yield f"  model       not known; architecture {one_line(facts['architecture'] or 'not given', None)}"
    yield f"  licence     {one_line(facts['license'], None)}"
    for key in ("training", "evaluation"):
        yield from _section(key, facts[key])
    for name, file in facts.get("files", {}).items():
        yield f"  {'file':<10}  {name}  {file['size']} bytes  SHA-256 {file['sha256']}"
    yield "  norms       of the directions, by block"
    yield from _norm_lines(facts["norms"])


def _section(title: str, facts: dict[str, Any]) -> Iterator[str]:
    from edgesteer.bundle.card import entries

    for i, (depth, key, value) in enumerate(entries(facts)):
        text = one_line(f"{key}: {value}".rstrip(), None)
        yield f"  {title if i == 0 else '':<10}  {'  ' * depth}{text}"


def _norm_lines(norms: dict[str, float]) -> Iterator[str]:
    cells = [f"{n:>4}: {norm:<9.4g}" for n, norm in norms.items()]
    for start in range(0, len(cells), NORMS_PER_LINE):
        yield ("  " + "".join(cells[start : start + NORMS_PER_LINE])).rstrip()


# -- measured on a model


@dataclass(frozen=True)
class Measured:
    """Norms on a prompt and the reply that followed it."""

    model: str
    prompt: str
    reply: str
    steering: str
    report: NormReport

    def to_json(self) -> dict[str, Any]:
        facts = {"model": self.model, "prompt": self.prompt, "reply": self.reply, "steering": self.steering}
        return facts | self.report.to_json()

    def render(self) -> str:
        from edgesteer.report import render_norms

        about = [("norms", f"of {self.steering} on {self.model}")]
        about += [("prompt", self.prompt.strip()), ("reply", self.reply.strip())]
        return render_norms(self.report, about=about)


def measure(pairs: Pairs, model: str, prompt: str | None, n_threads: int | None) -> Measured:
    """Steer MODEL, let it begin a greedy reply, and measure over prompt and reply.

    The prompt goes through the chat template if the model has one. The last sampled token is not evaluated,
    so it is not measured. Raises ModelError, IncompatibleError, PlanError.
    """
    from edgesteer.cli.opening import open_model

    text = QUESTION if prompt is None else prompt
    with closing(open_model(model, n_threads, bundles=[bundle for bundle, _ in pairs])) as llm:
        llm.steer(pairs)
        if not llm.steering:
            raise PlanError("nothing steers (strength 0?), expected something to measure; give FILE:STRENGTH")
        with llm.record() as recorded:
            _begin_reply(llm, text)
        report = llm.norms(recorded.tokens, prompt_len=recorded.n_prompt)
        return Measured(model, text, "".join(recorded.reply.pieces), repr(llm.steering), report)


def _begin_reply(llm: SteeredLlama, prompt: str) -> None:
    from edgesteer.cli.opening import reply

    raw = llm.chat_template is None
    greedy: dict[str, Any] = {"max_tokens": REPLY_TOKENS, "temperature": 0.0}
    try:
        for _ in reply(llm, prompt, raw=raw, repeat_penalty=REPEAT_PENALTY, **greedy):
            pass
    except (ModelError, InputError, ValueError) as error:  # too long, or refused by the template
        raise PlanError(f"the prompt cannot be measured: {error}; give another with -p TEXT") from None
