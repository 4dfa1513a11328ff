"""`edgesteer eval`: bundles against the prompt they imitate, as tables, a page, and entries of a card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from edgesteer.cli.files import check_bundle_output, check_page, write_all
from edgesteer.cli.judges import JUDGE_KEYS, check_judge, judge_options, note_cost, open_judge
from edgesteer.cli.options import (
    FILE,
    Finite,
    at_option,
    chat_options,
    force_option,
    html_option,
    max_tokens_option,
    measure_options,
    model_argument,
    print_json,
    questions_of,
    questions_option,
    row_options,
    trait_option,
)
from edgesteer.cli.progress import bar
from edgesteer.cli.steering import require_trait, rows_of

if TYPE_CHECKING:
    from edgesteer.bundle import Bundle
    from edgesteer.cli.steering import Rows
    from edgesteer.evaluate.evaluation import Evaluation, Selection


@click.command()
@model_argument
@row_options
@at_option
@trait_option
@questions_option("the held-out questions that ship")
@click.option(
    "--controls",
    is_flag=True,
    help="Add to the table: the first row with random directions of the same norms; guided decoding, an "
    "upper bound; and what the prompt costs if its KV is kept. Another trait's bundle is a --way of its own.",
)
@click.option(
    "--turns",
    type=click.IntRange(1, 10),
    help="Measure instead six scripted conversations of this many turns, and show each turn.",
)
@click.option(
    "--temperature",
    "--temp",
    "temperature",
    type=Finite(0),
    help="Of the replies of --turns, which are drawn with fixed seeds; without it, greedy.",
)
@click.option(
    "--side-effects",
    is_flag=True,
    help="Measure instead what else it changes: 200 facts by likelihood, and 60 checkable instructions.",
)
@click.option(
    "--transfer",
    "tried",
    is_flag=True,
    help="Measure instead whether the one bundle also works on other quantizations: copies of MODEL as Q4_0, "
    "Q8_0 and F16, written one after the other to the temporary folder (TMPDIR) and deleted.",
)
@click.option(
    "--full",
    is_flag=True,
    help="The table with --controls, --turns 10 unless given, and --side-effects (takes long).",
)
@measure_options
@judge_options
@max_tokens_option(64)
@html_option("Also write the figures, with charts, as a page.")
@click.option(
    "--card",
    type=FILE,
    metavar="FILE.steer",
    help="Also write the one bundle with these figures in its card. It steers as before, but is not signed.",
)
@force_option
@chat_options
def command(
    model: str,
    steer: tuple[str, ...],
    ways: tuple[str, ...],
    trait: str | None,
    questions_file: Path | None,
    html: Path | None,
    card: Path | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare greedy replies of MODEL: unsteered, prompted with the trait, and steered, a row each.

    Measures are in nats per token under the unsteered model. trait: how much likelier the reply is after the
    trait's prompt than after the plain one. coherence: how unlikely the reply is after whichever of the two
    makes it likelier (lower: more coherent). nll0: how unlikely it is without any prompt. relevance: how much
    likelier the reply is after its own question than after others, 0 if all replies are the same; question
    matched: how often it is likelier there than after each of about four others. Brackets are 95 % intervals
    over the questions. +tokens: what the prompt adds to the context, beyond the template's default system
    prompt. first: the time to the first token.

    A --judge has no stake in these. With a URL, alignment and coherence are 0 to 100, harmonic is 0 to 2.
    With --at matched, TA@Cp is the alignment at the largest strength that is judged as coherent as the
    prompt, TA@C80 at a coherence of 80. Scores of different judges cannot be compared.

    --turns, --side-effects and --transfer leave the table out, and can be combined.

    \b
    Examples:
      edgesteer eval smollm2-135m-instruct --steer pirate --count pirate
      edgesteer eval smollm2-135m-instruct --way pirate --way half=pirate:0.5 --at matched
      edgesteer eval smollm2-135m-instruct --way constant=pirate-constant --way both=pirate:0.5+calm.steer
      edgesteer eval model.gguf --steer sea.steer --at matched --count sea --count "fish|crab"
      edgesteer eval model.gguf --way sea.steer --way other=calm.steer --controls --at matched
      edgesteer eval smollm2-135m-instruct --steer pirate --judge minilm
      edgesteer eval smollm2-135m-instruct --steer pirate --turns 10 --temp 0.7 --judge minilm
      edgesteer eval smollm2-135m-instruct --steer pirate --full --html pirate.html
      edgesteer eval model.gguf --steer sea.steer --side-effects --transfer --card sea-measured.steer
      edgesteer eval model.gguf --steer sea.steer --at matched --judge http://localhost:8080/v1
      edgesteer eval base.gguf --steer short.steer --template "Q: {question}\\nA:" --stop "\\n" --json
    """
    from edgesteer.cli.opening import open_chat
    from edgesteer.evaluate.evaluation import measure

    judge = {key: options.pop(key) for key in JUDGE_KEYS}
    check_judge(**judge)
    wanted = _wanted(options, questions_file, bool(judge["judge"]))
    if html is not None:
        check_page(html, "--html", force)
    rows = rows_of(steer, ways)
    if wanted.transfer:
        _only_bundle(rows, "--transfer tries")
    if card is not None:
        _check_card(card, _only_bundle(rows, "--card writes"), force)
    elif force and html is None:
        raise click.UsageError("--force is for --html and --card")
    sentence = require_trait(trait, rows)
    with open_judge(**judge, n_threads=options["n_threads"]) as opened:
        chat = open_chat(model, rows, wanted.longest_reply, **options)
        with bar() as progress:
            result = measure(chat, sentence, rows, wanted, opened, progress)
    judged = result.conversations or result.replies
    note_cost(judged.judge if judged else None)
    if card is not None:
        _write_card(card, rows, result, force)
    if html is not None:
        from edgesteer.report.evaluation_page import page

        write_all({html: page(result)}, force)
    if as_json:
        print_json(result.to_json())
    else:
        from edgesteer.report.evaluation import lines

        click.echo("\n".join(lines(result)))


