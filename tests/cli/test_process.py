"""The process around a command: closed streams, terminals without Unicode, Ctrl-C at any moment."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from edgesteer import cli
from edgesteer.learn.part_file import locked
from tests.cli.support import random_bundle
from tests.learn.pas.support import quiz
from tests.lora import write_lora

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX streams and signals")

EDGESTEER = [sys.executable, "-m", "edgesteer"]

# What each command is called with: some seconds of work on a tiny model, and what it may leave behind.
QUICK = ("-t", "1", "-n", "8", "-c", "1024")
COMMANDS: dict[str, tuple[str, ...]] = {
    "models": ("list",),
    "run": ("m.gguf", "-p", "Why?", "-t", "1", "-n", "400"),
    "chat": ("m.gguf", "-t", "1", "-n", "300"),
    "learn": (
        *("m.gguf", "--trait", "Arr.", "-o", "x.steer", "-t", "1", "-n", "16", "--questions", "q.txt"),
        *("--effort", "quick"),
    ),
    "eval": ("m.gguf", "--steer", "b.steer", "--questions", "q.txt", *QUICK),
    "compare": ("m.gguf", "--steer", "b.steer", "-o", "x.html", "-t", "1", "--suite", "s.json"),
    "adaptation": ("m.gguf", "--lora", "l.gguf", "--steer", "b.steer", "-o", "x.html", *QUICK),
    "inspect": ("b.steer",),
    "convert": ("v.npy", "--from", "plain", "--block", "2", "--model", "m.gguf", "-o", "x.steer", "--parity"),
    "verify": ("b.steer",),
    "pas": ("m.gguf", "quiz.jsonl", "-o", "x.steer", "-t", "1", "--blocks", "1-2", "--strengths", "1,8"),
    "doctor": ("m.gguf", "-t", "1"),
    "bench": ("m.gguf", "--rounds", "5", "--prefills", "1", "--runs", "1", "-t", "1", "-o", "x.json"),
    "map": ("m.gguf", "--steer", "b.steer", "-p", "Why?", "-t", "1", "--html", "x.html"),
    "scan": (
        "m.gguf",
        "--steer",
        "b.steer",
        "--questions",
        "q.txt",
        "-n",
        "4",
        "-t",
        "1",
        "--html",
        "x.html",
    ),
}
THEIRS = (".ses", "torchinductor_")  # what onnxruntime and torch keep among the temporary files
OUTPUTS = {"x.steer", "x.html", "x.json", "x.svg", "x.steer.part"}


@pytest.fixture(scope="module")
def here(model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what COMMANDS take."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "m.gguf").symlink_to(tiny := model("llama"))
    random_bundle(tiny, folder / "b.steer", trait="Talk like a pirate.")
    write_lora(folder / "l.gguf", tiny)
    np.save(folder / "v.npy", np.ones(64, np.float32))
    (folder / "q.txt").write_text("".join(f"What is {i}?\n" for i in range(8)))
    (folder / "s.json").write_text(json.dumps({"questions": ["Why?", "How?"], "max_tokens": 8}))
    rows = [{"question": one.question, "choices": one.choices, "answer": one.answer} for one in quiz(20)]
    (folder / "quiz.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_every_command_is_interrupted_here() -> None:
    assert COMMANDS.keys() == cli.COMMANDS.keys() - cli.HIDDEN


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def ended(
    here: Path, *command: str | bytes | Path, env: dict[str, str] | None = None, **streams: Any
) -> Ended:
    """A command's end, without input. Output that is not UTF-8 is shown as Latin-1 has it."""
    streams = {"input": b"", "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    done = subprocess.run(command, cwd=here, env={**os.environ, **(env or {})}, check=False, **streams)
    return Ended(done.returncode, *(_text(data or b"") for data in (done.stdout, done.stderr)))


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def clean(err: str) -> bool:
    return not any(text in err for text in ("Traceback", "internal error", "Exception ignored", "Aborted"))


# -- closed streams ----------------------------------------------------------------------------------


def with_closed(streams: str, here: Path, name: str, *args: str) -> Ended:
    """A command after `exec 0<&-` and the like."""
    closing = " ".join({"0": "<&-", "1": ">&-", "2": "2>&-"}[number] for number in streams)
    return ended(here, "/bin/sh", "-c", f'exec {closing}; exec "$@"', "sh", *EDGESTEER, name, *args)


@pytest.mark.parametrize("name", COMMANDS)
def test_without_standard_output_every_command_is_refused_in_one_line(here: Path, name: str) -> None:
    for streams in ("1", "01"):
        done = with_closed(streams, here, name, *COMMANDS[name])
        assert (done.code, done.err.count("\n")) == (1, 1), done.err
        assert done.err.startswith("edgesteer: error: standard output is closed")
    assert with_closed("12", here, name, *COMMANDS[name]).code == 1
    assert not OUTPUTS & {path.name for path in here.iterdir()}


@pytest.mark.parametrize("streams", ["0", "2"])
@pytest.mark.parametrize("name", ["models", "run", "chat", "inspect", "doctor"])
def test_without_the_other_streams_commands_work(here: Path, name: str, streams: str) -> None:
    args = [arg.replace("400", "4") for arg in COMMANDS[name]]
    done = with_closed(streams, here, name, *args)
    assert (done.code, done.err) == (0, ""), done.err
    assert done.out or name == "chat"


@pytest.mark.parametrize("streams", ["0", "2", "02"])
def test_wrong_usage_and_refusals_keep_their_codes(here: Path, streams: str) -> None:
    assert with_closed(streams, here, "nope").code == 2
    assert with_closed(streams, here, "run", "m.gguf").code == 2  # no prompt
    assert with_closed(streams, here, "inspect", "none.steer").code == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is full")
@pytest.mark.parametrize("args", [("models", "list"), ("inspect", "b.steer"), ("--help",), ("run", "--help")])
def test_output_that_cannot_be_written_is_one_line(here: Path, args: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        done = ended(here, *EDGESTEER, *args, stdout=full)
    assert (done.code, done.err.count("\n")) == (1, 1), done.err
    assert done.err.startswith("edgesteer: error: ")


# -- terminals without Unicode -----------------------------------------------------------------------

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
TERMINALS = {
    "ascii": ASCII,
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "a locale of Latin-1": {"LC_ALL": "en_US.ISO-8859-1", "PYTHONUTF8": "0"},
}


@pytest.mark.parametrize("terminal", TERMINALS)
def test_any_text_and_any_path_work_on_any_terminal(here: Path, tmp_path: Path, terminal: str) -> None:
    folder = tmp_path / "Füße 日本"
    folder.mkdir()
    (folder / "mö.gguf").symlink_to((here / "m.gguf").resolve())

    def run(*args: str | Path) -> str:
        done = ended(here, *EDGESTEER, *args, "-t", "1", "-n", "8", env=TERMINALS[terminal])
        assert done.code == 0, done.err
        assert clean(done.err)
        return done.out

    trait, out = "Du sprichst wie ein Seeräuber 日本.", folder / "gelérnt.steer"
    run(
        "learn",
        folder / "mö.gguf",
        "--trait",
        trait,
        "-o",
        out,
        "--questions",
        "q.txt",
        "--method",
        "constant",
        "--effort",
        "quick",
    )
    shown = run(
        "map", folder / "mö.gguf", "--steer", out, "-p", "Größe?", "--numbers", "--all-tokens", "--blocks"
    )
    if terminal == "ascii":
        assert shown.isascii()
        assert "12345678" in shown  # the marks' legend, a cell each
    whole = json.loads(run("map", folder / "mö.gguf", "--steer", out, "-p", "Größe?", "--json"))
    assert "ö" in "".join(whole["pieces"]) or "Ã¶" in "".join(whole["pieces"])


@pytest.mark.parametrize("args", [("learn", "--trait", "\udcff", "-o", "x.steer"), ("run", "-p", "\udcff")])
def test_text_that_is_not_utf8_is_one_line(here: Path, args: tuple[str, ...]) -> None:
    name, *rest = args
    done = ended(here, *EDGESTEER, name, "m.gguf", *rest)
    assert done.code == (1 if name == "learn" else 2)
    assert "not UTF-8" in done.err
    assert clean(done.err)
    assert not OUTPUTS & {path.name for path in here.iterdir()}


def test_a_file_name_that_is_not_utf8_is_a_name(here: Path) -> None:
    command = (
        "convert",
        "v.npy",
        "--from",
        "plain",
        "--block",
        "2",
        "--model",
        "m.gguf",
        "-o",
        b"\xff.steer",
    )
    done = ended(here, *EDGESTEER, *command)
    assert done.code == 0, done.err
    (here / "\udcff.steer").unlink()


# -- Ctrl-C ------------------------------------------------------------------------------------------

# As the console script does it. Writes a byte when its turn comes: an interpreter that starts cannot be protected.
_SCRIPT = """
import os, sys
from edgesteer.__main__ import run
os.write(int(sys.argv.pop(1)), b".")
run()
"""


def run_until(
    here: Path, tmp_path: Path, name: str, seconds: float | None, presses: int = 1
) -> tuple[Ended, float]:
    """A command that gets Ctrl-C so long after its start, and how long it took; None: never."""
    done = _run_until(here, tmp_path, name, seconds, presses)
    while 'File "<string>", line 4' in done[0].err:  # on a busy machine it came before the last line
        done = _run_until(here, tmp_path, name, seconds, presses)
    return done


def _run_until(
    here: Path, tmp_path: Path, name: str, seconds: float | None, presses: int
) -> tuple[Ended, float]:
    read, write = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, str(write), name, *COMMANDS[name]],
        cwd=here,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=(write,),
        start_new_session=True,  # as a terminal does, all of its processes get the signal
    ) as child:
        os.close(write)
        assert os.read(read, 1) == b"."
        os.close(read)
        start = time.monotonic()
        if seconds is not None:
            threading.Thread(target=_press, args=(child, seconds, presses), daemon=True).start()
        out, err = child.communicate("Why?\n" if name == "chat" else None)
    return Ended(child.returncode, out, err), time.monotonic() - start


