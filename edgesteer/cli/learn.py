"""`edgesteer learn`: from one sentence to a bundle, on the quantized model. Parses, opens, saves; learns nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesteer.cli.options import (
    Finite,
    bundle_options,
    count_option,
    json_option,
    llama_options,
    max_tokens_option,
    model_argument,
    print_json,
    resolve_model,
    sentiment_option,
    template_options,
    unescaped,
)
from edgesteer.cli.progress import bar, check_bundle_output, check_output

if TYPE_CHECKING:
    from edgesteer.learn import LearnSummary, ReplyStore, Trainer
    from edgesteer.generate import Question

AGAINST = ("A-Const", "S-PSR", "A-PSR")
_METHODS = ("psr", "constant")  # learn.METHODS, which is not imported for a help text
_OBJECTIVES = ("kl", "ll", "mse")  # learn.recipe.OBJECTIVES
_RECIPE: tuple[str, ...] = (
    "method",
    "gate",
    "direction",
    "fit",
    "refine",
    "scope",
    "opposite",
    "emphasis",
    "best_of",
    "max_tokens",
)
_RECIPE += ("temperature", "seed", "coherence", "prune")


@click.command()
@model_argument
@click.option("--trait", required=True, metavar="TEXT", help="One sentence, worded as a system prompt.")
@click.option(
    "--opposite", metavar="TEXT", help="The trait's opposite: learn from both, to steer in both directions."
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The bundle to write.")
@click.option(
    "--method", type=click.Choice(_METHODS), default="psr", show_default=True, help="Per token, or constant."
)
@click.option(
    "--blocks",
    default="all",
    show_default=True,
    help="all, one (the one that serves best), or a block's number.",
)
@click.option(
    "--gate", default="relu", show_default=True, help="Of a PSR: relu, or mlp:K with K hidden units."
)
@click.option(
    "--direction",
    type=click.Choice(["mean", "pca"]),
    default="mean",
    show_default=True,
    help="Of a constant: mean or principal component of the differences.",
)
@click.option(
    "--fit",
    type=click.Choice(["local", "sequential"]),
    default="local",
    show_default=True,
    help="All blocks in one pass, or one after another on the steered model (slow).",
)
@click.option(
    "--refine",
    type=click.Choice(_OBJECTIVES),
    help="Go on from the fit by gradients in Torch (the `convert` extra), on CUDA where there is one; minutes: kl "
    "follows the prompted model's next-token distribution, ll its replies, mse its activations.",
)
@click.option(
    "--scope",
    type=click.Choice(["response", "conversation"]),
    default="response",
    show_default=True,
    help="Where it is to act: the reply, or all behind the system turn.",
)
@click.option(
    "--questions",
    metavar="FILE|auto",
    help='Training questions, one a line, or JSON Lines with "question" and optionally "reply"; auto: its own.',
)
@click.option(
    "--best-of", type=click.IntRange(1, 64), default=1, show_default=True, help="Replies sampled a question."
)
@click.option(
    "--emphasis",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Sample with the sentence behind the question too; auto: where the system prompt hardly acts.",
)
@click.option(
    "--coherence",
    type=Finite(0, min_open=True),
    help="Target for the default strength, nats a token (lower: more coherent); the prompt's own without it.",
)
@click.option(
    "--prune/--no-prune", default=False, show_default=True, help="Leave out blocks that are not missed."
)
@click.option("--compare", is_flag=True, help="End with the head-to-head on held-out questions (minutes).")
@count_option
@sentiment_option
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Same seed, same bytes.")
@max_tokens_option(48)
@click.option(
    "--temperature", type=Finite(0), default=0.7, show_default=True, help="Of the replies learnt from."
)
@template_options
@click.option(
    "--replies", type=click.Path(path_type=Path), help="Write the replies learnt from, as JSON Lines."
)
@bundle_options
@llama_options
@json_option
def command(
    model: str,
    trait: str,
    output: Path,
    blocks: str,
    questions: str | None,
    compare: bool,
    counts: tuple[str, ...],
    sentiment: bool,
    template: str | None,
    stop: str | None,
    replies: Path | None,
    name: str | None,
    license: str,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Learn a steering bundle for MODEL from one sentence.

    Replies that were sampled are kept in OUTPUT.part until the bundle is written, and with --refine each finished
    epoch in OUTPUT.checkpoint (of the second training in OUTPUT.checkpoint-again): after Ctrl-C the same command
    goes on from there. A checkpoint that other arguments left is replaced.

    \b
    Examples:
      edgesteer learn smollm2-135m-instruct --trait "You are a pirate." -o pirate.steer
      edgesteer learn model.gguf --trait "You answer in rhymes." --method constant -o rhymes.steer
      edgesteer learn model.gguf --trait "You are cheerful." --opposite "You are gloomy." -o mood.steer
      edgesteer learn base.gguf --trait "A pirate answers." -o p.steer \\
        --template '{system}\\nQuestion: {question}\\nAnswer:' --stop '\\n'
    """
    from edgesteer.bundle import save
    from edgesteer.cli.opening import open_for_scoring
    from edgesteer.learn import Recipe, learn

    # What can fail at once fails before the minutes of work.
    check_bundle_output(output, force, "learn")
    if replies is not None:
        check_output(replies, force)
    recipe = Recipe(blocks=_blocks(blocks), **{key: options.pop(key) for key in _RECIPE})
    asked = _questions(questions)
    part, checkpoint = (output.with_name(output.name + end) for end in (".part", ".checkpoint"))
    trainer = None if recipe.refine is None else _trainer(model, checkpoint, options.get("n_threads"))
    llm = open_for_scoring(model, recipe.max_tokens, **options)
    with _resumable(part, None if trainer is None else checkpoint), bar() as progress:
        bundle, summary = learn(
            llm,
            trait,
            recipe,
            questions=asked,
            name=name or output.stem,
            license=license,
            template=unescaped(template),
            stop=unescaped(stop),
            store=lambda facts: _store(part, facts, force),
            against=AGAINST if compare else (),
            counts=counts,
            sentiment=sentiment,
            trainer=trainer,
            progress=progress,
        )
    save(bundle, output, force=force)
    if replies is not None:
        _write_replies(replies, summary, force)
    part.unlink(missing_ok=True)
    if trainer is not None:
        _forget(checkpoint)
    if as_json:
        print_json({"output": str(output), "digest": bundle.digest, **summary.to_json()})
    else:
        _print(output, summary)


