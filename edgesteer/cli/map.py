"""`edgesteer map`: generate a reply and show where steering acted on it, token by token."""

from __future__ import annotations

from typing import Any

import click

from edgesteer.cli.options import (
    gives_steering,
    max_tokens_option,
    model_argument,
    print_json,
    prompt_option,
    raw_option,
    reply_options,
    scope_option,
)


@click.command()
@model_argument
@prompt_option
@raw_option
@max_tokens_option(64)
@scope_option
@click.option("--numbers", is_flag=True, help="Print the coefficient behind every token.")
@click.option("--blocks", is_flag=True, help="Show every block, not their sum alone.")
@click.option("--all-tokens", is_flag=True, help="Show the prompt's tokens too.")
@reply_options
def command(
    model: str,
    prompt: str | None,
    raw: bool,
    max_tokens: int,
    scope: str | None,
    numbers: bool,
    blocks: bool,
    all_tokens: bool,
    repeat_penalty: float,
    as_json: bool,
    **options: Any,
) -> None:
    """Show where steering acts: the greedy reply of MODEL, its tokens coloured by coefficient.

    \b
    Example:
      edgesteer map smollm2-135m-instruct --steer pirate -p "How do I make tea?" --blocks
    """
    from edgesteer.cli.opening import open_steered, read_prompt, reply
    from edgesteer.report.terminal import show

    if not gives_steering(options):
        raise click.UsageError("give at least one --steer FILE: without it there is nothing to map")
    text = read_prompt(prompt)
    llm = open_steered(model, scope, **options)
    with llm.record() as steering_map:
        for _ in reply(
            llm, text, raw=raw, max_tokens=max_tokens, temperature=0.0, repeat_penalty=repeat_penalty
        ):
            pass
    if as_json:
        print_json(steering_map.to_json())
    else:
        show(steering_map, numbers=numbers, heat=blocks, reply_only=not all_tokens)
