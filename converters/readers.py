"""Knows which producers there are, and which of them wrote a file, if the file says so.

In:  paths. Out: a producer's name, and its reader; or BundleError, where only the user can know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from edgesteer.bundle import ModelInfo
from edgesteer.bundle.refusal import refusal
from edgesteer_converters.artifact import Artifact, Choice
from edgesteer_converters.networks import psr, reft
from edgesteer_converters.networks.archive import is_program
from edgesteer_converters.tensors import read_bytes
from edgesteer_converters.vectors import (
    cvector_generator,
    jukofyork,
    persona_vectors,
    plain,
    repeng,
    steering_vectors,
)


class Producer(Protocol):
    """What a producer's module offers.

    SUFFIXES: the extensions that its files can have, lower case.
    recognises: whether something in or about a file really tells that this producer wrote it; it raises what
        `read` would raise of a file that cannot be read at all.
    read: the Artifact of its files; raises BundleError, and MissingExtra.
    """

    @property
    def SUFFIXES(self) -> tuple[str, ...]: ...  # noqa: N802

    def recognises(self, path: Path) -> bool: ...

    def read(self, paths: Sequence[Path], model: ModelInfo, choice: Choice) -> Artifact: ...


PRODUCERS: Mapping[str, Producer] = {
    "repeng": repeng,
    "cvector-generator": cvector_generator,
    "jukofyork": jukofyork,
    "persona_vectors": persona_vectors,
    "steering-vectors": steering_vectors,
    "plain": plain,
    "psr": psr,
    "reft": reft,
}


def recognise(paths: Sequence[Path]) -> str:
    """The name of the one producer that all files tell of; nothing is guessed.

    Raises:
        BundleError: a file cannot be read, or does not tell, or several producers are told of.
    """
    if not paths:
        raise refusal("convert", "no file", "at least one", "name a file")
    for path in paths:
        read_bytes(path)
    if any(_is_program(path) for path in paths):  # the other readers could only say that it holds no arrays
        return psr.PRODUCER
    tell = [name for name, reader in PRODUCERS.items() if all(reader.recognises(path) for path in paths)]
    if len(tell) == 1:
        return tell[0]
    kinds = {path.suffix.lower() for path in paths}
    able = tell or [name for name, reader in PRODUCERS.items() if kinds <= set(reader.SUFFIXES)]
    where = ", ".join(map(str, paths))
    found = "signs of several producers" if tell else "nothing that tells who wrote it"
    if not able:
        known = sorted({suffix for reader in PRODUCERS.values() for suffix in reader.SUFFIXES})
        found = f"the extension {', '.join(sorted(kinds))}"
        raise refusal(where, found, f"one of {', '.join(known)}", "give a file of such a kind")
    raise refusal(where, found, f"one of {', '.join(able)}", "say which with --from")


def _is_program(path: Path) -> bool:
    return path.suffix.lower() in (*psr.SUFFIXES, ".pt2") and is_program(path)
