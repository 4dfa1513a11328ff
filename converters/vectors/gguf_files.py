"""Control-vector GGUFs of llama.cpp's cvector-generator and of jukofyork/control-vectors.

`read_control_vector` parses the file; each producer's part decides which block N stands for.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgesteer.bundle import ModelInfo, gguf
from edgesteer.bundle.refusal import refusal
from edgesteer_converters.artifact import F32, Artifact, Choice
from edgesteer_converters.tensors import read_bytes
from edgesteer_converters.vectors.placing import Producer, Source, one_file, place

_BASE = "direction.N is block N-1: shifted by one"
_NAME = re.compile(r"direction\.(-?(?:0|[1-9][0-9]{0,8}))", re.ASCII)
GGUF = (".gguf",)
_COUNT = "controlvector.layer_count"
_KEYS = {"general.architecture", "controlvector.model_hint", _COUNT}
_INT32 = 5


@dataclass(frozen=True, slots=True, eq=False)
class ControlVectorFile:
    """A control-vector GGUF.

    directions: N as named -> float32, in the file's order. layer_count: None if the key is missing.
    signed_count: the key is an i32, as llama.cpp's own writer makes it; the gguf package makes a u32.
    plain_keys: no keys but those three that repeng and llama.cpp write.
    """

    path: Path
    directions: dict[int, F32]
    model_hint: str | None
    layer_count: int | None
    signed_count: bool
    plain_keys: bool
    sha256: str


def read_control_vector(path: Path) -> ControlVectorFile:
    """The directions of a GGUF, under its own numbers.

    Raises:
        BundleError: damaged, not a control vector, or a tensor that is not an F32 `direction.N`.
    """
    data, where = read_bytes(path), str(path)
    try:
        file = gguf.parse(data)
        kind = file.keys.get("general.architecture")
        if kind != "controlvector":
            expected = "'controlvector'"
            raise refusal(where, f"general.architecture = {kind!r}", expected, "give a control vector")
        file.check_layout()
        directions = {_number(tensor.name, where): _values(file, tensor) for tensor in file.tensors}
    except gguf.GgufError as error:
        raise refusal(where, str(error), "a control-vector GGUF of F32 tensors") from None
    if not directions:
        raise refusal(where, "no tensors", "at least one direction.N", "export the vector again")
    hint, count = file.keys.get("controlvector.model_hint"), file.keys.get(_COUNT)
    return ControlVectorFile(
        path,
        directions,
        hint if isinstance(hint, str) else None,
        count if isinstance(count, int) else None,
        _is_signed(data),
        set(file.keys) == _KEYS,
        hashlib.sha256(data).hexdigest(),
    )


def _number(name: str, where: str) -> int:
    match = _NAME.fullmatch(name)
    if match is None:
        raise refusal(where, f"tensor '{name}'", "direction.N alone", "export the vector again")
    return int(match[1])


def _values(file: gguf.Gguf, tensor: gguf.Tensor) -> F32:
    return file.array(tensor).reshape(tensor.shape[::-1])


def _is_signed(data: bytes) -> bool:
    """Whether the layer count is an i32; the parser returns values without their types."""
    key = _COUNT.encode()
    at = data.find(struct.pack("<Q", len(key)) + key)
    return at >= 0 and data[at + 8 + len(key) :][:4] == struct.pack("<I", _INT32)


# llama.cpp's `llama-cvector-generator`. Its first capture, `l_out-0`, is the output of block 0, and it names
# that `direction.1`: `direction.N` was learned at block N-1, and so it is placed here. (llama.cpp itself adds
# it after block N; give the GGUF itself to `--steer` for that.) It captures every block but the last, so
# there is always one for block 0: it is dropped, and the facts say so. Directions have unit norm; of those by
# PCA, its default, the sign is arbitrary.
_CVECTOR_NOTES = (
    "llama.cpp adds direction.N after block N, one block later than it was learned",
    "by PCA the sign is arbitrary: try a negative strength too",
)


def _is_cvector_generator(path: Path) -> bool:
    """Whether the layer count is an i32, as llama.cpp writes it, and the directions count from 1 up to it."""
    if path.suffix.lower() not in GGUF:
        return False
    file = read_control_vector(path)
    expected = list(range(1, len(file.directions) + 1))
    counted = file.plain_keys and file.signed_count and file.layer_count == len(expected)
    return counted and list(file.directions) == expected


def _read_cvector_generator(paths: Sequence[Path], model: ModelInfo, choice: Choice) -> Artifact:
    """The Artifact of one GGUF; `choice` counts blocks as the runtime does, after the shift.

    Raises:
        BundleError: not such a file, or its directions do not fit the model.
    """
    path = one_file(paths, "cvector-generator")
    file = read_control_vector(path)
    source = Source(
        "cvector-generator",
        str(path),
        _BASE,
        "block_output",
        [(path, file.sha256)],
        ["float32"],
        block_0="direction.1 was learned at the output of block 0, which has no slot",
        notes=_CVECTOR_NOTES,
    )
    return place({n - 1: vector for n, vector in file.directions.items()}, source, model, choice)


# jukofyork/control-vectors: several GGUF files of one axis, a direction (`NAME__ornate.gguf`) and its
# companion (`NAME__debias.gguf`), given or beside it; or the companion alone. The Artifact is their sum.
#
# The axis is learned on what block i adds to the residual stream (`hidden_states[i + 1] - hidden_states[i]`)
# and named `direction.{i + 1}`: it counts from 1, and so `direction.N` is placed at block N-1. (llama.cpp
# itself adds it after block N.) Both ends of an axis are measured from its middle, which the companion holds:
# without it they mean nothing. Its makers keep the companion at scale 1 and dial the end; a bundle has one
# strength for their sum D + E, so what they call scale s is the bundle at s and the companion's own bundle at
# 1 - s: s (D + E) + (1 - s) D = D + s E. Norms carry meaning and are kept.
_DEBIAS = "debias"
_JUKOFYORK_NOTE = "llama.cpp adds direction.N after block N, one block later than it was learned"
_ALONE = "the companion alone: it removes a bias, and adds no trait"
_DIAL = (
    "one strength for the sum of '{companion}' and the end: at 0.5 the debias is halved, at -1 it is "
    "inverted, where its makers keep it at 1; for their scale s convert '{companion}' alone too (--from "
    "jukofyork), and apply this bundle at s and that one at 1 - s"
)


def _is_jukofyork(path: Path) -> bool:
    """Whether it is a companion, by its name, or a file that has its companion beside it."""
    if path.suffix.lower() not in GGUF or not companion(path).is_file():
        return False
    return not read_control_vector(path).signed_count


def companion(path: Path) -> Path:
    """The path of the companion: `NAME__debias.gguf` for `NAME__ornate.gguf`."""
    name, mark, _ = path.stem.rpartition("_")
    return path.with_name(f"{name}{mark}{_DEBIAS}{path.suffix}")


def _read_jukofyork(paths: Sequence[Path], model: ModelInfo, choice: Choice) -> Artifact:
    """The Artifact of the companion plus the chosen end; `choice` counts blocks as the runtime does.

    Raises:
        BundleError: no companion, two ends of an axis, or directions that do not fit the model.
    """
    files = [read_control_vector(path) for path in _of_one_axis([Path(path) for path in paths])]
    where = str(files[-1].path)
    total = _sum(files, where)
    dial = _DIAL.format(companion=files[0].path.name) if len(files) > 1 else _ALONE
    source = Source(
        "jukofyork",
        where,
        _BASE,
        "what a block adds to the residual stream",
        [(file.path, file.sha256) for file in files],
        ["float32"],
        block_0="direction.1 was learned on block 0, which has no slot",
        notes=[_JUKOFYORK_NOTE, dial],
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


def _sum(files: Sequence[ControlVectorFile], where: str) -> dict[int, F32]:
    """Block -> the sum of the files' directions, float32."""
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
    return total


CVECTOR_GENERATOR = Producer("cvector-generator", GGUF, _is_cvector_generator, _read_cvector_generator)
JUKOFYORK = Producer("jukofyork", GGUF, _is_jukofyork, _read_jukofyork)
