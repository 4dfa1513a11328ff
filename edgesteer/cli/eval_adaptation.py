"""`edgesteer eval --adaptation`: prompt, bundles and perhaps a LoRA as adaptations of one model, measured and drawn.

In:  the values of the command `eval`. Out: a page and its JSON beside it, and the scores on stdout.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesteer.cli.options import load_steering, print_json, resolve_model
from edgesteer.cli.progress import bar, check_output

if TYPE_CHECKING:
    from edgesteer.bundle import Bundle
    from edgesteer.evaluate.adaptation import Adaptation

_NAME, _CELL = 36, 9
_OPENING = ("n_threads", "n_ctx", "n_gpu_layers", "gate_engine")
# What `eval` can do besides, and this cannot.
_OTHERS = {"counts": "--count", "sentiment": "--sentiment", "suite": "--suite", "output": "-o"}


def outputs(page: Path, force: bool) -> tuple[Path, Path]:
    """The page and its JSON. What cannot be written after the minutes of work is refused before them."""
    if page.suffix.lower() not in (".html", ".htm"):
        raise click.UsageError(
            f"--adaptation {page}: expected NAME.html; the numbers go to NAME.json beside it"
        )
    files = page, page.with_suffix(".json")
    for path in files:
        check_output(path, force)
    return files


def run(page: Path | None, lora: Path | None, params: Mapping[str, Any]) -> None:
    """Measure, write page and JSON, print. params: those of `eval`. Everything that can be refused at once is."""
    from edgesteer.cli.eval import _given, _own_trait
    from edgesteer.learn import read_questions

    if page is None:
        raise click.UsageError("--lora is measured by --adaptation; give --adaptation FILE.html too")
    for name, option in _OTHERS.items():
        if params.get(name):
            raise click.UsageError(f"{option} and --adaptation exclude each other; leave one out")
    files = outputs(page, params["force"])
    loaded = load_steering(params["steer"])
    sentence = _given(params["trait"], "--trait") or _own_trait(loaded[0][0], params["steer"][0])
    given = params["questions_file"]
    questions = None if given is None else [q.text for q in read_questions(given)]
    found = _measured(loaded, sentence, questions, lora, params)
    _write(files, found, params["force"])
    if params["as_json"]:
        print_json(found.to_json())
    else:
        click.echo("\n".join([*lines(found), "", f"{files[0]} and {files[1]}"]))


def _measured(
    loaded: Sequence[tuple[Bundle, float]],
    sentence: str,
    questions: Sequence[str] | None,
    lora: Path | None,
    params: Mapping[str, Any],
) -> Adaptation:
    from edgesteer.cli.eval import _text
    from edgesteer.cli.opening import open_for_scoring
    from edgesteer.evaluate import Chat
    from edgesteer.evaluate.adaptation import measure
    from edgesteer.evaluate.lora import read_lora

    path, first, max_tokens = resolve_model(params["model"]), loaded[0][0], params["max_tokens"]
    adapter = None if lora is None else read_lora(lora, path)  # before the model is opened
    llm = open_for_scoring(str(path), max_tokens, **{key: params[key] for key in _OPENING})
    chat = Chat(llm, _text(params["template"], first, "template"), _text(params["stop"], first, "stop"))
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


def _write(files: tuple[Path, Path], found: Adaptation, force: bool) -> None:
    """Both are drawn before either is written."""
    from edgesteer.bundle.container import write_file
    from edgesteer.report.adaptation_page import page

    told = json.dumps(found.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    drawn = page(f"Adaptation: {found.model}", found)
    for path, text in zip(files, (drawn, told), strict=True):
        write_file(path, text.encode(), force)


def lines(found: Adaptation) -> Iterator[str]:
    """The scores for people, in at most 100 columns; a dash where there is no number."""
    from edgesteer.evaluate.adaptation_scores import AXES, scores
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
