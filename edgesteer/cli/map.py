"""`edgesteer map`: generate a reply and show where steering acted on it, token by token."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesteer.cli.files import check_page
from edgesteer.cli.options import (
    force_option,
    html_option,
    max_tokens_option,
    model_argument,
    print_json,
    prompt_option,
    raw_option,
    reply_options,
    scope_option,
)
from edgesteer.cli.progress import bar
from edgesteer.cli.steering import gives_steering
from edgesteer.errors import EdgesteerWarning

if TYPE_CHECKING:
    from edgesteer.runtime import SteeredLlama
    from edgesteer.steering_map import SteeringMap

# The page has a run at each of these multiples of the given strengths; it opens with 1.
_TIMES = (0.0, 0.5, 1.0, 1.5, 2.0)


@click.command()
@model_argument
@prompt_option
@raw_option
@max_tokens_option(64)
@scope_option
@click.option("--numbers", is_flag=True, help="Print the coefficient under every token.")
@click.option("--blocks", is_flag=True, help="Also show each block, not only their sum.")
@click.option("--all-tokens", is_flag=True, help="Show the prompt's tokens too.")
@html_option(
    "Also write a page, on which a slider replays the reply at five strengths, from 0 to twice the given one."
)
@force_option
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
    html: Path | None,
    force: bool,
    repeat_penalty: float,
    as_json: bool,
    **options: Any,
) -> None:
    """Show where steering acts: the greedy reply of MODEL, its tokens coloured by coefficient.

    \b
    Examples:
      edgesteer map smollm2-135m-instruct --steer pirate -p "How do I make tea?" --blocks
      edgesteer map smollm2-135m-instruct --steer pirate -p "How do I make tea?" --html tea.html
    """
    from edgesteer.cli.opening import open_steered, read_prompt
    from edgesteer.report.terminal import show

    if not gives_steering(options):
        raise click.UsageError("give at least one --steer FILE: without it there is nothing to map")
    if html is not None:
        check_page(html, "--html", force)
    text = read_prompt(prompt)
    llm = open_steered(model, scope, **options)
    how = {"raw": raw, "max_tokens": max_tokens, "temperature": 0.0, "repeat_penalty": repeat_penalty}
    if html is None:
        steering_map = _recorded(llm, text, how)
    else:
        steering_map = _write_page(html, llm, text, how, force)
    if as_json:
        print_json(steering_map.to_json())
    else:
        show(steering_map, numbers=numbers, heat=blocks, reply_only=not all_tokens)


def _recorded(llm: SteeredLlama, prompt: str, how: dict[str, Any]) -> SteeringMap:
    """The map of the greedy reply."""
    from edgesteer.cli.opening import reply

    # Without KV of an earlier run, so that every token of the prompt is evaluated and recorded.
    llm.reset()
    with llm.record() as steering_map:
        for _ in reply(llm, prompt, **how):
            pass
    return steering_map


def _write_page(path: Path, llm: SteeredLlama, prompt: str, how: dict[str, Any], force: bool) -> SteeringMap:
    """Record a run for each of _TIMES, and return the map at the given strengths."""
    from edgesteer.bundle.container import write_file
    from edgesteer.report.map_page import Run, page

    plan, runs = llm.steering, []
    with bar() as progress:
        for i, times in enumerate(_TIMES):
            progress(f"{times:g} times", i / len(_TIMES))
            terms = (plan * times).terms
            label = ", ".join(f"{term.bundle.name} {term.strength:g}" for term in terms) or "unsteered"
            with warnings.catch_warnings():  # it is the page, not the user, that leaves the evaluated range
                warnings.simplefilter("ignore", EdgesteerWarning)
                with llm.steered(plan * times):
                    runs.append(Run(label, _recorded(llm, prompt, how)))
    names = ", ".join(dict.fromkeys(term.bundle.name for term in plan.terms)) or "unsteered"
    title = f"Steering map: {names} on {Path(llm.model_path).stem}"
    write_file(path, page(title, prompt, runs, _TIMES.index(1.0)).encode(), force)
    return runs[_TIMES.index(1.0)].map
