"""Tells TorchScript, which is code, from files of tensors, by the names of an archive's members.

In: a path. Out: whether it is a program; or BundleError for what must not be opened at all.
"""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile, ZipFile, is_zipfile

from edgesteer.bundle.refusal import refusal


def is_program(path: Path) -> bool:
    """Whether this is TorchScript. Refuses a torch.export program."""
    name = str(path)
    if not path.is_file():
        raise refusal(name, "no file", "a file with tensors", "check the path")
    try:
        members = ZipFile(path).namelist() if is_zipfile(path) else []
    except (BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise refusal(name, str(error), "a file with tensors", "save it again") from None
    parts = [member.split("/", 1)[-1] for member in members]
    if path.suffix.lower() == ".pt2" or any(
        part.startswith("models/") or part.startswith("serialized_") for part in parts
    ):
        raise refusal(name, "a torch.export program, which torch unpickles to read", "a file that is data alone",
                      "if you trust it, load it with torch.export.load and pass it to from_modules")  # fmt: skip
    return any(part.startswith("code/") for part in parts)
