"""Options that several commands share: one spelling and one help text each.

llama.cpp's spellings (`--control-vector` and its kin, `-t`, `-c`, `-ngl`, `--temp`) mean what they mean
there. `cli.steering` reads the texts of `--steer` and `--way`. The only heavy import here is click.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edgesteer.process import takes_unicode
from edgesteer.scope import SCOPES

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

# Beyond these llama.cpp aborts, or the system kills the process, without a message.
MOST_CONTEXT = 1 << 26
MOST_THREADS = 1024


def path_of(text: str | os.PathLike[str]) -> Path:
    """An absolute path, with `~` expanded, so that a later change of directory does not matter."""
    return Path(os.path.expanduser(text)).absolute()


def name_of(path: Path) -> str:
    """The name of a file as text, without its suffix; bytes that are not UTF-8 become replacement marks."""
    return os.fsencode(path.stem).decode(errors="replace")


class FilePath(click.Path):
    """A path as `path_of` reads it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return path_of(value)


class Finite(click.FloatRange):
    """A range of finite numbers; without bounds, any finite number."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number.", param, ctx)
        return number


FILE, FINITE = FilePath(), Finite()


def together(*options: Decorator) -> Decorator:
    """Several options as one decorator, in the order of the help."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def print_json(data: Any) -> None:
    """Print indented JSON. Raises ValueError for NaN and infinity, which are not JSON."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=not takes_unicode(sys.stdout), allow_nan=False))


def resolve_model(name_or_path: str) -> Path:
    """The GGUF of MODEL. Fetches a model of the registry if it is missing. Raises ModelError."""
    from edgesteer_models import resolve

    path = path_of(name_or_path)
    return resolve(path if path.exists() else os.path.expanduser(name_or_path)).absolute()


def unescaped(text: str | None) -> str | None:
    """`text` with \\n replaced by a line break."""
    return None if text is None else text.replace("\\n", "\n")


# -- the model and how it runs

model_argument: Decorator = click.argument("model", metavar="MODEL")
"""MODEL: a GGUF's path or a registry name. Pass it to `resolve_model` after the other options are checked."""


def model_option(text: str) -> Decorator:
    """Adds model (text or None); `text` says what the command needs it for."""
    return click.option("--model", metavar="MODEL", help=f"{text} A GGUF's path or registry name.")


def _template_args(context: click.Context, param: click.Parameter, pairs: tuple[str, ...]) -> dict[str, Any]:
    """KEY=VALUE as JSON, or as text where the value is none."""
    arguments: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key.isidentifier() or not equals or key in arguments:
            raise click.BadParameter(f"{pair!r}: expected KEY=VALUE, each KEY once")
        try:
            arguments[key] = json.loads(value)
        except ValueError:
            arguments[key] = value
    return arguments


threads_option: Decorator = click.option(
    "-t", "--threads", "n_threads", type=click.IntRange(1, MOST_THREADS), help="CPU threads."
)
llama_options: Decorator = together(
    threads_option,
    click.option(
        "-c", "--ctx-size", "n_ctx", type=click.IntRange(0, MOST_CONTEXT), help="Context size in tokens."
    ),
    click.option(
        "--template-arg",
        "template_args",
        multiple=True,
        metavar="KEY=VALUE",
        callback=_template_args,
        help="A value that the model's chat template asks for, such as enable_thinking=false; repeatable. A "
        "bundle remembers those that it was learnt with.",
    ),
    click.option("-ngl", "--gpu-layers", "n_gpu_layers", type=int, help="Layers on the GPU (-1: all)."),
    click.option(
        "--gate-engine",
        type=click.Choice(["onnxruntime", "native"]),
        default="onnxruntime",
        show_default=True,
        help="What evaluates a PSR's gates; native is faster and needs gate.gguf in the bundle.",
    ),
)
"""Adds n_threads, n_ctx and n_gpu_layers (int or None) under llama.cpp's spellings, template_args (a dict),
and gate_engine: the LLAMA_KEYS that `opening.open_model` takes."""
LLAMA_KEYS = ("n_threads", "n_ctx", "n_gpu_layers", "template_args", "gate_engine")


# -- what steers

steer_option: Decorator = click.option(
    "--steer",
    multiple=True,
    metavar="FILE[:STRENGTH]",
    help="Bundle or control vector, or the name of a bundle that ships; repeatable, they add up. A number "
    "after the last colon is the strength, unless the whole text is the name of a file.",
)
steer_options: Decorator = together(
    steer_option,
    click.option(
        "--control-vector",
        multiple=True,
        metavar="FNAME,...",
        help="Control vectors at scale 1, as in llama.cpp.",
    ),
    click.option(
        "--control-vector-scaled",
        multiple=True,
        metavar="FNAME:SCALE,...",
        help="Control vectors with a scale, as in llama.cpp.",
    ),
    click.option(
        "--control-vector-layer-range",
        "layer_range",
        type=(int, int),
        metavar="START END",
        help="Layers that the control vectors act on, both inclusive.",
    ),
)
"""Adds `--steer` and llama.cpp's three; pass the four values on to `steering.load_steering`."""

row_options: Decorator = together(
    steer_option,
    click.option(
        "--way",
        "ways",
        multiple=True,
        metavar="[NAME=]FILE[:STRENGTH][+...]",
        help="A row of its own, repeatable: bundles as in --steer, with + between those that add up. The "
        "name of an existing file may contain = and +. The bundles of --steer are one row, before these.",
    ),
)
"""Adds steer and ways; pass them on to `steering.rows_of`."""


