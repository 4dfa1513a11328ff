"""What must hold for any file whatever: it is read, or refused in one line that names it.

In: a Case and an empty folder. Out: which stage decided, as text to be counted; or BrokenLaw. A mutant that
is read must also survive writing and reading, mean the same to a second reader, and have a gate that answers
or is refused.
"""

from __future__ import annotations

import resource
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from edgesteer.bundle import Bundle, load, read_model_info, save, verify
from edgesteer.bundle.container import MEMBERS
from edgesteer.bundle.onnx_rules import OPERATORS
from edgesteer.errors import BundleError, ModelError
from tests.fuzz.cases import MODEL_GGUF, Case

T = TypeVar("T")

MAX_BYTES, MAX_SECONDS = 200 * 2**20, 2.0
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


class BrokenLaw(Exception):  # noqa: N818 - it names what happened
    """Something that may happen for no file."""


def check(case: Case, folder: Path) -> str:
    """The stage that decided about the case.

    Raises:
        BrokenLaw: another exception than a refusal, a refusal that does not say which file, a file that is
            read but not written back, or too much memory or time.
    """
    path = case.write(folder)
    memory, seconds = _peak(), time.process_time()
    try:
        outcome = _model(path) if case.depth.startswith(MODEL_GGUF) else _bundle(path)
    finally:
        memory, seconds = _peak() - memory, time.process_time() - seconds
    if memory > MAX_BYTES:
        raise BrokenLaw(f"{memory / 2**20:.0f} MiB of memory")
    if seconds > MAX_SECONDS:
        raise BrokenLaw(f"{seconds:.1f} s of CPU time")
    return outcome


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT


def _read(action: Callable[[], T], path: Path, kind: type[Exception]) -> T | str:
    """What the action gives, or the stage that refused."""
    try:
        return action()
    except kind as error:
        message = str(error)
        if not message.startswith(str(path)) or len(message.splitlines()) != 1 or not message.isprintable():
            raise BrokenLaw(f"a message that is not one line about the file: {message!r}") from error
        if "; expected " not in message or len(message) > 2_000:
            raise BrokenLaw(f"a message without what was expected, or too long: {message!r}") from error
        return f"refused by {stage(error)}"
    except Exception as error:
        raise BrokenLaw(f"{type(error).__name__}: {error}") from error


def stage(error: BaseException) -> str:
    """module.function in which the refusal began: the innermost frame of this room, of the first error."""
    while error.__context__ is not None and _frames(error.__context__.__traceback__):
        error = error.__context__
    place = _frames(error.__traceback__)[-1]
    text = str(error)
    told = (
        next((part for part in _TOLD_APART if part in text), None)
        if place == "onnx_rules.check_gate"
        else None
    )
    return f"{place}: {told}" if told else place


# check_gate raises for all rules of a gate: the message tells them apart.
_TOLD_APART = (
    "IR version", "operator sets", "sparse", "functions", "no graph", "operator '", "subgraph", "external data",
    "found inputs", "found outputs", "an initializer named", "metadata key twice", "edgesteer.format", "edgesteer.layers",
    "edgesteer.directions_sha256", "elements", "before a node", "twice", "two initializers", "rank", "division", "expected 1 of",
)  # fmt: skip


def _frames(traceback: TracebackType | None) -> list[str]:
    frames = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        module = str(traceback.tb_frame.f_globals.get("__name__", ""))
        if module.startswith("edgesteer.bundle.") and not module.endswith(".refusal"):
            frames.append(f"{module.rpartition('.')[2]}.{code.co_name}")
        traceback = traceback.tb_next
    return frames


def _model(path: Path) -> str:
    info = _read(lambda: read_model_info(path), path, ModelError)
    if isinstance(info, str):
        return info
    if info.n_embd < 1 or info.n_layer < 1:
        raise BrokenLaw(f"a model of {info.n_layer} blocks of width {info.n_embd}")
    return "read: model"


def _bundle(path: Path) -> str:
    bundle = _read(lambda: load(path), path, BundleError)
    if isinstance(bundle, str):
        return bundle
    if not bundle.members:
        return "read: control vector"
    _check_round_trip(bundle, path.parent)
    if path.is_file():
        _check_streamed(bundle, path.read_bytes())
    if bundle.gate is None:
        return "read: vector"
    _check_other_parser(bundle.gate)
    lines = _read(lambda: verify(path), path, BundleError)
    return lines if isinstance(lines, str) else "read: psr, gate probed"


def _check_round_trip(bundle: Bundle, folder: Path) -> None:
    """Write, read, write: the same bytes, the same bundle."""
    first, second = folder / "first.steer", folder / "second.steer"
    save(bundle, first)
    again = load(first)
    save(again, second)
    if again != bundle or again.digest != bundle.digest or again.manifest != bundle.manifest:
        raise BrokenLaw("another bundle after writing and reading")
    if first.read_bytes() != second.read_bytes():
        raise BrokenLaw("other bytes when written again")


def _check_streamed(bundle: Bundle, data: bytes) -> None:
    """A reader that follows the local headers from byte 0 sees the same members."""
    seen, at = {}, 0
    while data[at : at + 4] == b"PK\x03\x04":
        flags, method, size, n_name, n_extra = struct.unpack_from("<6xHH12xI", data, at)[:2] + _sizes(
            data, at
        )
        if flags or method or n_extra:
            raise BrokenLaw(
                f"a local header at byte {at} with flags {flags}, method {method}, {n_extra} extra bytes"
            )
        name = data[at + 30 : at + 30 + n_name].decode()
        at += 30 + n_name + size
        seen[name] = data[at - size : at]
    if seen != dict(bundle.members) or list(seen) != [name for name in MEMBERS if name in seen]:
        raise BrokenLaw("other members for a reader that follows the local headers")
    end = struct.unpack("<IHHHHIIH", data[-22:])
    size, count = len(data) - 22 - at, len(seen)
    if end != (0x06054B50, 0, 0, count, count, size, at, 0):
        raise BrokenLaw(f"an end record {end} of {count} members and an index of {size} bytes at byte {at}")


def _sizes(data: bytes, at: int) -> tuple[int, int, int]:
    packed, size, n_name, n_extra = struct.unpack_from("<IIHH", data, at + 18)
    if packed != size:
        raise BrokenLaw(f"a local header at byte {at} that says compressed")
    return size, n_name, n_extra


def _check_other_parser(gate: bytes) -> None:
    """Protobuf's own parser sees no operator, subgraph or external data that was not there to be refused."""
    import onnx

    try:
        model = onnx.ModelProto.FromString(gate)
    except Exception:  # what it cannot parse, ONNX Runtime cannot either
        return
    graph = model.graph
    tensors = [*graph.initializer, *(a.t for n in graph.node for a in n.attribute)]
    bad = [n.op_type for n in graph.node if n.op_type not in OPERATORS or n.domain not in ("", "ai.onnx")]
    bad += [
        a.name for n in graph.node for a in n.attribute if a.HasField("g") or a.graphs or a.type in (5, 10)
    ]
    bad += [t.name for t in tensors if t.external_data or t.data_location]
    if bad or model.functions or graph.sparse_initializer:
        raise BrokenLaw(f"a gate in which protobuf sees {bad or 'functions or sparse initializers'}")
