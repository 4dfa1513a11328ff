"""`edgesteer run`: one prompt, one reply, streamed; with --map, where steering acted."""

from __future__ import annotations

import contextlib
import sys
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
@click.option("--system", help="A system prompt, to compare with.")
@click.option("--raw", is_flag=True, help="Complete the prompt as it stands, without the chat template.")
@click.option(
    "-n", "--max-tokens", type=click.IntRange(1), default=256, show_default=True, help="Longest reply."
)
@click.option(
    "--temp", type=click.FloatRange(0), default=0.0, show_default=True, help="Temperature; 0 is greedy."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the sampler.")
@click.option(
    "--scope", type=click.Choice(SCOPES), help="Where steering acts, instead of the bundle's own scope."
)
@click.option("--map", "show_map", is_flag=True, help="Show the steering map after the reply.")
@repeat_option
@steer_options
@llama_options
@json_option
def command(
    model: str,
    prompt: str | None,
    system: str | None,
    raw: bool,
    max_tokens: int,
    temp: float,
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
    from edgesteer.cli.opening import open_model, read_prompt, reply

    steering = {
        k: options.pop(k) for k in ("steer", "control_vector", "control_vector_scaled", "layer_range")
    }
    text = read_prompt(prompt)
    bundles = load_steering(**steering)
    llm = open_model(model, **options)
    if bundles:
        llm.steer(bundles, scope=scope)
    sampling = {"max_tokens": max_tokens, "temperature": temp, "seed": seed, "repeat_penalty": repeat_penalty}
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
