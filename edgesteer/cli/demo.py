"""`edgesteer demo`, for `make demo`: three questions, unsteered and with the two bundles that ship."""

from __future__ import annotations

import sys

import click

from edgesteer.cli.options import max_tokens_option, threads_option
from edgesteer.cli.steering import load_bundle

QUESTIONS = (
    "How do I make a good cup of tea?",
    "What should I do on a rainy Sunday?",
    "Tell me something about the moon.",
)
WAYS = (("unsteered", None), ("constant bundle", "pirate-constant"), ("PSR bundle", "pirate"))


@click.command()
@max_tokens_option(48)
@threads_option
def command(max_tokens: int, n_threads: int | None) -> None:
    """Show SmolLM2-135M-Instruct unsteered, and as a pirate with the two bundles that ship with edgesteer."""
    from edgesteer.cli.opening import open_model, reply
    from edgesteer.report.terminal import show

    bundles = {name: load_bundle(name) for _, name in WAYS if name}
    llm = open_model("smollm2-135m-instruct", n_threads=n_threads)
    last = None
    for question in QUESTIONS:
        click.secho(f"\n{question}", bold=True)
        for title, name in WAYS:
            click.secho(f"\n[{title}]", fg="cyan")
            llm.clear_steering()
            if name:
                llm.steer(bundles[name])
            with llm.record() as steering_map:
                for piece in reply(llm, question, max_tokens=max_tokens, temperature=0.0, repeat_penalty=1.1):
                    click.echo(piece, nl=False)
                    sys.stdout.flush()
            click.echo()
            last = steering_map
    click.secho(
        "\nWhere the PSR acted on the last reply (its coefficient, summed over the blocks):\n", bold=True
    )
    assert last is not None
    show(last)
    click.echo(_LAST_LINES)


_LAST_LINES = """
Learn your own from one sentence (a few minutes):

  .venv/bin/edgesteer learn smollm2-135m-instruct --trait "You are a grumpy wizard." -o wizard.steer
  .venv/bin/edgesteer run smollm2-135m-instruct --steer wizard.steer -p "How do I make tea?"
"""