at_option: Decorator = click.option(
    "--at",
    type=click.Choice(["default", "matched"]),
    default="default",
    show_default=True,
    help="The strengths. default: as given, or the bundles' own. matched: also the figures of each row at "
    "the prompt's coherence on the same questions, read from 0.7 and 1.4 times its strength (takes three "
    "times as long).",
)
scope_option: Decorator = click.option(
    "--scope", type=click.Choice(SCOPES), help="Where steering acts, instead of the bundle's own scope."
)
trait_option: Decorator = click.option(
    "--trait", metavar="TEXT", help="The trait as a system prompt; without it, the first bundle's own."
)


# -- prompts and replies

prompt_option: Decorator = click.option("-p", "--prompt", help="The prompt; without it, standard input.")
system_option: Decorator = click.option("--system", help="A system message before the conversation.")
raw_option: Decorator = click.option(
    "--raw", is_flag=True, help="Complete the prompt as it is, without the chat template."
)
template_option: Decorator = click.option(
    "--template",
    metavar="TEXT",
    help="For a model without a chat template, such as '{system}\\nQuestion: {question}\\nAnswer:'. A bundle "
    "remembers the template that it was learnt with.",
)
reasoning_option: Decorator = click.option(
    "--reasoning",
    type=click.Choice(["skip", "keep"]),
    help="For a model that thinks before it answers. skip: it answers at once. keep: its thoughts are part "
    "of the reply. Without it, skip, or as the first bundle was learnt.",
)
template_options: Decorator = together(
    template_option,
    click.option("--stop", metavar="TEXT", help="Text that ends a reply; \\n is a line break."),
    reasoning_option,
)
"""Adds template and stop (text or None), in which \\n is a line break, and reasoning (text
or None)."""


def questions_option(without: str) -> Decorator:
    """Adds questions_file (Path or None); `without` describes the questions that are used without it."""
    return click.option(
        "--questions",
        "questions_file",
        type=FILE,
        metavar="FILE",
        help=f"Questions, one per line; without it, {without}.",
    )


def questions_of(file: Path | None) -> list[str] | None:
    """The questions in the file of `questions_option`, as text; None without it. Raises InputError."""
    from edgesteer.generate import read_questions

    return None if file is None else [question.text for question in read_questions(file)]


def max_tokens_option(default: int) -> Decorator:
    """Adds max_tokens."""
    return click.option(
        "-n",
        "--max-tokens",
        type=click.IntRange(1),
        default=default,
        show_default=True,
        help="Longest reply, in tokens.",
    )


def temperature_option(default: float) -> Decorator:
    """Adds temperature; `--temp` is llama.cpp's name for it."""
    return click.option(
        "--temperature",
        "--temp",
        "temperature",
        type=Finite(0),
        default=default,
        show_default=True,
        help="Temperature of sampling; 0 is greedy.",
    )


seed_option: Decorator = click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Seed of everything random: same seed, same output.",
)
repeat_option: Decorator = click.option(
    "--repeat-penalty",
    type=Finite(0, min_open=True),
    default=1.1,
    show_default=True,
    help="Penalty against the loops of small models when greedy; 1 is off.",
)


def _checked_counts(
    context: click.Context, param: click.Parameter, counts: tuple[str, ...]
) -> tuple[str, ...]:
    if counts:
        from edgesteer.errors import InputError
        from edgesteer.evaluate.text_measures import expression

        for pattern in counts:
            try:
                expression(pattern)
            except InputError as error:
                raise click.BadParameter(str(error)) from None
    return counts


def _checked_sentiment(context: click.Context, param: click.Parameter, wanted: bool) -> bool:
    """Raises MissingExtra before a model is opened."""
    if wanted:
        from edgesteer.evaluate.text_measures import sentiment_analyzer

        sentiment_analyzer()
    return wanted


count_option: Decorator = click.option(
    "--count",
    "counts",
    multiple=True,
    metavar="REGEX",
    callback=_checked_counts,
    help="Count matches in the replies, ignoring case; repeatable. `pirate`, `sea` and `shakespeare` are "
    "built-in word lists.",
)
sentiment_option: Decorator = click.option(
    "--sentiment",
    is_flag=True,
    callback=_checked_sentiment,
    help="Mean sentiment of the replies, -1 to 1 (the `sentiment` extra).",
)


# -- what comes out

json_option: Decorator = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
force_option: Decorator = click.option("--force", is_flag=True, help="Replace existing files.")


def output_option(metavar: str, text: str, required: bool = True) -> Decorator:
    """Adds output (Path or None)."""
    return click.option("-o", "--output", required=required, type=FILE, metavar=metavar, help=text)


def html_option(text: str) -> Decorator:
    """Adds html (Path or None), a page besides the output on stdout; `text` says what is on it."""
    return click.option("--html", type=FILE, metavar="FILE.html", help=text)


bundle_options: Decorator = together(
    click.option("--name", help="The bundle's name; without it, that of the file."),
    click.option("--license", default="unspecified", show_default=True, help="The bundle's license."),
    force_option,
)
"""For commands that write a bundle: adds name (text or None), license, force."""

sampling_options: Decorator = together(max_tokens_option(256), temperature_option(0.0), seed_option)
"""Adds max_tokens, temperature and seed."""

measure_options: Decorator = together(count_option, sentiment_option)
"""Adds counts and sentiment."""

chat_options: Decorator = together(template_options, llama_options, json_option)
"""For commands that measure in chats: adds as_json, and what `opening.open_chat` takes."""

reply_options: Decorator = together(repeat_option, steer_options, llama_options, json_option)
"""For commands that generate replies: adds repeat_penalty, as_json, and what `opening.open_steered` takes
(the values of `steer_options` and `llama_options`)."""
