"""Options that several commands share, and how their text becomes bundles and strengths.

llama.cpp's own spellings (`--control-vector` and its kin, `-t`, `-c`, `-ngl`) mean here what they mean there.
Importing this loads click and what is light; bundles are read when a command asks for them.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesteer.errors import PlanError
from edgesteer.scope import SCOPES

if TYPE_CHECKING:
    from edgesteer.bundle import Bundle

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

model_argument: Decorator = click.argument("model", metavar="MODEL")
"""MODEL: the path of a GGUF or a name of the registry; hand it to `resolve_model` once the usage is checked."""

# Beyond these llama.cpp aborts, or the system kills the process, before anybody can say why.
MOST_CONTEXT = 1 << 26
MOST_THREADS = 1024

json_option: Decorator = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")


threads_option: Decorator = click.option(
    "-t", "--threads", "n_threads", type=click.IntRange(1, MOST_THREADS), help="CPU threads."
)


class Finite(click.FloatRange):
    """A range that holds no NaN and no infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        return _finite(self, super().convert(value, param, ctx), param, ctx)


class _FiniteNumber(click.types.FloatParamType):
    """Any number but NaN and infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        return _finite(self, super().convert(value, param, ctx), param, ctx)


def _finite(
    kind: click.types.FloatParamType, number: float, param: click.Parameter | None, ctx: click.Context | None
) -> float:
    if not math.isfinite(number):
        kind.fail(f"{number} is not a finite number.", param, ctx)
    return number


FINITE = _FiniteNumber()


def llama_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds n_threads, n_ctx and n_gpu_layers (int or None) under llama.cpp's spellings, and gate_engine."""
    for option in (
        click.option(
            "--gate-engine",
            type=click.Choice(["onnxruntime", "native"]),
            default="onnxruntime",
            show_default=True,
            help="What evaluates a PSR's gates; native is faster and needs gate.gguf in the bundle.",
        ),
        click.option("-ngl", "--gpu-layers", "n_gpu_layers", type=int, help="Layers on the GPU (-1: all)."),
        click.option(
            "-c", "--ctx-size", "n_ctx", type=click.IntRange(0, MOST_CONTEXT), help="Context size in tokens."
        ),
        threads_option,
    ):
        command = option(command)
    return command


count_option: Decorator = click.option(
    "--count",
    "counts",
    multiple=True,
    metavar="REGEX",
    help="Count matches in the replies, whatever their case; repeatable. `pirate`, `sea` and `shakespeare` are "
    "ready lists.",
)
sentiment_option: Decorator = click.option(
    "--sentiment", is_flag=True, help="Mean sentiment of the replies, -1 to 1 (the `sentiment` extra)."
)


def template_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds template and stop (text or None), in which \\n is a line break."""
    for option in (
        click.option("--stop", metavar="TEXT", help="Text that ends a reply; \\n is a line break."),
        click.option(
            "--template",
            metavar="TEXT",
            help="For a model without a chat template, such as '{system}\\nQuestion: {question}\\nAnswer:'. A bundle "
            "remembers the one that it was learnt with.",
        ),
    ):
        command = option(command)
    return command


def unescaped(text: str | None) -> str | None:
    """What a person typed, with \\n made a line break."""
    return None if text is None else text.replace("\\n", "\n")


def bundle_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds what every command takes that writes a bundle: name (text or None), license, force."""
    for option in (
        click.option("--force", is_flag=True, help="Replace existing files."),
        click.option("--license", default="unspecified", show_default=True, help="The bundle's license."),
        click.option("--name", help="The bundle's name; the output's without it."),
    ):
        command = option(command)
    return command


prompt_option: Decorator = click.option("-p", "--prompt", help="The prompt; standard input without it.")
raw_option: Decorator = click.option(
    "--raw", is_flag=True, help="Complete the prompt as it stands, without the chat template."
)
scope_option: Decorator = click.option(
    "--scope", type=click.Choice(SCOPES), help="Where steering acts, instead of the bundle's own scope."
)


def max_tokens_option(default: int) -> Decorator:
    """Adds max_tokens."""
    return click.option(
        "-n",
        "--max-tokens",
        type=click.IntRange(1),
        default=default,
        show_default=True,
        help="Longest reply.",
    )


def questions_option(text: str) -> Decorator:
    """Adds questions_file (Path or None), with this help text."""
    return click.option(
        "--questions", "questions_file", type=click.Path(path_type=Path), metavar="FILE", help=text
    )


def questions_of(file: Path | None) -> list[str] | None:
    """What `questions_option` names, as text; None without it. Raises LearnError."""
    from edgesteer.generate import read_questions

    return None if file is None else [question.text for question in read_questions(file)]


repeat_option: Decorator = click.option(
    "--repeat-penalty",
    type=Finite(0, min_open=True),
    default=1.1,
    show_default=True,
    help="Against loops, which small models fall into when greedy; 1 is off.",
)


STEER_KEYS = ("steer", "control_vector", "control_vector_scaled", "layer_range")


def sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds max_tokens, temp and seed."""
    for option in (
        click.option("--seed", type=int, default=0, show_default=True, help="Seed of the sampler."),
        click.option(
            "--temp",
            type=Finite(0),
            default=0.0,
            show_default=True,
            help="Temperature; 0 is greedy.",
        ),
        max_tokens_option(256),
    ):
        command = option(command)
    return command


def steer_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--steer` and llama.cpp's three; pass the four values on to `load_steering`."""
    for option in (
        click.option(
            "--control-vector-layer-range",
            "layer_range",
            type=(int, int),
            metavar="START END",
            help="Layers that the control vectors act on, both inclusive.",
        ),
        click.option(
            "--control-vector-scaled",
            "control_vector_scaled",
            multiple=True,
            metavar="FNAME:SCALE,...",
            help="Control vectors with a scale, as in llama.cpp.",
        ),
        click.option(
            "--control-vector",
            "control_vector",
            multiple=True,
            metavar="FNAME,...",
            help="Control vectors at scale 1, as in llama.cpp.",
        ),
        click.option(
            "--steer",
            "steer",
            multiple=True,
            metavar="FILE[:STRENGTH]",
            help="Bundle or control vector, or the name of a shipped bundle; repeatable, they add up.",
        ),
    ):
        command = option(command)
    return command


def reply_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds what every command takes that lets a model reply: repeat_penalty, as_json, and the values that
    `opening.open_steered` takes (those of `steer_options` and `llama_options`)."""
    return repeat_option(steer_options(llama_options(json_option(command))))


def resolve_model(name_or_path: str) -> Path:
    """The GGUF that MODEL means; fetches a registry model that is missing. Raises ModelError."""
    from edgesteer_models import resolve

    return resolve(name_or_path)


def parse_steer(text: str) -> tuple[str, float | None]:
    """`FILE[:STRENGTH]` -> (file, strength or None).

    Splits on the last colon, and only if no file has the whole name and the tail is a finite number.
    Raises PlanError for a tail that is a number but not finite.
    """
    head, colon, tail = text.rpartition(":")
    if not colon or Path(text).exists():
        return text, None
    try:
        strength = float(tail)
    except ValueError:
        return text, None
    if not math.isfinite(strength):
        raise PlanError(f"{text}: strength {tail} is not finite; give a number such as {head}:1.2")
    return head, strength


def gives_steering(options: Mapping[str, Any]) -> bool:
    """Whether any of the values of `steer_options` was given."""
    return any(options[key] for key in STEER_KEYS)


def load_steering(
    steer: tuple[str, ...] = (),
    control_vector: tuple[str, ...] = (),
    control_vector_scaled: tuple[str, ...] = (),
    layer_range: tuple[int, int] | None = None,
) -> "list[tuple[Bundle, float]]":
    """The values of `steer_options` as (bundle, strength) pairs, in the order given.

    A bundle without a strength gets its own default, a control vector 1. The layer range holds for the
    control vectors alone, as in llama.cpp. Raises BundleError and PlanError.
    """
    pairs = [_load(path, strength) for path, strength in map(parse_steer, steer)]
    vectors = [(name, 1.0) for text in control_vector for name in _split_list(text)]
    vectors += [_parse_scaled(item) for text in control_vector_scaled for item in _split_list(text)]
    if layer_range is not None and not vectors:
        raise click.UsageError(
            "--control-vector-layer-range needs --control-vector or --control-vector-scaled"
        )
    return pairs + [_load_vector(path, scale, layer_range) for path, scale in vectors]


def print_json(data: Any) -> None:
    """Pretty JSON on stdout; NaN and infinity are refused, they are not JSON."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))


def _load(path: str, strength: float | None) -> "tuple[Bundle, float]":
    from edgesteer.bundle import load
    from edgesteer_models import resolve_bundle

    bundle = load(resolve_bundle(path))
    return bundle, bundle.strength.default if strength is None else strength


def _load_vector(path: str, scale: float, layer_range: tuple[int, int] | None) -> "tuple[Bundle, float]":
    bundle, _ = _load(path, scale)
    if bundle.kind != "vector":
        raise PlanError(
            f"{path}: is a {bundle.kind} bundle, not a control vector; use --steer {path}:{scale:g}"
        )
    return _as_control_vector(bundle, path, layer_range), scale


def _split_list(text: str) -> list[str]:
    """llama.cpp's comma-separated lists; a file whose name holds a comma is taken whole."""
    return [text] if Path(text).exists() else [item for item in text.split(",") if item]


def _parse_scaled(item: str) -> tuple[str, float]:
    path, scale = parse_steer(item)
    if scale is None:
        raise click.UsageError(f"--control-vector-scaled {item}: expected FNAME:SCALE, such as {path}:0.8")
    return path, scale


def _as_control_vector(bundle: "Bundle", path: str, layer_range: tuple[int, int] | None) -> "Bundle":
    """What llama.cpp makes of the file: its directions in the range, on every token."""
    from edgesteer.bundle import Bundle, encode_directions, spans

    start, end = layer_range or (bundle.layers[0], bundle.layers[-1])
    kept = {n: direction for n, direction in bundle.directions.items() if start <= n <= end}
    if not kept:
        raise PlanError(
            f"{path}: no direction in the layer range {start}..{end}; it holds {spans(bundle.layers)}; "
            "give another --control-vector-layer-range"
        )
    architecture = bundle.model.architecture if bundle.model else bundle.architecture_hint
    return Bundle.from_control_vector(encode_directions(kept, architecture or ""), bundle.name, bundle.source)
