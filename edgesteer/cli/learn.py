"""`edgesteer learn`: from one sentence to a bundle, on the quantized model."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesteer.cli.files import check_bundle_output, check_output
from edgesteer.cli.options import (
    FILE,
    Finite,
    bundle_options,
    json_option,
    llama_options,
    max_tokens_option,
    measure_options,
    model_argument,
    name_of,
    output_option,
    print_json,
    resolve_model,
    seed_option,
    temperature_option,
    template_options,
    unescaped,
)
from edgesteer.cli.progress import bar

if TYPE_CHECKING:
    from edgesteer.learn import Forecast, LearnSummary, Trainer

AGAINST = ("A-Const", "S-PSR", "A-PSR")
# As in edgesteer.learn, which is too slow to import for a help text.
_METHODS, _EFFORTS = ("psr", "constant"), ("quick", "normal", "thorough")
_RECIPE = (
    *("effort", "method", "scope", "opposite", "coherence"),
    *("max_tokens", "temperature", "seed"),
)


@click.command()
@model_argument
@click.option("--trait", required=True, metavar="TEXT", help="One sentence, worded as a system prompt.")
@click.option(
    "--opposite", metavar="TEXT", help="The opposite trait's sentence: learn from both, to steer both ways."
)
@output_option("NAME.steer", "The bundle to write.")
@click.option(
    "--effort",
    type=click.Choice(_EFFORTS),
    default="normal",
    show_default=True,
    help="About 1, 6 or 15 minutes on two cores for a model of 135M parameters: how many questions are asked "
    "and how long is trained. quick does not train.",
)
@click.option(
    "--method",
    type=click.Choice(_METHODS),
    default="psr",
    show_default=True,
    help="psr: a gate gives each token its own coefficient; constant: every token gets the same.",
)
@click.option(
    "--blocks",
    default="all",
    show_default=True,
    help="Steer all blocks, one (the one that serves best), or the block of that number.",
)
@click.option(
    "--scope",
    type=click.Choice(["response", "conversation"]),
    default="response",
    show_default=True,
    help="Where to steer: the reply, or everything after the system turn.",
)
@click.option(
    "--questions",
    type=FILE,
    metavar="FILE",
    help='Questions to learn from, one per line, or JSON Lines with "question" and optionally "reply"; of 24 '
    "or more without replies, up to a third is kept to choose the strength. Without it, the built-in ones.",
)
@click.option(
    "--coherence",
    type=Finite(0, min_open=True),
    help="Target for the default strength, in nats per token (lower: more coherent); without it, the "
    "prompt's own.",
)
@click.option("--compare", is_flag=True, help="End with the head-to-head on held-out questions (minutes).")
@measure_options
@seed_option
@max_tokens_option(32)
@temperature_option(0.7)
@template_options
@click.option(
    "--replies", type=FILE, metavar="FILE", help="Write the replies that were learnt from, as JSON Lines."
)
@bundle_options
@llama_options
@json_option
def command(
    model: str,
    trait: str,
    output: Path,
    blocks: str,
    questions: Path | None,
    compare: bool,
    counts: tuple[str, ...],
    sentiment: bool,
    template: str | None,
    stop: str | None,
    reasoning: str | None,
    replies: Path | None,
    name: str | None,
    license: str,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Learn a steering bundle for MODEL from one sentence.

    With Torch and transformers installed (the `convert` extra), normal and thorough train the steering to
    follow the model under that sentence; without them, and with quick, it is fitted in closed form, which
    brings less of the trait at the same coherence.

    OUTPUT.part keeps sampled replies until the bundle is written, OUTPUT.checkpoint and
    OUTPUT.checkpoint-again the training. After Ctrl-C the same command resumes from there. A checkpoint of
    other arguments is replaced.

    \b
    Examples:
      edgesteer learn smollm2-135m-instruct --trait "You are a pirate." -o pirate.steer
      edgesteer learn model.gguf --trait "You love trains." --effort quick -o trains.steer
      edgesteer learn model.gguf --trait "You answer in rhymes." --method constant -o rhymes.steer
      edgesteer learn model.gguf --trait "You are cheerful." --opposite "You are gloomy." -o mood.steer
      edgesteer learn base.gguf --trait "A pirate answers." -o p.steer \\
        --template '{system}\\nQuestion: {question}\\nAnswer:' --stop '\\n'
    """
    from edgesteer.bundle import save
    from edgesteer.cli.opening import note, open_for_scoring
    from edgesteer.generate import read_questions
    from edgesteer.learn import EFFORTS, Comparison, Recipe, learn, write_replies
    from edgesteer.learn.part_file import locked

    # Whatever can be checked is checked before minutes of work.
    if (counts or sentiment) and not compare:
        raise click.UsageError("--count and --sentiment need --compare")
    check_bundle_output(output, force)
    if replies is not None:
        check_output(replies, force)
    question_list = None if questions is None else read_questions(questions)
    recipe = Recipe(blocks=_blocks(blocks), **{key: options.pop(key) for key in _RECIPE})
    part, checkpoint = (output.with_name(output.name + end) for end in (".part", ".checkpoint"))
    with locked(part):
        llm = open_for_scoring(model, recipe.max_tokens, **options)
        trainer, untrained = None, ""
        if EFFORTS[recipe.effort].trains:
            trainer, untrained = _trainer(model, checkpoint, options.get("n_threads"))
        if untrained:
            note(f"{untrained} {_BRINGS}; here the closed form is fitted")
        with resume_hint(part, checkpoint), bar() as progress:
            bundle, summary = learn(
                llm,
                trait,
                recipe,
                questions=question_list,
                name=name or name_of(output),
                license=license,
                template=unescaped(template),
                stop=unescaped(stop),
                reasoning=reasoning or "skip",
                part=part,
                replace=force,
                trainer=trainer,
                on_forecast=_say_forecast,
                comparison=Comparison(AGAINST, counts, sentiment) if compare else None,
                progress=progress,
            )
        save(bundle, output, force=force)
        if replies is not None:
            write_replies(replies, summary.pairs, force)
        part.unlink(missing_ok=True)
        if trainer is not None:
            _remove_checkpoints(checkpoint)
    if as_json:
        print_json({"output": str(output), "digest": bundle.digest, **summary.to_json()})
    else:
        _print(output, summary, untrained)


