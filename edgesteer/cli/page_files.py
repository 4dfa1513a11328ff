"""A page and its numbers: FILE.html, and FILE.json beside it.

In:  the name of the page, then its HTML and what it shows. Out: two files, or none.
"""

from __future__ import annotations

import json
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


def write_both(files: Files, html: str, told: dict[str, Any], force: bool) -> None:
    """Both files or, where the first was not there before, none. Raises OutputError."""
    from edgesteer.bundle.container import write_file

    page, data = files
    was_there = data.exists()
    write_file(data, json.dumps(told, ensure_ascii=False, allow_nan=False).encode() + b"\n", force)
    try:
        write_file(page, html.encode(), force)
    except BaseException:
        if not was_there:
            data.unlink(missing_ok=True)
        raise
