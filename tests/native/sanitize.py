"""Compile the C code of edgesteer.runtime with the sanitizers and run it: `python -m tests.native.sanitize`.

Prints what the drivers beside this file report. Exits 1 if a sanitizer stopped one, or a result differs from
the reference's.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
NATIVE = HERE.parents[1] / "edgesteer" / "runtime" / "native"
UNITS = ("tap", "gate", "ort")
"""`NAME.c` of the runtime and, where there is one, `drive_NAME.c` beside this file."""

FLAGS = shlex.split(
    "-std=c11 -D_GNU_SOURCE -g -O1 -fno-omit-frame-pointer -ffp-contract=off -Wall -Wextra -Werror"
    " -fsanitize=address,undefined -fno-sanitize-recover=all"
)
_LEAKS = int(sys.platform.startswith("linux"))  # elsewhere the option itself is an error
_OPTIONS = {
    "ASAN_OPTIONS": f"detect_leaks={_LEAKS}:detect_stack_use_after_return=1:strict_string_checks=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}
N_LAYER, N_EMBD, BLOCKS = 6, 8, (1, 2, 4)


def compiler() -> list[str]:
    return shlex.split(os.environ.get("CC", "cc"))


def missing() -> str | None:
    """Why this machine cannot run the sanitizers, or None."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text("int main(void) { return 0; }\n")
        try:
            _run([*compiler(), *FLAGS, str(source), "-o", f"{folder}/probe"])
            _run([f"{folder}/probe"], _OPTIONS)
        except (OSError, subprocess.CalledProcessError) as error:
            lines = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
            return (
                f"{compiler()[0]} has no address and undefined sanitizers here: {lines[0] if lines else error}"
            )
    return None


def build(folder: Path) -> Path:
    """Compile the driver into `folder`; warnings are errors. Its path."""
    drivers = [path for unit in UNITS if (path := HERE / f"drive_{unit}.c").exists()]
    sources = [*(NATIVE / f"{unit}.c" for unit in UNITS), *drivers, HERE / "sanitize.c"]
    program = folder / "sanitize"
    _run(
        [
            *compiler(),
            *FLAGS,
            f"-I{NATIVE}",
            *map(str, sources),
            "-o",
            str(program),
            "-ldl",
            "-lm",
            "-lpthread",
        ]
    )
    return program


def drive(program: Path, seed: int = 1, decodes: int = 20_000) -> str:
    """Run the driver; its output.

    Raises:
        CalledProcessError: a sanitizer found an error, or a result is wrong; `stderr` holds the details.
    """
    library, folder = onnxruntime_library(), program.parent
    words = [str(program), str(seed), str(decodes)]
    if library is not None:
        write_gate(folder)
        words += [str(library), str(folder)]
    return _run(words, _OPTIONS)


def onnxruntime_library() -> Path | None:
    """The libonnxruntime inside the installed package, which is not imported."""
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations))) / "capi"
    return next(iter(sorted(folder.glob("libonnxruntime.*"))), None)


def write_gate(folder: Path) -> None:
    """gate.onnx, the same folded for each block, and its weights in the form that drive_ort.c reads."""
    from edgesteer.bundle import build_gate, fold_layer

    rng = np.random.default_rng(5)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    weights = {n: [(draw(N_EMBD, 1), draw(1))] for n in BLOCKS}
    gate = build_gate(weights, "0" * 64)
    (folder / "gate.onnx").write_bytes(gate)
    for n in BLOCKS:
        folded = fold_layer(gate, n)
        assert folded.shape == "row"
        (folder / f"folded-{n}.onnx").write_bytes(folded.model)
    parts = [struct.pack("<3i", N_LAYER, N_EMBD, len(BLOCKS))]
    for n, [(weight, bias)] in weights.items():
        parts += [struct.pack("<i", n), weight.tobytes(), bias.tobytes()]
    (folder / "expected.bin").write_bytes(b"".join(parts))


def _run(words: list[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        words,
        env={**os.environ, **(environment or {})},
        text=True,
        capture_output=True,
        check=True,
        timeout=600,
    )
    return done.stdout


def main() -> int:
    if reason := missing():
        print(
            f"edgesteer: {reason}; install gcc or clang with their runtimes, or name one: CC=clang",
            file=sys.stderr,
        )
        return 1
    with tempfile.TemporaryDirectory() as folder:
        try:
            print(drive(build(Path(folder)), decodes=100_000), end="")
        except subprocess.CalledProcessError as error:
            print(error.stdout, error.stderr, sep="", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
