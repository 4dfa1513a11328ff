"""Knows the control vectors of jukofyork/control-vectors: several GGUF files of one axis.

In:  the path of one direction (`NAME__ornate.gguf`), its companion (`NAME__debias.gguf`) given or lying beside
     it; or the companion alone. Out: an Artifact of their sum; or BundleError.

Its axis is learned on what block i adds to the residual stream (`hidden_states[i + 1] - hidden_states[i]`) and
named `direction.{i + 1}`: it counts from 1, and so `direction.N` is placed at block N-1. (llama.cpp itself adds
it after block N.) Both ends of an axis are measured from its middle, which the companion holds: without it they
mean nothing. Its makers keep the companion at scale 1 and dial the end; a bundle has one strength for their sum D + E,
so what they call scale s is the bundle at s and the companion's own bundle at 1 - s: s (D + E) + (1 - s) D = D + s E.
Norms carry meaning and are kept. Blocks without a direction are absent, or zeros in old files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgesteer.bundle import ModelInfo, spans
from edgesteer.bundle.refusal import refusal
from edgesteer_converters.artifact import F32, Artifact, Choice
from edgesteer_converters.vectors.control_vector import SUFFIXES, ControlVectorFile, read_control_vector
from edgesteer_converters.vectors.placing import Source, place

_DEBIAS = "debias"
_BASE = "direction.N is block N-1: shifted by one"
_NOTE = "llama.cpp adds direction.N after block N, one block later than it was learned"
_ALONE = "the companion alone: it removes a bias, and adds no trait"
_DIAL = (
    "one strength for the sum of '{companion}' and the end: at 0.5 the debias is halved, at -1 it is inverted, where "
    "its makers keep it at 1; for their scale s convert '{companion}' alone too (--from jukofyork), and apply this "
    "bundle at s and that one at 1 - s"
)


def recognises(path: Path) -> bool:
    """The companion by its name, or a file that has its companion beside it."""
    if path.suffix.lower() not in SUFFIXES or not companion(path).is_file():
        return False
    return not read_control_vector(path).signed_count


def companion(path: Path) -> Path:
    """Where the axis of `NAME__ornate.gguf` has its middle: `NAME__debias.gguf`."""
    name, mark, _ = path.stem.rpartition("_")
    return path.with_name(f"{name}{mark}{_DEBIAS}{path.suffix}")


def read(paths: Sequence[Path], model: ModelInfo, choice: Choice) -> Artifact:
    """The Artifact of the companion plus the chosen end; `choice` counts blocks as the runtime does.

    Raises:
        BundleError: no companion, two ends of an axis, or directions that do not fit the model.
    """
    files = [read_control_vector(path) for path in _of_one_axis([Path(path) for path in paths])]
    where = str(files[-1].path)
    total, zeros = _sum(files, where)
    dial = _DIAL.format(companion=files[0].path.name) if len(files) > 1 else _ALONE
    source = Source(
        "jukofyork",
        where,
        _BASE,
        "what a block adds to the residual stream",
        [(file.path, file.sha256) for file in files],
        ["float32"],
        block_0="direction.1 was learned on block 0, which has no slot",
        dropped=[f"blocks {spans(sorted(zeros))}: zeros in every file"] if zeros else [],
        notes=[_NOTE, dial],
    )
    return place(total, source, model, choice)


def _of_one_axis(paths: Sequence[Path]) -> list[Path]:
    """The companion, then the chosen end if there is one."""
    middles = [path for path in paths if path == companion(path)]
    ends = [path for path in paths if path not in middles]
    where = ", ".join(map(str, paths)) or "jukofyork"
    if len(middles) > 1 or len(ends) > 1 or not paths:
        found = f"{len(middles)} companions and {len(ends)} ends"
        raise refusal(where, found, "at most one of each, of one axis", "give one direction of one axis")
    if not ends:
        return middles
    wanted = companion(ends[0])
    if middles and middles[0].name != wanted.name:
        raise refusal(
            where, f"the companion '{middles[0].name}'", f"'{wanted.name}'", "give that of the axis"
        )
    if not middles and not wanted.is_file():
        remedy = "put it beside, or give both; the direction means nothing alone"
        raise refusal(where, f"no companion '{wanted.name}'", "the companion of the axis", remedy)
    return [*(middles or [wanted]), ends[0]]


def _sum(files: Sequence[ControlVectorFile], where: str) -> tuple[dict[int, F32], list[int]]:
    """Block -> the float32 sum, and the blocks where every file has zeros."""
    total: dict[int, F32] = {}
    for file in files:
        if file.directions.keys() != files[0].directions.keys():
            expected = f"the blocks of '{files[0].path.name}'"
            raise refusal(where, "other blocks than its companion's", expected, "give files of one axis")
        for n, vector in file.directions.items():
            if n - 1 in total and total[n - 1].shape != vector.shape:
                found, expected = (
                    f"shape {list(vector.shape)}",
                    f"{list(total[n - 1].shape)} as its companion",
                )
                raise refusal(where, f"direction.{n} of {found}", expected, "give files of one axis")
            total[n - 1] = total[n - 1] + vector if n - 1 in total else vector
    zeros = [n - 1 for n in files[0].directions if not any(file.directions[n].any() for file in files)]
    return {block: vector for block, vector in total.items() if block not in zeros}, zeros


__all__ = ["SUFFIXES", "companion", "read", "recognises"]
