"""Output files: checked before minutes of work, and several of them written together or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from edgesteer.errors import OutputError

Files = tuple[Path, Path]


def check_output(path: Path, force: bool) -> None:
    """Raises OutputError for an existing file without `force`, and for a missing or read-only folder."""
    if path.is_file() and not force:
        raise OutputError(f"{path}: exists already, expected a new name; give another, or --force")
    if path.exists() and not path.is_file():
        raise OutputError(f"{path}: is not a regular file, expected a new name; give another")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise OutputError(f"{path}: no folder {folder}, expected an existing one; create it, or give another")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: no permission to write in {folder}; give another name")


def check_bundle_output(path: Path, force: bool, option: str = "-o") -> None:
    """`check_output` for a bundle. Raises UsageError for a suffix that is not a bundle's."""
    check_output(path, force)
    if path.suffix.lower() not in ("", ".steer"):
        raise click.UsageError(
            f"{option} {path}: expected a bundle, NAME.steer; `edgesteer convert` turns it into other formats"
        )


def check_page(page: Path, option: str, force: bool, more: str = "") -> None:
    """`check_output` for a page. Raises UsageError unless it ends in .html: with --force, a slip could
    otherwise replace a model."""
    if page.suffix.lower() not in (".html", ".htm"):
        raise click.UsageError(f"{option} {page}: expected NAME.html{more}")
    check_output(page, force)


def page_and_numbers(page: Path, force: bool) -> Files:
    """The page of `-o` and the JSON beside it. Raises UsageError and OutputError like `check_page`."""
    check_page(page, "-o", force, "; the numbers go to NAME.json beside it")
    data = page.with_suffix(".json")
    check_output(data, force)
    return page, data


def figures_and_charts(output: Path, force: bool) -> Files:
    """The JSON of `-o` and the charts in FILE.svg. Raises UsageError and OutputError like `check_page`."""
    if output.suffix.lower() != ".json":
        raise click.UsageError(f"-o {output}: expected a name that ends in .json")
    files = output, output.with_suffix(".svg")
    for file in files:
        check_output(file, force)
    return files


def write_page(files: Files, html: str, numbers: dict[str, Any], force: bool) -> None:
    """The page and its JSON, or neither. Raises OutputError."""
    page, data = files
    write_all({data: json.dumps(numbers, ensure_ascii=False, allow_nan=False) + "\n", page: html}, force)


def write_all(texts: Mapping[Path, str], force: bool) -> None:
    """Write all files; if one cannot be written, remove those that are new. Raises OutputError."""
    from edgesteer.bundle.container import write_file

    new = [file for file in texts if not file.exists()]
    try:
        for file, text in texts.items():
            write_file(file, text.encode(), force)
    except BaseException:
        for file in new:
            file.unlink(missing_ok=True)
        raise
