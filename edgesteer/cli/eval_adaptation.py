"""`edgesteer eval --adaptation`: prompt, bundles and perhaps a LoRA as adaptations of one model, measured and drawn.

In:  the values of the command `eval`. Out: a page and its JSON beside it, and the scores on stdout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesteer.cli.bundles_own import sure_trait, text_of
from edgesteer.cli.options import load_steering, print_json, questions_of, resolve_model
from edgesteer.cli.page_files import files_beside, write_both
from edgesteer.cli.progress import bar

if TYPE_CHECKING:
    from edgesteer.bundle import Bundle
    from edgesteer.evaluate.adaptation import Adaptation

_NAME, _CELL = 36, 9
_OPENING = ("n_threads", "n_ctx", "n_gpu_layers", "gate_engine")
# What `eval` can do besides, and this cannot.
_OTHERS = {
    "counts": "--count",
    "sentiment": "--sentiment",
    "matched": "--matched",
    "suite": "--suite",
    "output": "-o",
}


def run(page: Path | None, lora: Path | None, params: Mapping[str, Any]) -> None:
    """Measure, write page and JSON, print. params: those of `eval`. Everything that can be refused at once is."""
    from edgesteer.report.adaptation_page import page as drawn

    if page is None:
        raise click.UsageError("--lora is measured by --adaptation; give --adaptation FILE.html too")
    for name, option in _OTHERS.items():
        if params.get(name):
            raise click.UsageError(f"{option} and --adaptation exclude each other; leave one out")
    files = files_beside(page, "--adaptation", params["force"])
    loaded = load_steering(params["steer"])
    sentence = sure_trait(params["trait"], loaded[0][0], params["steer"][0])
    questions = questions_of(params["questions_file"])
    found = _measured(loaded, sentence, questions, lora, params)
    told = found.to_json()
    write_both(files, drawn(f"Adaptation: {found.model}", found), told, params["force"])
    if params["as_json"]:
        print_json(told)
    else:
        click.echo("\n".join([*lines(found), "", f"{files[0]} and {files[1]}"]))


def _measured(
    loaded: Sequence[tuple[Bundle, float]],
    sentence: str,
    questions: Sequence[str] | None,
    lora: Path | None,
    params: Mapping[str, Any],
) -> Adaptation:
    from edgesteer.cli.opening import open_for_scoring
    from edgesteer.generate import Chat
    from edgesteer.evaluate.adaptation import measure
    from edgesteer.evaluate.adaptation.lora import read_lora

    path, first, max_tokens = resolve_model(params["model"]), loaded[0][0], params["max_tokens"]
    adapter = None if lora is None else read_lora(lora, path)  # before the model is opened
    llm = open_for_scoring(str(path), max_tokens, **{key: params[key] for key in _OPENING})
    chat = Chat(llm, text_of(params["template"], first, "template"), text_of(params["stop"], first, "stop"))
    with bar() as progress:
        return measure(
            chat,
            sentence,
            [(bundle.name, bundle, strength) for bundle, strength in loaded],
            lora=adapter,
            questions=questions,
            max_tokens=max_tokens,
            at_prompt_coherence=params["equal_coherence"],
            progress=progress,
        )


def lines(found: Adaptation) -> Iterator[str]:
    """The scores for people, in at most 100 columns; a dash where there is no number."""
    from edgesteer.evaluate.adaptation.scores import AXES, scores
    from edgesteer.report.adaptation_page import label
    from edgesteer.report.cells import visible

    yield f"{'':{_NAME}}" + "".join(f"{_short(axis.name):>{_CELL}}" for axis in AXES)
    for row in found.rows:
        name = visible(label(row))
        name = name if len(name) < _NAME else name[: _NAME - 2] + "…"
        marks = scores(row).values()
        yield f"{name:{_NAME}}" + "".join(f"{'-' if v is None else f'{v:.2f}':>{_CELL}}" for v in marks)


def _short(name: str) -> str:
    return name if len(name) < _CELL else name[: _CELL - 2] + "."  # in full on the page
