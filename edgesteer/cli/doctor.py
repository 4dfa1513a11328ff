"""`edgesteer doctor`: proves, in a child process, what can be steered in a model."""

from __future__ import annotations

from typing import Any

import click

from edgesteer.cli.options import json_option, model_argument, print_json, resolve_model, threads_option
from edgesteer.cli.steering import bundle_path


@click.command()
@model_argument
@click.argument("bundle", required=False)
@threads_option
@json_option
def command(model: str, bundle: str | None, n_threads: int | None, as_json: bool) -> None:
    """Prove what can be steered in MODEL with this llama.cpp, and that BUNDLE acts on it.

    A child process decodes a token, adds a probe at every block and checks whether the next block sees it. A
    llama.cpp that crashes on this processor crashes only there.

    \b
    Examples:
      edgesteer doctor smollm2-135m-instruct
      edgesteer doctor model.gguf pirate.steer --json
    """
    from edgesteer.cli.opening import default_threads
    from edgesteer.runtime.doctor import examine

    path = str(resolve_model(model))
    steered = str(bundle_path(bundle)) if bundle else None
    report = examine(path, steered, n_threads or default_threads())
    if as_json:
        print_json(report)
        return
    _print(report)
    if not report["per_token"]:
        raise click.exceptions.Exit(1)


def _print(report: dict[str, Any]) -> None:
    from edgesteer.bundle import spans

    model, last = report["model"], report["blocks"] - 1
    lines = {
        "model": f"{model['name']} ({model['architecture']}, {report['blocks']} blocks of width "
        f"{model['n_embd']}, {model['file_type']})",
        "llama.cpp": f"decodes on this processor (llama-cpp-python {report['versions']['llama-cpp-python']})",
        "tap": {"native": "compiled (C)", "python": "Python (slower; built without a compiler)"}[
            report["tap"]
        ],
        "gates": f"{report['gate_engine']} ({report['versions']['onnxruntime']})",
        "per token": f"proven at block {spans(report['per_token']) or 'none'} of 0-{last}",
        "constant": f"proven at block {spans(report['slots']) or 'none'} of 0-{last} (block 0 has no slot)",
    }
    if report["bundle"]:
        lines["bundle"] = f"acts: {report['bundle']}"
    for name, value in lines.items():
        click.echo(f"{name:>10}  {value}")
    for note in report["warnings"]:
        click.echo(f"{'warning':>10}  {note}")
