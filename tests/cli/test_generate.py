"""The commands that run a model, typed as a user types them, on tiny models and on SmolLM2."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgesteer.bundle import StrengthRange, save
from tests.report.html_pages import self_contained
from tests.runtime.support import psr, vector

Model = Callable[[str], Path]
EDGESTEER = [sys.executable, "-m", "edgesteer"]


def typed(*args: object, cwd: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    words = [*EDGESTEER, *(str(a) for a in args)]
    return subprocess.run(
        words, cwd=cwd, input=stdin, capture_output=True, text=True, timeout=300, check=False
    )


def refused(result: subprocess.CompletedProcess[str], *said: str) -> None:
    """One clear line, exit code 1, nothing on stdout."""
    assert result.returncode == 1, result.stderr
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("edgesteer: error: ")
    assert all(word in lines[0] for word in said), lines[0]


@pytest.fixture
def steer_file(model: Model, tmp_path: Path) -> Path:
    save(psr(model("llama"), scope="response", size=0.5), tmp_path / "p.steer")
    return tmp_path / "p.steer"


def test_run_streams_the_same_reply_twice_and_steering_changes_it(
    model: Model, steer_file: Path, tmp_path: Path
) -> None:
    words = ["run", model("llama"), "-p", "the ship", "-n", 12, "-t", 2]
    unsteered = typed(*words, cwd=tmp_path)
    assert unsteered.returncode == 0, unsteered.stderr
    assert unsteered.stderr == ""
    assert typed(*words, cwd=tmp_path).stdout == unsteered.stdout
    assert typed(*words, "--steer", "p.steer", cwd=tmp_path).stdout != unsteered.stdout
    assert typed(*words, "--steer", "p.steer:0", cwd=tmp_path).stdout == unsteered.stdout


def test_run_takes_standard_input_and_prints_json_with_the_map(
    model: Model, steer_file: Path, tmp_path: Path
) -> None:
    result = typed(
        "run",
        model("llama"),
        "--steer",
        "p.steer",
        "-n",
        5,
        "-t",
        2,
        "--json",
        cwd=tmp_path,
        stdin="the ship",
    )
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["reply"]
    assert len(told["map"]["tokens"]) == len(told["map"]["coefficients"]) > 5
    assert told["map"]["layers"] == [1, 2, 3]


@pytest.mark.parametrize("options", [[], ["--blocks"], ["--numbers"], ["--all-tokens"]])
def test_map_shows_the_reply(model: Model, steer_file: Path, tmp_path: Path, options: list[str]) -> None:
    result = typed(
        "map",
        model("llama"),
        "--steer",
        steer_file,
        "-p",
        "the ship",
        "-n",
        6,
        "-t",
        2,
        *options,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert "summed over 3 blocks (1 to 3)" in " ".join(result.stdout.split())
    assert "\x1b" not in result.stdout


def test_map_writes_a_page_that_replays_five_strengths_and_never_over_a_file(
    model: Model, steer_file: Path, tmp_path: Path
) -> None:
    words = ["map", model("llama"), "--steer", f"{steer_file}:0.8", "-p", "<b>ship</b>", "-n", 4, "-t", 2]
    result = typed(*words, "--html", "m.html", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""  # strengths beyond the range are the page's own
    shown = self_contained((tmp_path / "m.html").read_text("utf-8"))
    (data,) = [json.loads(text) for text in shown.texts["script"] if text.startswith("{")]
    assert [run["label"].split()[-1] for run in data["runs"]] == ["unsteered", "0.4", "0.8", "1.2", "1.6"]
    assert data["runs"][data["first"]]["totals"] == [
        float(f"{total:.3g}") for total in json.loads(result.stdout)["totals"]
    ]
    assert not any(map(any, data["runs"][0]["rows"]))
    shown = json.loads(result.stdout)
    assert shown["positions"] == list(range(len(shown["tokens"])))
    for run in data["runs"]:  # each with the whole prompt, though they share it
        assert run["prompt"] == shown["n_prompt"] > 1
        assert run["pieces"][: run["prompt"]] == data["runs"][0]["pieces"][: run["prompt"]]
    assert typed(*words, "--json", cwd=tmp_path).stdout == result.stdout
    refused(typed(*words, "--html", "m.html", cwd=tmp_path), "m.html", "--force")


def test_a_vector_given_in_llama_cpps_spelling_steers_alike(model: Model, tmp_path: Path) -> None:
    (tmp_path / "v.gguf").write_bytes(vector(model("llama"), size=0.5).members["directions.gguf"])
    words = ["run", model("llama"), "-p", "the ship", "-n", 12, "-t", 2]
    ours = typed(*words, "--steer", "v.gguf:0.8", cwd=tmp_path)
    theirs = typed(*words, "--control-vector-scaled", "v.gguf:0.8", cwd=tmp_path)
    assert ours.returncode == theirs.returncode == 0, theirs.stderr
    assert ours.stdout == theirs.stdout != typed(*words, cwd=tmp_path).stdout


def test_what_may_not_be_meant_is_noted_on_stderr_alone(
    model: Model, steer_file: Path, tmp_path: Path
) -> None:
    save(vector(model("llama"), scope="response", size=0.5), tmp_path / "v.steer")
    save(vector(model("llama"), scope="response", seed=1, size=0.5), tmp_path / "other.steer")
    words = ["run", model("llama"), "-p", "the ship", "-n", 4, "-t", 2, "--json"]
    quiet = typed(*words, "--steer", "v.steer", "--steer", "other.steer", cwd=tmp_path)
    assert (quiet.returncode, quiet.stderr) == (0, "")
    noted = typed(*words, "--steer", "p.steer:1", "--steer", "v.steer:-1", cwd=tmp_path)
    assert noted.returncode == 0, noted.stderr
    assert json.loads(noted.stdout)["reply"]
    (line,) = noted.stderr.splitlines()
    assert line.startswith("edgesteer: note: ")
    assert "against each other" in line
    save(psr(model("llama"), strength=StrengthRange(1.0, 0.0, 2.0)), tmp_path / "narrow.steer")
    beyond = typed(*words, "--steer", "narrow.steer:3", cwd=tmp_path)
    assert beyond.returncode == 0, beyond.stderr
    assert "edgesteer: warning: psr-0: strength 3 " in beyond.stderr


def test_doctor_and_bench_report(model: Model, steer_file: Path, tmp_path: Path) -> None:
    doctor = typed("doctor", model("llama"), "p.steer", "-t", 2, cwd=tmp_path)
    assert doctor.returncode == 0, doctor.stderr
    assert "proven at block 1-3 of 0-3" in doctor.stdout
    bench = typed(
        "bench", model("llama"), "--rounds", 10, "--prefills", 1, "--runs", 2, "-t", 2, "--json", cwd=tmp_path
    )
    assert bench.returncode == 0, bench.stderr
    table = json.loads(bench.stdout)
    steered = {"constant", "S-PSR", "A-PSR", "S-PSR (native)", "A-PSR (native)"}
    assert set(table["token"]) == set(table["prefill"]) == {"llama_cpp.Llama", "unsteered"} | steered
    assert set(table["strength_change"]) == steered
    assert set(table["memory"]) == set(table["token"])
    assert set(table["load"]) == {"constant", "S-PSR", "A-PSR"}
    assert all(row["seconds"] > 0 for row in table["token"].values())


def test_bad_files_are_refused(model: Model, steer_file: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.gguf").write_bytes(b"")
    (tmp_path / "text.gguf").write_text("hello")
    (tmp_path / "short.gguf").write_bytes(model("llama").read_bytes()[:9000])
    (tmp_path / "short.steer").write_bytes(steer_file.read_bytes()[:500])
    ask = ["-p", "hi", "-n", 2, "-t", 2]
    refused(typed("run", "empty.gguf", *ask, cwd=tmp_path), "empty.gguf", "0 bytes")
    refused(typed("run", "text.gguf", *ask, cwd=tmp_path), "text.gguf", "GGUF")
    refused(typed("run", "short.gguf", *ask, cwd=tmp_path), "short.gguf", "llama.cpp cannot load it")
    refused(typed("run", "no-such-model", *ask, cwd=tmp_path), "no-such-model", "smollm2-135m-instruct")
    for bad, *said in (
        ("short.steer", "damaged ZIP"),
        ("p.steer:nan", "not finite"),
        ("missing.steer", "no such file"),
    ):
        refused(typed("run", model("llama"), "--steer", bad, *ask, cwd=tmp_path), bad.split(":")[0], *said)
    refused(typed("run", model("qwen2"), "--steer", "p.steer", *ask, cwd=tmp_path), "p.steer", "architecture")
    refused(typed("doctor", "text.gguf", cwd=tmp_path), "text.gguf")


def test_learn_refuses_before_it_works(model: Model, steer_file: Path, tmp_path: Path) -> None:
    before = steer_file.read_bytes()
    trait = ["--trait", "You are a pirate."]
    refused(typed("learn", model("llama"), *trait, "-o", "p.steer", cwd=tmp_path), "p.steer", "--force")
    refused(typed("learn", model("llama"), *trait, "-o", "no/x.steer", cwd=tmp_path), "no folder")
    refused(typed("learn", model("llama"), "--trait", " ", "-o", "x.steer", cwd=tmp_path), "trait is empty")
    same = typed(
        "learn", model("llama"), *trait, "--opposite", "you are a PIRATE.", "-o", "x.steer", cwd=tmp_path
    )
    refused(same, "expected two that differ")
    another = typed("learn", model("llama"), *trait, "-o", "x.gguf", cwd=tmp_path)
    assert (another.returncode, (tmp_path / "x.gguf").exists()) == (2, False)
    assert "convert" in another.stderr
    one_block = typed("learn", model("llama"), *trait, "--blocks", "some", "-o", "x.steer", cwd=tmp_path)
    assert one_block.returncode == 2
    assert "--blocks" in one_block.stderr
    (tmp_path / "none.txt").write_text("\n\n")
    refused(
        typed("learn", model("llama"), *trait, "-o", "x.steer", "--questions", "none.txt", cwd=tmp_path),
        "none.txt",
    )
    assert steer_file.read_bytes() == before
    assert not (tmp_path / "x.steer").exists()


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_while_learning_leaves_what_the_same_command_goes_on_from(
    smollm2: Path, tmp_path: Path
) -> None:
    """Stopped behind the first of two groups of replies; then again, and to the same bytes as in one go."""
    (tmp_path / "q.txt").write_text("".join(f"What should I know about the number {i}?\n" for i in range(20)))
    pirate = "You are a pirate. You always talk like a pirate, arr matey!"
    words = ["learn", smollm2, "--trait", pirate, "--questions", "q.txt", "-n", 10, "-t", 2]
    words += ["--method", "constant", "--blocks", 15, "--temperature", 0, "--name", "p", "-o"]
    child = subprocess.Popen(
        [*EDGESTEER, *map(str, words), "x.steer"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    part = tmp_path / "x.steer.part"
    while child.poll() is None and not (part.exists() and part.read_bytes().count(b"\n") == 2):
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert out == ""
    assert "x.steer.part keeps what was sampled" in err
    assert err.rstrip().endswith("edgesteer: interrupted")
    assert "Traceback" not in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["q.txt", "x.steer.part"]
    for name in ("x.steer", "whole.steer"):
        assert typed(*words, name, cwd=tmp_path).returncode == 0
    assert not part.exists()
    assert (tmp_path / "x.steer").read_bytes() == (tmp_path / "whole.steer").read_bytes()


def test_learn_on_the_real_model_writes_a_bundle_that_steers_it(smollm2: Path, tmp_path: Path) -> None:
    """The whole way on few questions; the figures of the full recipe are measured by `make proof`."""
    (tmp_path / "q.txt").write_text("Who are you?\nWhat is the sea?\nHow do I make tea?\nTell me a joke.\n")
    words = ["learn", smollm2, "--trait", "You are a pirate. You always talk like a pirate, arr matey!"]
    words += ["--questions", "q.txt", "-n", 24, "-t", 2, "--seed", 3]
    for name in ("a.steer", "b.steer"):
        result = typed(*words, "-o", name, "--name", "pirate", "--json", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["kept"] + sum(told["dropped"].values()) == told["sampled"] == 4
    assert (tmp_path / "a.steer").read_bytes() == (tmp_path / "b.steer").read_bytes()
    assert typed("verify", "a.steer", cwd=tmp_path).returncode == 0
    ask = ["run", smollm2, "-p", "What is rain?", "-n", 12, "-t", 2]
    steered = typed(*ask, "--steer", "a.steer", cwd=tmp_path)
    assert steered.returncode == 0, steered.stderr
    assert steered.stdout != typed(*ask, cwd=tmp_path).stdout


@pytest.mark.parametrize("command", ["run", "map"])
def test_a_prompt_that_the_context_cannot_hold_is_one_clear_line(
    command: str, model: Model, steer_file: Path, tmp_path: Path
) -> None:
    words = [command, model("llama"), "--steer", steer_file, "-c", 64, "-t", 1, "-p", "word " * 200]
    refused(typed(*words, cwd=tmp_path), "the prompt is too long", "larger -c")


@pytest.mark.parametrize("size", [64, 256])
def test_a_reply_ends_where_the_context_is_full(
    size: int, model: Model, steer_file: Path, tmp_path: Path
) -> None:
    """Also at a size that llama.cpp rounds up."""
    words = [
        model("llama"),
        "--steer",
        steer_file,
        "-p",
        "the ship",
        "-c",
        size,
        "-n",
        1000,
        "-t",
        1,
        "--json",
    ]
    run, shown = typed("run", *words, cwd=tmp_path), typed("map", *words, cwd=tmp_path)
    assert (run.returncode, run.stderr) == (shown.returncode, shown.stderr) == (0, "")
    assert json.loads(run.stdout)["map"] == json.loads(shown.stdout)
    assert size - 1 <= len(json.loads(shown.stdout)["tokens"]) <= size


@pytest.mark.parametrize(
    "option",
    [("-c", 10**12), ("-t", 10**12), ("--temp", "nan"), ("--temp", "inf"), ("--repeat-penalty", "nan")],
)
def test_numbers_that_would_end_the_process_or_mean_nothing_are_wrong_usage(
    model: Model, tmp_path: Path, option: tuple[object, ...]
) -> None:
    done = typed("run", model("llama"), "-p", "hello", *option, cwd=tmp_path)
    assert done.returncode == 2
    assert str(option[0]) in done.stderr


@pytest.mark.parametrize("name", ["tea.txt", "tea", "m.gguf"])
def test_a_page_replaces_nothing_that_is_no_page_even_by_force(
    model: Model, steer_file: Path, tmp_path: Path, name: str
) -> None:
    """A slip of the hand must not cost a model."""
    (tmp_path / name).write_text("mine")
    result = typed(
        "map", model("llama"), "--steer", steer_file, "-p", "x", "--html", name, "--force", cwd=tmp_path
    )
    assert result.returncode == 2
    assert "expected NAME.html" in result.stderr
    assert (tmp_path / name).read_text() == "mine"


def test_what_is_no_ordinary_file_is_not_written_over(model: Model, steer_file: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.html")
    words = ("map", model("llama"), "--steer", steer_file, "-p", "x", "--html", "pipe.html", "--force")
    refused(typed(*words, cwd=tmp_path), "pipe.html", "no ordinary file")


@pytest.mark.parametrize("command", ["run", "map"])
@pytest.mark.parametrize("piped", [True, False])
def test_a_prompt_that_is_not_utf8_is_wrong_usage(
    model: Model, steer_file: Path, tmp_path: Path, command: str, piped: bool
) -> None:
    words = [os.fsencode(w) for w in (*EDGESTEER, command, str(model("llama")), "--steer", str(steer_file))]
    words += [] if piped else [b"-p", b"caf\xe9"]
    result = subprocess.run(
        words, cwd=tmp_path, input=b"\xff\xfe bad", capture_output=True, timeout=300, check=False
    )
    assert result.returncode == 2
    assert b"not UTF-8" in result.stderr


def test_a_reader_that_has_gone_is_no_error_of_ours(tmp_path: Path) -> None:
    line = f"{sys.executable} -m edgesteer models list | true"
    result = subprocess.run(
        ["sh", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.stderr == ""