def _press(child: subprocess.Popen[str], seconds: float, presses: int) -> None:
    time.sleep(seconds)
    for _ in range(presses):
        with contextlib.suppress(ProcessLookupError):
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGINT)
        time.sleep(0.01)


def check_interrupts(here: Path, tmp_path: Path, name: str, moments: list[float], presses: int = 1) -> None:
    before = {path.name for path in here.iterdir()}
    for moment in moments:
        done, _ = run_until(here, tmp_path, name, moment, presses)
        left = {path.name for path in here.iterdir()} - before
        assert clean(done.err), (moment, done.err)
        assert done.code in (0, 130), (moment, done.code, done.err)
        if done.code == 130:
            assert done.err.splitlines()[-1] == "edgesteer: interrupted", (moment, done.err)
        else:  # it was faster
            assert "interrupted" not in done.err
        assert left <= OUTPUTS
        assert not [file for file in tmp_path.iterdir() if not file.name.startswith(THEIRS)], moment
        for file in left:
            size = (here / file).stat().st_size
            (here / file).unlink()
            assert size, file


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_ends_a_command_with_130(here: Path, tmp_path: Path, name: str) -> None:
    check_interrupts(here, tmp_path, name, [0.002, 0.1, 0.5])


@pytest.mark.parametrize("name", ["learn", "convert", "doctor"])
def test_pressing_on_ends_it_no_less_clean(here: Path, tmp_path: Path, name: str) -> None:
    check_interrupts(here, tmp_path, name, [0.3], presses=200)


@pytest.mark.proof
@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_ends_a_command_with_130_at_twenty_moments(here: Path, tmp_path: Path, name: str) -> None:
    whole, seconds = run_until(here, tmp_path, name, None)
    assert whole.code == 0, whole.err
    for file in OUTPUTS:
        (here / file).unlink(missing_ok=True)
    check_interrupts(here, tmp_path, name, [0.002 + seconds * i / 20 for i in range(20)])


# -- two at once -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["learn", "pas"])
def test_a_second_run_with_the_same_output_is_refused_in_one_line(here: Path, name: str) -> None:
    with locked(here / "x.steer.part"):
        done = ended(here, *EDGESTEER, name, *COMMANDS[name])
        assert (done.code, done.out, done.err.count("\n")) == (1, "", 1), done.err
        assert "x.steer.part: another run is writing it" in done.err
    assert not OUTPUTS & {path.name for path in here.iterdir()}
