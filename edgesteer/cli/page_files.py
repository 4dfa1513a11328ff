"""Files that belong together: a page and its numbers (FILE.html, FILE.json), figures and their picture (FILE.json,
FILE.svg).

In:  the name of one, then what is in both. Out: two files, or none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from edgesteer.cli.progress import check_output

Files = tuple[Path, Path]


def files_beside(page: Path, option: str, force: bool) -> Files:
    """The page and its JSON. What cannot be written after the minutes of work is refused before them: UsageError
    for a name that is no page's, OutputError for the rest."""
    check_page(page, option, force, "; the numbers go to NAME.json beside it")
    data = page.with_suffix(".json")
    check_output(data, force)
    return page, data


def check_page(page: Path, option: str, force: bool, more: str = "") -> None:
    """`check_output` for a page alone. UsageError for a name that is no page's: with --force, a slip of the hand would
    else replace a model."""
    if page.suffix.lower() not in (".html", ".htm"):
        raise click.UsageError(f"{option} {page}: expected NAME.html{more}")
    check_output(page, force)


def figures_beside(output: Path, force: bool) -> Files:
    """A JSON and the picture of it, FILE.json and FILE.svg; else as `files_beside`."""
    if output.suffix.lower() != ".json":
        raise click.UsageError(f"-o {output}: expected a name that ends in .json")
    files = output, output.with_suffix(".svg")
    for file in files:
        check_output(file, force)
    return files


def write_both(files: Files, html: str, told: dict[str, Any], force: bool) -> None:
    """The page and its JSON, or none. Raises OutputError."""
    page, data = files
    write_all({data: json.dumps(told, ensure_ascii=False, allow_nan=False) + "\n", page: html}, force)


def write_all(texts: Mapping[Path, str], force: bool) -> None:
    """All of them; where one cannot be written, those that were not there before are not there afterwards either.
    Raises OutputError."""
    from edgesteer.bundle.container import write_file

    new = [file for file in texts if not file.exists()]
    try:
        for file, text in texts.items():
            write_file(file, text.encode(), force)
    except BaseException:
        for file in new:
            file.unlink(missing_ok=True)
        raise
