"""Write a model's file again in another quantization, as llama.cpp's own llama-quantize does."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import llama_cpp.llama_cpp as llama_h

from edgesteer.bundle.model import model_files
from edgesteer.errors import InputError, ModelError, OutputError
from edgesteer.file_lock import lock
from edgesteer.runtime.opening import opening

_PREFIX = "edgesteer-copies-"

# llama.cpp's number of each type that needs no importance matrix, and about how many bits a weight takes.
_TYPES = {
    "F32": (0, 32.0),
    "F16": (1, 16.0),
    "BF16": (32, 16.0),
    "Q8_0": (7, 8.5),
    "Q6_K": (18, 6.6),
    "Q5_1": (9, 6.0),
    "Q5_K_M": (17, 5.7),
    "Q5_0": (8, 5.5),
    "Q4_1": (3, 5.0),
    "Q4_K_M": (15, 4.9),
    "Q4_0": (2, 4.5),
    "Q3_K_M": (12, 3.9),
    "Q2_K": (10, 3.2),
}


def check_file_type(file_type: str) -> None:
    """Raise InputError for a type that `requantize` does not write."""
    if file_type not in _TYPES:
        raise InputError(f"file type {file_type!r}: expected one of {', '.join(_TYPES)}")


def requantize(
    source: str | os.PathLike[str], target: str | os.PathLike[str], file_type: str, *, n_threads: int = 1
) -> None:
    """Write the model at `source` to `target` with matrices of another type; norms are copied as they are.

    A copy with more bits than the source holds no more than the source does. Of a split model all shards are
    read and one file is written. Ctrl-C takes effect when llama.cpp has finished the file, which is then
    removed; so is what an error leaves.

    Raises:
        InputError: an unknown type.
        ModelError: the source is damaged, or llama.cpp cannot write it so.
        OutputError: the folder is missing, or has no room.
    """
    check_file_type(file_type)
    number, bits = _TYPES[file_type]
    _check_room(source, Path(target), bits)
    params = llama_h.llama_model_quantize_default_params()
    params.nthread, params.ftype, params.allow_requantize = n_threads, number, True
    with opening(verbose=False) as log:
        try:
            status = llama_h.llama_model_quantize(
                os.fsencode(source), os.fsencode(target), ctypes.byref(params)
            )
            if status:
                reason = log.reason() or "no reason given"
                raise ModelError(f"{source}: llama.cpp cannot write it as {file_type}: {reason}")
        except BaseException:
            Path(target).unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def folder_for_copies(inside: str | os.PathLike[str] | None = None) -> Iterator[Path]:
    """A new folder, deleted at the end. What an earlier process left here that was killed is deleted first.

    inside: the folder that holds it; None for the system's temporary folder.
    Raises OutputError where no folder can be made.
    """
    try:
        made = tempfile.TemporaryDirectory(prefix=_PREFIX, dir=inside)
    except OSError as error:
        raise OutputError(
            f"{inside or 'the temporary folder'}: no folder for copies can be made ({error.strerror}); "
            "set TMPDIR to another one"
        ) from None
    with made as name:
        folder = Path(name)
        for left in folder.parent.glob(f"{_PREFIX}*/lock"):
            with contextlib.suppress(OSError):  # in use, or another user's
                _remove_unlocked(left)
        with (folder / "unlocked").open("wb") as file:
            with contextlib.suppress(OSError):  # a file system without locks
                lock(file)
                (folder / "unlocked").rename(folder / "lock")
            yield folder


def _remove_unlocked(left: Path) -> None:
    """Delete the folder of a lock file that no process has locked."""
    if left.is_file():  # a pipe would block
        with left.open("rb") as file:
            lock(file)
            shutil.rmtree(left.parent)


def _check_room(source: str | os.PathLike[str], target: Path, bits: float) -> None:
    with model_files(source) as files:
        weights = sum(math.prod(tensor.shape) for _, file in files for tensor in file.tensors)
    if not target.parent.is_dir():
        raise OutputError(f"{target.parent}: no such folder, expected one to write the copy to")
    need, free = int(weights * bits / 8), shutil.disk_usage(target.parent).free
    if need > free:
        raise OutputError(
            f"{target.parent}: {free >> 20} MB free, expected at least {need >> 20} MB for a copy of the "
            "model; give another folder"
        )