def _trainer(model: str, checkpoint: Path, n_threads: int | None) -> tuple[Trainer | None, str]:
    """A trainer, or why there is none: Torch is not installed, cannot read this model, or the memory is too
    small for it."""
    from edgesteer.cli.opening import default_threads
    from edgesteer.errors import MissingExtra, ModelError

    try:
        from edgesteer_converters.extras import need
        from edgesteer_converters.torch_parity import free_memory
        from edgesteer_converters.train import trainer

        need("transformers", "train")
        path, threads = resolve_model(model), n_threads or default_threads()
        return trainer(path, checkpoint=checkpoint, n_threads=threads, memory=free_memory()), ""
    except (ImportError, MissingExtra):
        return None, "pip install 'edgesteer[convert]': training in Torch"
    except ModelError as error:
        return None, f"this model cannot be trained in Torch ({error}): training"


def _forecast(forecast: Forecast) -> str:
    how, why = ("well", "much") if forecast.well else ("poorly", "little")
    return (
        f"this trait will probably learn {how}: what the sentence changes is {why} alike from question to "
        f"question (similarity {forecast.similarity:.2f})"
    )


def _say_forecast(forecast: Forecast) -> None:
    from tqdm import tqdm

    tqdm.write(f"edgesteer: {_forecast(forecast)}", file=sys.stderr)  # above the progress bar


def _remove_checkpoints(checkpoint: Path) -> None:
    from edgesteer_converters.train import checkpoints

    for file in checkpoints(checkpoint):
        file.unlink(missing_ok=True)


def _blocks(text: str) -> str | int:
    if text in ("all", "one"):
        return text
    if text.isdecimal():
        return int(text)
    raise click.UsageError(f"--blocks {text}: expected all, one, or the number of a block")


