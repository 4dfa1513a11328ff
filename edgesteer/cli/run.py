"""`edgesteer run`: one prompt, one streamed reply; with --map, where steering acted."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import click

from edgesteer.cli.options import (
    model_argument,
    print_json,
    prompt_option,
    raw_option,
    reply_options,
    sampling_options,
    scope_option,
    system_option,
)


@click.command()
@model_argument
@prompt_option
@system_option
@raw_option
@sampling_options
@scope_option
@click.option("--map", "show_map", is_flag=True, help="Show the steering map after the reply.")
@reply_options
def command(
    model: str,
    prompt: str | None,
    system: str | None,
    raw: bool,
    max_tokens: int,
    temperature: float,
    seed: int,
    scope: str | None,
    show_map: bool,
    repeat_penalty: float,
    as_json: bool,
    **options: Any,
) -> None:
    """Generate a reply with MODEL (a GGUF or a registry name), steered or not.

    \b
    Examples:
      edgesteer run smollm2-135m-instruct -p "How do I make tea?"
      edgesteer run smollm2-135m-instruct --steer pirate:1.2 --map -p "How do I make tea?"
      edgesteer run model.gguf --control-vector-scaled happy.gguf:0.8 < prompt.txt
    """
    from edgesteer.cli.opening import open_steered, read_prompt, reply

    if raw and system is not None:
        raise click.UsageError("--system: --raw has no chat template to put it in; write it into the prompt")
    text = read_prompt(prompt)
    llm = open_steered(model, scope, **options)
    sampling = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    sampling["repeat_penalty"] = repeat_penalty
    pieces = []
    with llm.record() if show_map or as_json else contextlib.nullcontext() as steering_map:
        for piece in reply(llm, text, system=system, raw=raw, **sampling):
            pieces.append(piece)
            if not as_json:
                click.echo(piece, nl=False)
                sys.stdout.flush()
    if as_json:
        assert steering_map is not None
        print_json({"reply": "".join(pieces), "steering": repr(llm.steering), "map": steering_map.to_json()})
        return
    click.echo()
    if steering_map is not None:
        from edgesteer.report.terminal import show

        click.echo()
        show(steering_map)
