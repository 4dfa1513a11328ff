"""What the long commands share: a progress bar with the time left, and checks before the work begins."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from edgesteer.errors import OutputError


@contextlib.contextmanager
def bar() -> Iterator[Callable[[str, float], None]]:
    """Yields progress(stage, fraction done of the whole), shown on stderr where that is a terminal."""
    from tqdm import tqdm

    shape = "{desc:<10} {percentage:3.0f}% |{bar}| {elapsed}, {remaining} left"
    columns = shutil.get_terminal_size().columns  # never 0, as a pseudo-terminal says of itself
    with tqdm(total=1.0, bar_format=shape, disable=None, leave=False, ncols=columns) as shown:

        def progress(stage: str, fraction: float) -> None:
            shown.set_description_str(stage, refresh=False)
            shown.update(max(0.0, fraction - shown.n))

        yield progress


def check_output(path: Path, force: bool) -> None:
    """Refuse what could not be written after the work: an existing file without `force`, a missing or read-only
    folder. Raises OutputError."""
    if path.is_file() and not force:
        raise OutputError(f"{path}: exists already, expected a new name; give another, or --force")
    if path.exists() and not path.is_file():
        raise OutputError(f"{path}: is no ordinary file; give another name")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise OutputError(f"{path}: no folder {folder}, expected an existing one; create it, or give another")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: no permission to write in {folder}; give another name")


def check_bundle_output(path: Path, force: bool, command: str) -> None:
    """`check_output` for a command that writes bundles. UsageError for a name that promises something else."""
    check_output(path, force)
    if path.suffix.lower() in (".gguf", ".onnx", ".safetensors"):
        raise click.UsageError(
            f"-o {path}: {command} writes bundles, NAME.steer; `edgesteer convert` makes others of them"
        )