@contextlib.contextmanager
def resume_hint(part: Path, checkpoint: Path) -> Iterator[None]:
    """After Ctrl-C, print which files the same command resumes from."""
    try:
        yield
    except KeyboardInterrupt:
        kept = [(part, "what was sampled"), (checkpoint, "the training so far")]
        lines = [f"{path} keeps {what}" for path, what in kept if path.exists() and path.stat().st_size]
        if lines:
            click.echo(f"edgesteer: {', '.join(lines)}; the same command resumes from there", err=True)
        raise


def _training(
    kl_before: float, kl_after: float, steps: int, own: Mapping[str, Any] | None = None, **_: object
) -> str:
    def fell(kl_before: float, kl_after: float, steps: int, **_: object) -> str:
        return f"{kl_before:.3f} to {kl_after:.3f} in {steps} steps"

    text = f"KL from the prompted model {fell(kl_before, kl_after, steps)}"
    if own:
        text += f", with its own replies {fell(**own)}"
    return f"trained    {text} (nats per token)"


_BRINGS = "brings more of the trait at the same coherence"


def _more(summary: LearnSummary, untrained: str) -> str | None:
    """What more effort, or what is missing for training, would bring; None if there is no more."""
    from edgesteer.learn import EFFORTS

    names = list(EFFORTS)
    if untrained:
        return f"{untrained} {_BRINGS}"
    for name in names[names.index(summary.effort) + 1 :]:
        effort = EFFORTS[name]
        what = f"{effort.questions} questions and {sum(effort.steps)} steps of training in Torch"
        return f"--effort {name} ({what}) {_BRINGS}"
    return None


# What ends the strength, by `Dose.bound`.
_BOUNDS = {
    "coherence": "beyond it replies are less coherent than allowed",
    "repetition": "beyond it replies repeat themselves",
    "relevance": "beyond it replies lose their questions",
    "range": "the highest that was tried",
}


def _print(output: Path, summary: LearnSummary, untrained: str) -> None:
    steered, prompted, dose = summary.steered, summary.prompted, summary.dose
    dropped = ", ".join(f"{n} {why}" for why, n in summary.dropped.items()) or "none"
    click.echo(f"{output}: {summary.method}, {summary.layers} blocks, default strength {summary.strength:g}")
    if summary.forecast is not None:
        click.echo(f"forecast   {_forecast(summary.forecast)}")
    click.echo(
        f"replies    {summary.sampled} sampled, {summary.kept} kept (dropped: {dropped}), {summary.tokens} "
        "tokens"
    )
    if summary.trained:
        click.echo(_training(**summary.trained))
    click.echo(f"{'':11}{'trait':>7}{'coherence':>11}{'distinct-2':>12}   (other questions, greedy)")
    for label, point in (("prompted", prompted), ("steered", steered)):
        click.echo(f"{label:11}{point.trait:>7.2f}{point.coherence:>11.2f}{point.distinct2:>12.2f}")
    click.echo(f"{'allowed':11}{'':7}{dose.target_coherence:>11.2f}{dose.min_distinct2:>12.2f}")
    if dose.reached:
        click.echo(
            f"strength   {dose.strength:g}, of {dose.questions} questions; 95 % interval {dose.low:g} to "
            f"{dose.high:g}; {_BOUNDS[dose.bound]}"
        )
    else:
        click.echo(f"strength   none keeps to what is allowed ({dose.bound}); this is the lowest tried")
    if summary.emphasised and steered.trait < prompted.trait:
        click.echo(
            "the trait's prompt hardly acts on this model: a higher strength brings more of the trait, at "
            "the cost of coherence"
        )
    if summary.table is not None:
        from edgesteer.report.head_to_head import lines

        click.echo()
        for line in lines(summary.table):
            click.echo(line)
    if (more := _more(summary, untrained)) is not None:
        click.echo(f"more       {more}")
    click.echo("time       " + ", ".join(f"{k} {v:.0f} s" for k, v in summary.seconds.items()))
