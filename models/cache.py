"""Where fetched models live: $EDGESTEER_HOME, or the platform's cache folder. Creates nothing by itself.

The Makefile computes the same folder for the wheels that it keeps; the two must agree.
"""

import os
import sys
from pathlib import Path

from edgesteer_models.entries import ModelEntry


def home() -> Path:
    """The folder that holds everything edgesteer keeps between runs."""
    chosen = os.environ.get("EDGESTEER_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "edgesteer"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edgesteer"


def file_of(entry: ModelEntry) -> Path:
    """Where `entry` is kept, whether or not it has been fetched."""
    return home() / "models" / entry.filename


def present(entry: ModelEntry) -> bool:
    """Whether `entry` has been fetched. Checks the size alone: files are hashed before they get there."""
    try:
        return file_of(entry).stat().st_size == entry.size
    except OSError:
        return False
