"""Arrays as a file holds them, and the checks of archives, for all readers."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from edgesteer.bundle.refusal import refusal
from edgesteer.errors import BundleError

MAX_BYTES = 2**30


@dataclass(frozen=True, slots=True)
class Raw:
    """An array as a file describes it. `values` reads it, after the description has been checked."""

    name: str
    dtype: str
    count: int
    values: Callable[[], npt.NDArray[Any]]


Contents = tuple[list[Raw], dict[str, str]]


def check_archive(data: bytes, where: str) -> None:
    """Refuse a ZIP that holds a program or unpacks to more than 1 GiB; other files pass."""
    if data[:2] != b"PK":
        return
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
    except Exception as error:  # a damaged index fails in any way
        raise refusal(where, f"a damaged file ({error})", "a complete one") from None
    names = [info.filename.split("/", 1)[-1] for info in infos]
    if any(name.startswith(("models/", "serialized_")) for name in names):
        found = "a torch.export program, which torch unpickles to read"
        remedy = "if you trust it, load it with torch.export.load and pass it to from_modules"
        raise refusal(where, found, "a file that is data alone", remedy)
    if any(name.startswith("code/") for name in names):
        raise torchscript(where)
    size = sum(info.file_size for info in infos)
    if size > MAX_BYTES:
        raise refusal(where, f"{size} bytes when unpacked", f"at most {MAX_BYTES}", "save less in it")


def torchscript(where: str) -> BundleError:
    """The error to raise for a TorchScript file."""
    remedy = (
        "save the network's state dict as docs/converting.md names it, or pass its nn.Module to from_modules"
    )
    return refusal(where, "TorchScript, which is code", "a file that is data alone", remedy)