def _wanted(options: dict[str, Any], questions: Path | None, judge: bool) -> Selection:
    """Takes its own values out of the options. Raises UsageError for options that would change nothing."""
    from edgesteer.evaluate.evaluation import Selection

    full, turns, temperature = (options.pop(key) for key in ("full", "turns", "temperature"))
    controls, side_effects, tried = (options.pop(key) for key in ("controls", "side_effects", "tried"))
    at, counts, sentiment = (options.pop(key) for key in ("at", "counts", "sentiment"))
    turns = turns or (10 if full else 0)
    side_effects = side_effects or full
    table = full or controls or not (turns or side_effects or tried)
    own = {"--at": at != "default", "--count": counts, "--sentiment": sentiment}
    if not table and (given := [name for name, value in own.items() if value]):
        raise click.UsageError(
            f"{', '.join(given)} would change the table of replies alone, which --turns, --side-effects and "
            "--transfer leave out; add --full, or leave it out"
        )
    if questions and not (table or tried):
        raise click.UsageError(
            "--turns and --side-effects have questions of their own; leave --questions out"
        )
    if judge and not (table or turns):
        raise click.UsageError("--side-effects and --transfer are not judged; leave --judge out")
    if judge and turns == 1:
        raise click.UsageError("--judge needs at least eight questions; give --turns 2 or more")
    if temperature is not None and not turns:
        raise click.UsageError("--temperature is for --turns; other replies are greedy")
    source = click.get_current_context().get_parameter_source("max_tokens")
    if source is not ParameterSource.DEFAULT and not (table or turns or tried):
        raise click.UsageError("--side-effects has a limit of its own; leave --max-tokens out")
    return Selection(
        table=table,
        controls=controls or full,
        turns=turns,
        side_effects=side_effects,
        transfer=tried,
        matched=at == "matched",
        counts=counts,
        sentiment=sentiment,
        temperature=temperature or 0.0,
        max_tokens=options.pop("max_tokens"),
        questions=questions_of(questions),
    )


def _only_bundle(rows: Rows, what: str) -> Bundle:
    if len(rows) != 1 or len(rows[0][1]) != 1:
        raise click.UsageError(f"{what} one bundle; give exactly one --steer FILE")
    return rows[0][1][0][0]


# -- into the card


def _check_card(card: Path, bundle: Bundle, force: bool) -> None:
    """Refuse before the minutes of work what `_write_card` would refuse."""
    from edgesteer.bundle.refusal import refusal
    from edgesteer.cli.opening import note
    from edgesteer.errors import OutputError

    check_bundle_output(card, force, "--card")
    if not bundle.members:
        where = bundle.source or bundle.name
        raise refusal(where, "a bare control vector, which has no card", "a bundle", "leave --card out")
    if bundle.signature is None:
        return
    if bundle.source is not None and card.exists() and card.samefile(bundle.source):
        raise OutputError(
            f"{card}: is signed, and would lose its signature; give another name, and sign the new bundle"
        )
    note(f"{bundle.name} is signed; {card.name} will not be, since its card differs: sign it again")


def _write_card(card: Path, rows: Rows, result: Evaluation, force: bool) -> None:
    from edgesteer.bundle import save

    ((name, ((bundle, _),)),) = rows
    evaluation = {**bundle.evaluation, **result.for_manifest(name)}
    save(bundle.with_metadata(evaluation=evaluation), card, force=force)
