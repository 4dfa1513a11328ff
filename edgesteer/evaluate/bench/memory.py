"""Memory of a process: what it uses now, and the peak of one that does nothing but run a model in one way.

Each peak is measured in a fresh process, imports included: in a process that measures many ways one after the
other, nobody could say which of them caused the peak.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import llama_cpp

from edgesteer.bundle import Bundle, encode_directions, save
from edgesteer.errors import ModelError
from edgesteer.evaluate.bench.timing import UNSTEERED, native, some_tokens
from edgesteer.runtime import SteeredLlama

PLAIN = "llama_cpp.Llama"
_PROMPT = 256
# -P: run no module of the working directory. The child's import path is this process's.
_CHILD = (
    "import json, sys; how = json.loads(sys.argv[1]); sys.path[:] = how['path']; "
    "from edgesteer.evaluate.bench.memory import run_one; run_one(how)"
)


def resident() -> int:
    """Bytes of this process in memory; its peak if the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return peak()
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak() -> int:
    """The most bytes that this process ever had in memory."""
    try:  # on Linux a child inherits ru_maxrss, which may be the parent's
        measured = [line.split()[1] for line in _status() if line.startswith("VmHWM:")]
        return int(measured[0]) * 1024
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status() -> list[str]:
    return Path("/proc/self/status").read_text().splitlines()


def peaks(model: str, bundles: Mapping[str, Bundle], options: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """{way: {peak, added}}: peak bytes of a process that evaluates a prompt and a token, and how many more
    than the unsteered one's those are. options: of the context.

    Raises ModelError if such a process fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        runs: dict[str, dict[str, Any]] = {PLAIN: {"plain": True}, UNSTEERED: {}}
        for i, (name, bundle) in enumerate(bundles.items()):
            path = str(write_anew(bundle, Path(folder, str(i))))
            runs[name] = {"bundle": path}
            if bundle.gate_gguf is not None:
                runs[native(name)] = {"bundle": path, "engine": "native"}
        measured = {
            name: _peak_of({"model": model, "options": dict(options), **how}) for name, how in runs.items()
        }
    return {name: {"peak": each, "added": each - measured[UNSTEERED]} for name, each in measured.items()}


def write_anew(bundle: Bundle, stem: Path) -> Path:
    """Write a bundle to STEM.steer, or a bare control vector to STEM.gguf, and return the path."""
    if bundle.members:
        path = stem.with_suffix(".steer")
        save(bundle, path)
    else:
        path = stem.with_suffix(".gguf")
        path.write_bytes(encode_directions(bundle.directions, bundle.architecture_hint or ""))
    return path


def _peak_of(how: dict[str, Any]) -> int:
    done = subprocess.run(
        [sys.executable, "-P", "-c", _CHILD, json.dumps({**how, "path": sys.path})],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ModelError(
            f"{how['model']}: a process that only runs it failed: {lines[-1]}; is there memory for it?"
        )
    return int(done.stdout.split()[-1])


def run_one(how: dict[str, Any]) -> None:
    """Run a model in one way and print the peak. To be called in a new process."""
    if how.get("plain"):
        llm = llama_cpp.Llama(how["model"], verbose=False, **how["options"])
    else:
        llm = _steered(how)
    llm.eval(some_tokens(_PROMPT))
    llm.eval([7])
    llm.close()
    print(peak())


def _steered(how: dict[str, Any]) -> Any:
    engine = how.get("engine", "onnxruntime")
    llm = SteeredLlama(how["model"], gate_engine=engine, **how["options"])
    if "bundle" in how:
        llm.steer(how["bundle"])
    return llm
