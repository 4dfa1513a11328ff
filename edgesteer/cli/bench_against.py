"""`edgesteer bench --against`: beside the trait's prompt, and beside repeng. A door of the converters room.

In:  the options' values. Out: a Part, which measures when it is called; what can be refused is refused before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from edgesteer.cli.bundles_own import text_of, trait_of

if TYPE_CHECKING:
    from edgesteer.bundle import Bundle

Part = Callable[[Callable[[float], None]], dict[str, Any]]
"""Takes progress(fraction done), gives a piece of the bench's table."""

_CONTEXT = 2048  # of the prompts
_QUESTIONS = 8  # put to repeng


def against_prompt_part(
    model: str, bundles: dict[str, Bundle], trait: str | None, template: str | None, runs: int, n_threads: int
) -> Part:
    """Raises UsageError where nobody says what the prompt is."""
    first = next(iter(bundles.values()), None)
    sentence = trait_of(trait, first)
    if sentence is None:
        raise click.UsageError(
            "--against prompt: no bundle says what it was learnt from; give --steer with one that does, or --trait"
        )
    asked = text_of(template, first, "template")

    def measure(done: Callable[[float], None]) -> dict[str, Any]:
        from edgesteer.cli.opening import open_model
        from edgesteer.generate import Chat
        from edgesteer.evaluate.bench import beside_prompt, random_bundles

        llm = open_model(model, n_threads, _CONTEXT)
        try:
            timed = bundles or random_bundles(llm.model_info)
            return {"against": {"prompt": beside_prompt(Chat(llm, asked), sentence, timed, runs, done)}}
        finally:
            llm.close()

    return measure


def against_repeng_part(model: str, bundles: dict[str, Bundle], tokens: int, n_threads: int) -> Part:
    """Raises UsageError where all bundles are PSRs, MissingExtra where repeng is not installed."""
    from edgesteer_converters.against_repeng import need_repeng

    vectors = {name: bundle for name, bundle in bundles.items() if bundle.kind == "vector"}
    if bundles and not vectors:
        raise click.UsageError(
            f"--against repeng: {', '.join(bundles)}: PSR, and repeng knows constant vectors alone; give one with "
            "--steer, or no bundle at all"
        )
    need_repeng()
    return lambda done: _repeng(
        model, vectors, [n for n in bundles if n not in vectors], tokens, n_threads, done
    )


def _repeng(
    model: str,
    vectors: dict[str, Bundle],
    without: list[str],
    tokens: int,
    n_threads: int,
    done: Callable[[float], None],
) -> dict[str, Any]:
    from edgesteer.bundle import read_model_info
    from edgesteer.evaluate import held_out_questions
    from edgesteer.evaluate.bench import random_bundles
    from edgesteer_converters.against_repeng import against_repeng

    name, bundle = next(iter((vectors or random_bundles(read_model_info(model))).items()))
    found = against_repeng(model, bundle, held_out_questions()[:_QUESTIONS], tokens, n_threads, done)
    return {"against": {"repeng": {**found, "bundle": name, "without": without}}}