def _trainer(model: str, checkpoint: Path, n_threads: int | None) -> Trainer:
    """Of the `convert` extra; MissingExtra without it, before anything is learnt."""
    from edgesteer.cli.opening import default_threads
    from edgesteer_converters.train import trainer

    return trainer(resolve_model(model), checkpoint=checkpoint, n_threads=n_threads or default_threads())


def _forget(checkpoint: Path) -> None:
    from edgesteer_converters.train import checkpoints

    for file in checkpoints(checkpoint):
        file.unlink(missing_ok=True)


def _blocks(text: str) -> str | int:
    if text in ("all", "one"):
        return text
    if text.isdecimal():
        return int(text)
    raise click.UsageError(f"--blocks {text}: expected all, one, or a block's number")


def _questions(given: str | None) -> str | list[Question] | None:
    from edgesteer.generate import read_questions

    return given if given in (None, "auto") else read_questions(Path(str(given)))


@contextlib.contextmanager
def _resumable(part: Path, checkpoint: Path | None) -> Iterator[None]:
    """However the learning ends, `part` stays only if there is something in it to go on from. checkpoint: None
    where nothing is trained."""
    try:
        yield
    except BaseException as error:
        if part.exists() and not _finished_groups(part):
            part.unlink()
        elif part.exists() and isinstance(error, KeyboardInterrupt):
            trained = checkpoint is not None and checkpoint.exists()
            epochs = f", {checkpoint} the epochs that were trained" if trained else ""
            click.echo(
                f"edgesteer: {part} keeps what was sampled{epochs}; the same command goes on from there",
                err=True,
            )
        raise


def _finished_groups(part: Path) -> int:
    return part.read_bytes().count(b"\n") - 1  # the first line says whose replies they are


def _store(path: Path, facts: dict[str, Any], force: bool) -> ReplyStore:
    from edgesteer.learn import ReplyStore

    return ReplyStore(path, facts, force)


def _write_replies(path: Path, summary: LearnSummary, force: bool) -> None:
    from edgesteer.learn import write_replies

    write_replies(path, summary.pairs, force)


def _refined(
    objective: str,
    loss_before: float,
    loss_after: float,
    steps: int,
    dropped: list[int],
    kept: bool,
    trait: Mapping[str, float | None],
    own: Mapping[str, Any] | None = None,
    **_: object,
) -> str:
    from edgesteer.bundle import spans

    unit = "" if objective == "mse" else " nats a token"
    closed = f"; dropped, since their gates never open: {spans(dropped)}" if dropped else ""
    with_it, without = (
        "none" if nats is None else f"{nats:.2f}" for nats in (trait["trained"], trait["closed"])
    )
    gain = f"trait {with_it} at equal coherence, {without} without"
    end = "" if kept else ": the closed form is kept"
    more = (
        "; on its own replies {loss_before:.3f} to {loss_after:.3f}, {steps} steps".format(**own)
        if own
        else ""
    )
    fell = f"{objective} {loss_before:.3f} to {loss_after:.3f}{unit}, {steps} steps{more}{closed}"
    return f"refined    {fell}; {gain}{end}"


def _print(output: Path, summary: LearnSummary) -> None:
    steered, prompted, dose = summary.steered, summary.prompted, summary.dose
    dropped = ", ".join(f"{n} {why}" for why, n in summary.dropped.items()) or "none"
    click.echo(f"{output}: {summary.method}, {summary.layers} blocks, default strength {summary.strength:g}")
    if summary.written is not None:
        click.echo(f"questions  {summary.written} written by the model, the others built in")
    click.echo(
        f"replies    {summary.sampled} sampled, {summary.kept} kept (dropped: {dropped}), {summary.tokens} tokens"
    )
    if summary.refined:
        click.echo(_refined(**summary.refined))
    click.echo(f"{'':11}{'trait':>7}{'coherence':>11}{'distinct-2':>12}   (training questions, greedy)")
    for label, point in (("prompted", prompted), ("steered", steered)):
        click.echo(f"{label:11}{point.trait:>7.2f}{point.coherence:>11.2f}{point.distinct2:>12.2f}")
    if dose.target_coherence != prompted.coherence:
        click.echo(f"{'target':11}{'':7}{dose.target_coherence:>11.2f}")
    if not dose.reached:
        click.echo(
            f"no strength reached the target coherence {dose.target_coherence:.2f}; this is the nearest"
        )
    if summary.emphasised and steered.trait < prompted.trait:
        click.echo(
            "a trait that this model hardly heeds as a prompt: for more of it turn the strength up, at some coherence"
        )
    if summary.table is not None:
        from edgesteer.report.table import lines

        click.echo()
        for line in lines(summary.table):
            click.echo(line)
    click.echo("time       " + ", ".join(f"{k} {v:.0f} s" for k, v in summary.seconds.items()))
