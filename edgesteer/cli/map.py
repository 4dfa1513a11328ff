"""`edgesteer map`: generate a reply and show where steering acted on it, token by token."""

from __future__ import annotations

from typing import Any

import click

from edgesteer.cli.options import (
    json_option,
    llama_options,
    load_steering,
    model_argument,
    print_json,
    repeat_option,
    steer_options,
)
from edgesteer.scope import SCOPES


@click.command()
@model_argument
@click.option("-p", "--prompt", help="The prompt; standard input without it.")
@click.option("--raw", is_flag=True, help="Complete the prompt as it stands, without the chat template.")
@click.option(
    "-n", "--max-tokens", type=click.IntRange(1), default=64, show_default=True, help="Longest reply."
)
@click.option(
    "--scope", type=click.Choice(SCOPES), help="Where steering acts, instead of the bundle's own scope."
)
@click.option("--numbers", is_flag=True, help="Print the coefficient behind every token.")
@click.option("--blocks", is_flag=True, help="Show every block, not their sum alone.")
@click.option("--all-tokens", is_flag=True, help="Show the prompt's tokens too.")
@repeat_option
@steer_options
@llama_options
@json_option
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
    from edgesteer.cli.opening import open_model, read_prompt, reply
    from edgesteer.report.terminal import show

    steering = {
        k: options.pop(k) for k in ("steer", "control_vector", "control_vector_scaled", "layer_range")
    }
    if not any(steering.values()):
        raise click.UsageError("give at least one --steer FILE: without it there is nothing to map")
    text = read_prompt(prompt)
    bundles = load_steering(**steering)
    llm = open_model(model, **options)
    llm.steer(bundles, scope=scope)
    with llm.record() as steering_map:
        for _ in reply(
            llm, text, raw=raw, max_tokens=max_tokens, temperature=0.0, repeat_penalty=repeat_penalty
        ):
            pass
    if as_json:
        print_json(steering_map.to_json())
    else:
        show(steering_map, numbers=numbers, heat=blocks, reply_only=not all_tokens)
