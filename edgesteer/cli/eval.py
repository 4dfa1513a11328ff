"""`edgesteer eval`: bundles against the prompt they imitate, on questions they were not learnt from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgesteer.cli.bundles_own import sure_trait, text_of
from edgesteer.cli.options import (
    count_option,
    json_option,
    llama_options,
    load_steering,
    max_tokens_option,
    model_argument,
    parse_steer,
    questions_option,
    sentiment_option,
    template_options,
)


@click.command()
@model_argument
@click.option(
    "--steer",
    multiple=True,
    required=True,
    metavar="FILE[:STRENGTH]",
    help="Repeatable: one row each.",
)
@click.option(
    "--trait", metavar="TEXT", help="The system prompt to compare with; the first bundle's own without it."
)
@click.option(
    "--equal-coherence",
    is_flag=True,
    help="Find each bundle's strength: the largest in its file's range whose replies are as coherent as the "
    "prompted ones and do not loop. Found on training questions. Takes some minutes.",
)
@click.option(
    "--matched",
    is_flag=True,
    help="Also read what each bundle brings at the prompt's coherence on these very questions: asks at 0.7 and 1.4 "
    "times its strength too, which takes three times as long.",
)
@click.option(
    "--adaptation",
    type=click.Path(path_type=Path),
    metavar="FILE.html",
    help="Measure prompt and bundles as adaptations: what else they change, how they are undone, what they cost. "
    "Writes a page, and its JSON beside it.",
)
@click.option(
    "--lora",
    type=click.Path(path_type=Path),
    metavar="FILE.gguf",
    help="With --adaptation: a LoRA adapter of MODEL, measured too (in a second copy of the model).",
)
@questions_option("Questions, one a line.")
@click.option(
    "--suite",
    metavar="FILE",
    help="Compare in full, as one HTML page and one JSON: a JSON suite, a file of questions, or `pirate`, which ships.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE.html",
    help="The page of --suite, its JSON beside it; named as the suite without it.",
)
@click.option("--force", is_flag=True, help="Replace existing files.")
@count_option
@sentiment_option
@template_options
@max_tokens_option(64)
@llama_options
@json_option
def command(
    model: str,
    steer: tuple[str, ...],
    trait: str | None,
    equal_coherence: bool,
    matched: bool,
    adaptation: Path | None,
    lora: Path | None,
    questions_file: Path | None,
    suite: str | None,
    output: Path | None,
    force: bool,
    counts: tuple[str, ...],
    sentiment: bool,
    template: str | None,
    stop: str | None,
    max_tokens: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare greedy replies of MODEL: unsteered, prompted with the trait, and steered.

    All in nats a token, under the unsteered model. trait: how much more the trait's prompt expects the reply
    than the plain one does. coherence: how unlikely the reply is to whichever of the two expects it more (lower:
    more coherent). nll0: how unlikely it is without any prompt. Brackets are 95 % intervals over the questions.
    +tokens is what the prompt adds to the context, beyond a system prompt of the template's own; "first" the
    seconds to the first token.

    --suite adds a page to look at: every reply with its tokens coloured by trait, trait against coherence over
    strength, and what each way costs. A suite is {"questions": [...]} and, as it likes, "trait", "counts",
    "sentiment", "max_tokens" and "strengths" (at which the curves are measured).

    \b
    Examples:
      edgesteer eval smollm2-135m-instruct --steer pirate --steer pirate-constant --count pirate
      edgesteer eval smollm2-135m-instruct --steer pirate --steer pirate-constant --suite pirate
      edgesteer eval smollm2-135m-instruct --steer pirate --matched --count pirate
      edgesteer eval model.gguf --steer sea.steer --equal-coherence --count sea --count "fish|crab"
      edgesteer eval smollm2-135m-instruct --steer pirate --steer pirate-constant --adaptation pirate.html
      edgesteer eval base.gguf --steer short.steer --template "Q: {question}\\nA:" --stop "\\n" --json
    """
    from edgesteer.cli.eval_suite import asked_of, files_of, print_table, with_options, write_comparison
    from edgesteer.cli.opening import open_for_scoring
    from edgesteer.generate import Chat

    if equal_coherence:
        _refuse_strengths(steer)
    if adaptation is not None or lora is not None:
        from edgesteer.cli import eval_adaptation

        eval_adaptation.run(adaptation, lora, click.get_current_context().params)
        return
    if matched and suite is not None:
        raise click.UsageError("--matched is for the table; the page of --suite has curves of its own")
    _check_counts(counts)
    asked = with_options(asked_of(suite, questions_file), counts, sentiment, max_tokens)
    _check_sentiment(asked.sentiment)
    files = files_of(suite, asked.name, output, force)
    loaded = load_steering(steer)
    first = loaded[0][0]
    sentence = sure_trait(asked.trait if trait is None else trait, first, steer[0])
    llm = open_for_scoring(model, asked.max_tokens or max_tokens, **options)
    chat = Chat(llm, text_of(template, first, "template"), text_of(stop, first, "stop"))
    how = {"equal_coherence": equal_coherence, "as_json": as_json}
    if files is None:
        print_table(chat, asked, sentence, loaded, matched=matched, **how)
    else:
        write_comparison(chat, asked, sentence, loaded, files, force=force, **how)


def _refuse_strengths(steer: tuple[str, ...]) -> None:
    for text in steer:
        name, strength = parse_steer(text)
        if strength is not None:
            raise click.UsageError(f"--equal-coherence finds the strength itself; give --steer {name}")


def _check_counts(counts: tuple[str, ...]) -> None:
    """What can fail at once fails before the model is opened."""
    from edgesteer.errors import InputError
    from edgesteer.evaluate import text_measures

    for pattern in counts:
        try:
            text_measures.expression(pattern)
        except InputError as error:
            raise click.UsageError(f"--{error}") from None


def _check_sentiment(wanted: bool) -> None:
    from edgesteer.evaluate.text_measures import sentiment_analyzer

    if wanted:
        sentiment_analyzer()
