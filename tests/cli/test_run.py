"""The commands that run a model - run, map, doctor, learn - on tiny models."""

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
from edgesteer.learn import EFFORTS
from tests.cli.support import Run, random_bundle, refused
from tests.report.html_pages import self_contained
from tests.runtime.support import psr, vector
from tests.tiny import CHATML, write_tiny

Model = Callable[[str], Path]


@pytest.fixture
def steer_file(model: Model, tmp_path: Path) -> Path:
    save(psr(model("llama"), scope="response", size=0.5), tmp_path / "p.steer")
    return tmp_path / "p.steer"


@pytest.fixture
def on(tiny: Path) -> tuple[object, ...]:
    return (tiny, "-p", "the ship", "-n", 8, "-t", 1)


def test_run_gives_the_same_reply_twice_and_steering_changes_it(
    run: Run, on: tuple[object, ...], steer_file: Path
) -> None:
    unsteered = run("run", *on)
    assert (unsteered.exit_code, unsteered.stderr) == (0, "")
    assert run("run", *on).stdout == unsteered.stdout
    assert run("run", *on, "--steer", "p.steer").stdout != unsteered.stdout
    assert run("run", *on, "--steer", "p.steer:0").stdout == unsteered.stdout


def test_steer_adds_up_and_sampling_has_one_spelling_beside_llama_cpps(
    run: Run, on: tuple[object, ...], steer_file: Path
) -> None:
    once = run("run", *on, "--steer", "p.steer:1", "--json").stdout
    assert run("run", *on, "--steer", "p.steer:0.25", "--steer", "p.steer:0.75", "--json").stdout == once
    warm = ("--seed", 3, "--json")
    sampled = run("run", *on, "--temperature", 2, *warm)
    assert sampled.exit_code == 0, sampled.stderr
    assert run("run", *on, "--temp", 2, *warm).stdout == sampled.stdout != run("run", *on, *warm).stdout


def test_run_takes_standard_input_and_prints_json_with_the_map(
    run: Run, tiny: Path, steer_file: Path
) -> None:
    result = run("run", tiny, "--steer", "p.steer", "-n", 5, "-t", 1, "--json", input="the ship")
    assert result.exit_code == 0, result.stderr
    shown = json.loads(result.stdout)
    assert shown["reply"]
    assert len(shown["map"]["tokens"]) == len(shown["map"]["coefficients"]) > 5
    assert shown["map"]["layers"] == [1, 2, 3]


def test_a_path_may_begin_with_the_home_folder(
    run: Run, on: tuple[object, ...], steer_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = steer_file.parent / "someone"
    home.mkdir()
    steered = run("run", *on, "--steer", f"{steer_file}:0.5").stdout
    steer_file.rename(home / "p.steer")
    (home / "m.gguf").symlink_to(str(on[0]))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    there = ("~/m.gguf", *on[1:])
    assert run("run", *there, "--steer", "~/p.steer:0.5").stdout == steered
    assert run("map", *there, "--steer", "~/p.steer", "--html", "~/m.html").exit_code == 0
    assert run("inspect", "~/p.steer", "--extract", "~/folder").exit_code == 0
    assert (home / "m.html").exists()
    assert run("verify", "~/folder").exit_code == 0
    assert not Path("~").exists()


@pytest.mark.parametrize("options", [[], ["--blocks"], ["--numbers"], ["--all-tokens"]])
def test_map_shows_the_reply(run: Run, on: tuple[object, ...], steer_file: Path, options: list[str]) -> None:
    result = run("map", *on, "--steer", steer_file, *options)
    assert result.exit_code == 0, result.stderr
    assert "summed over 3 blocks (1 to 3)" in " ".join(result.stdout.split())
    assert "\x1b" not in result.stdout


def test_map_writes_a_page_that_replays_five_strengths_and_never_over_a_file(
    run: Run, tiny: Path, steer_file: Path
) -> None:
    words = ["map", tiny, "--steer", f"{steer_file}:0.8", "-p", "<b>ship</b>", "-n", 4, "-t", 1]
    result = run(*words, "--html", "m.html", "--json")
    assert (result.exit_code, result.stderr) == (0, "")  # strengths beyond the range are the page's own
    page = self_contained(Path("m.html").read_text("utf-8"))
    (data,) = [json.loads(text) for text in page.texts["script"] if text.startswith("{")]
    assert [each["label"].split()[-1] for each in data["runs"]] == ["unsteered", "0.4", "0.8", "1.2", "1.6"]
    shown = json.loads(result.stdout)
    assert data["runs"][data["first"]]["totals"] == [float(f"{total:.3g}") for total in shown["totals"]]
    assert not any(map(any, data["runs"][0]["rows"]))
    assert shown["positions"] == list(range(len(shown["tokens"])))
    for each in data["runs"]:  # each with the whole prompt, though they share it
        assert each["prompt"] == shown["n_prompt"] > 1
        assert each["pieces"][: each["prompt"]] == data["runs"][0]["pieces"][: each["prompt"]]
    assert run(*words, "--json").stdout == result.stdout
    refused(run(*words, "--html", "m.html"), "m.html", "--force")


def test_a_vector_given_in_llama_cpps_spelling_steers_alike(
    run: Run, on: tuple[object, ...], tiny: Path
) -> None:
    Path("v.gguf").write_bytes(vector(tiny, size=0.5).members["directions.gguf"])
    ours = run("run", *on, "--steer", "v.gguf:0.8")
    theirs = run("run", *on, "--control-vector-scaled", "v.gguf:0.8")
    assert ours.exit_code == theirs.exit_code == 0, theirs.stderr
    assert ours.stdout == theirs.stdout != run("run", *on).stdout


def test_what_may_not_be_meant_is_noted_on_stderr_alone(
    run: Run, on: tuple[object, ...], tiny: Path, steer_file: Path
) -> None:
    save(vector(tiny, scope="response", size=0.5), Path("v.steer"))
    save(vector(tiny, scope="response", seed=1, size=0.5), Path("other.steer"))
    save(psr(tiny, strength=StrengthRange(1.0, 0.0, 2.0)), Path("narrow.steer"))
    quiet = run("run", *on, "--json", "--steer", "v.steer", "--steer", "other.steer")
    assert (quiet.exit_code, quiet.stderr) == (0, "")
    noted = run("run", *on, "--json", "--steer", "p.steer:1", "--steer", "v.steer:-1")
    assert json.loads(noted.stdout)["reply"]
    (line,) = noted.stderr.splitlines()
    assert line.startswith("edgesteer: note: ")
    assert "against each other" in line
    beyond = run("run", *on, "--json", "--steer", "narrow.steer:3")
    assert beyond.exit_code == 0, beyond.stderr
    assert "edgesteer: warning: psr-0: strength 3 " in beyond.stderr


def test_doctor_reports_what_can_be_steered(run: Run, tiny: Path, steer_file: Path) -> None:
    doctor = run("doctor", tiny, "p.steer", "-t", 1)
    assert doctor.exit_code == 0, doctor.stderr
    assert "proven at block 1-3 of 0-3" in doctor.stdout


def test_bad_files_are_refused(run: Run, model: Model, tiny: Path, steer_file: Path) -> None:
    Path("empty.gguf").write_bytes(b"")
    Path("text.gguf").write_text("hello")
    Path("short.gguf").write_bytes(tiny.read_bytes()[:9000])
    Path("short.steer").write_bytes(steer_file.read_bytes()[:500])
    prompt = ["-p", "hi", "-n", 2, "-t", 1]
    for bad, *texts in (
        ("empty.gguf", "0 bytes"),
        ("text.gguf", "GGUF"),
        ("short.gguf", "llama.cpp cannot load it"),
        ("no-such-model", "smollm2-135m-instruct"),
    ):
        refused(run("run", bad, *prompt), bad, *texts)
    for bad, *texts in (
        ("short.steer", "whole ZIP"),
        ("p.steer:nan", "not finite"),
        ("missing.steer", "no such file"),
        ("~nobody/p.steer", "no such file"),
    ):
        refused(run("run", tiny, "--steer", bad, *prompt), bad.split(":")[0], *texts)
    refused(run("run", model("qwen2"), "--steer", "p.steer", *prompt), "p.steer", "architecture")
    refused(run("doctor", "text.gguf"), "text.gguf")


@pytest.mark.parametrize("arch", ["t5", "bert", "t5encoder"])
def test_what_is_no_decoder_is_refused_by_every_command(
    run: Run, model: Model, steer_file: Path, arch: str
) -> None:
    path, threads = model(arch), ("-t", 1)
    for words in (
        ("run", path, "--raw", "-p", "hi", *threads),
        ("map", path, "--steer", steer_file, "-p", "hi", *threads),
        ("learn", path, "--trait", "You are a pirate.", "-o", "new.steer", *threads),
        ("doctor", path, *threads),
    ):
        refused(run(*words), path.name, f"architecture {arch}", "expected a decoder")


@pytest.mark.parametrize("command", ["run", "map"])
def test_a_prompt_that_the_context_cannot_hold_is_one_clear_line(
    run: Run, command: str, tiny: Path, steer_file: Path
) -> None:
    words = [command, tiny, "--steer", steer_file, "-c", 64, "-t", 1, "-p", "word " * 200]
    refused(run(*words), "the prompt is too long", "larger -c")


@pytest.mark.parametrize("size", [64, 256])
def test_a_reply_ends_where_the_context_is_full(run: Run, size: int, tiny: Path, steer_file: Path) -> None:
    """Also at a size that llama.cpp rounds up."""
    words = [tiny, "--steer", steer_file, "-p", "the ship", "-c", size, "-n", 1000, "-t", 1, "--json"]
    reply, shown = run("run", *words), run("map", *words)
    assert (reply.exit_code, reply.stderr) == (shown.exit_code, shown.stderr) == (0, "")
    assert json.loads(reply.stdout)["map"] == json.loads(shown.stdout)
    assert size - 1 <= len(json.loads(shown.stdout)["tokens"]) <= size


@pytest.mark.parametrize(
    "option",
    [
        ("-c", 10**12),
        ("-t", 10**12),
        ("--temperature", "nan"),
        ("--temp", "inf"),
        ("--repeat-penalty", "nan"),
        ("--seed", -1),
        ("--seed", 2**32),
    ],
)
def test_numbers_that_would_end_the_process_or_mean_nothing_are_wrong_usage(
    run: Run, tiny: Path, option: tuple[object, ...]
) -> None:
    refused(run("run", tiny, "-p", "hello", *option), str(option[0]), code=2)


@pytest.mark.parametrize("name", ["tea.txt", "tea", "m.gguf"])
def test_a_page_replaces_nothing_that_is_no_page_even_by_force(
    run: Run, tiny: Path, steer_file: Path, name: str
) -> None:
    """A typing error must not overwrite a model."""
    Path(name).write_text("mine")
    words = ("map", tiny, "--steer", steer_file, "-p", "x", "--html", name, "--force")
    refused(run(*words), "expected NAME.html", code=2)
    assert Path(name).read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_what_is_no_ordinary_file_is_not_written_over(run: Run, tiny: Path, steer_file: Path) -> None:
    os.mkfifo("pipe.html")
    words = ("map", tiny, "--steer", steer_file, "-p", "x", "--html", "pipe.html", "--force")
    refused(run(*words), "pipe.html", "not a regular file")


@pytest.mark.parametrize("command", ["run", "map"])
@pytest.mark.parametrize("prompt", [(), ("-p", "caf\udce9")])
def test_a_prompt_that_is_not_utf8_is_wrong_usage(
    run: Run, tiny: Path, steer_file: Path, command: str, prompt: tuple[str, ...]
) -> None:
    result = run(command, tiny, "--steer", steer_file, *prompt, input=b"\xff\xfe bad")
    refused(result, "not UTF-8", code=2)


def test_learn_refuses_before_it_works(run: Run, tiny: Path, steer_file: Path) -> None:
    before = steer_file.read_bytes()
    trait = ["--trait", "You are a pirate."]
    Path("none.txt").write_text("\n\n")
    for args, *texts in (
        ([*trait, "-o", "p.steer"], "p.steer", "--force"),
        ([*trait, "-o", "no/x.steer"], "no folder"),
        (["--trait", " ", "-o", "x.steer"], "trait is empty"),
        ([*trait, "--opposite", "you are a PIRATE.", "-o", "x.steer"], "expected two that differ"),
        ([*trait, "-o", "x.steer", "--questions", "none.txt"], "none.txt"),
    ):
        refused(run("learn", tiny, *args), *texts)
    refused(run("learn", tiny, *trait, "-o", "x.gguf"), "convert", code=2)
    refused(run("learn", tiny, *trait, "--blocks", "some", "-o", "x.steer"), "--blocks", code=2)
    assert steer_file.read_bytes() == before
    assert not [path for path in Path().iterdir() if path.name.startswith("x.")]


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_learn_goes_on_after_ctrl_c_and_writes_a_bundle_that_steers(
    run: Run, on: tuple[object, ...], tiny: Path
) -> None:
    """Stopped while it samples; then again, and to the same bytes as in one go."""
    Path("q.txt").write_text("".join(f"What should I know about the number {i}?\n" for i in range(96)))
    words = ["learn", tiny, "--effort", "quick", "--trait", "You are a pirate.", "--questions", "q.txt"]
    words += ["-n", 24, "-t", 1, "--method", "constant", "--blocks", 1, "--name", "p", "--json", "-o"]
    child = subprocess.Popen(
        [sys.executable, "-m", "edgesteer", *map(str, words), "x.steer"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    part = Path("x.steer.part")
    while child.poll() is None and not (part.exists() and part.read_bytes().count(b"\n") > 1):
        time.sleep(0.001)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (130, ""), err
    assert "x.steer.part keeps what was sampled" in err
    assert err.rstrip().endswith("edgesteer: interrupted")
    assert "Traceback" not in err
    assert sorted(path.name for path in Path().iterdir()) == ["q.txt", "x.steer.part"]
    for name in ("x.steer", "whole.steer"):
        result = run(*words, name)
        assert result.exit_code == 0, result.stderr
    assert not part.exists()
    assert Path("x.steer").read_bytes() == Path("whole.steer").read_bytes()
    summary = json.loads(result.stdout)
    assert summary["kept"] + sum(summary["dropped"].values()) == summary["sampled"]
    assert summary["sampled"] == 96 - EFFORTS["quick"].measured
    assert run("verify", "x.steer").exit_code == 0
    assert run("run", *on, "--steer", "x.steer:4").stdout != run("run", *on).stdout


SWITCH = "{% if loud is defined and loud %}{{ '<|im_start|>' }}{% endif %}" + CHATML


def test_a_bundle_brings_the_template_arguments_that_this_models_template_uses(
    run: Run, tiny: Path, tmp_path: Path
) -> None:
    switched = write_tiny(tmp_path / "switched.gguf", "llama", chat_template=SWITCH)
    base = write_tiny(tmp_path / "base.gguf", "llama", chat_template=None)
    for name, loud in (("on", True), ("off", False)):
        random_bundle(tiny, tmp_path / f"{name}.steer", template_args={"loud": loud})
    options = ("-t", 1, "-n", 8, "--json")

    def reply(
        command: str, model: Path, *more: str, prompt: tuple[str, ...] = ("-p", "Hi")
    ) -> tuple[str, str]:
        result = run(command, model, *more, *prompt, *options, input=None if prompt else "Hi\n")
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)["reply"], result.stderr

    loud = reply("run", switched, "--steer", "on.steer:0")
    quiet = reply("run", switched, "--steer", "off.steer:0")
    assert loud[0] != quiet[0]
    assert loud[1] == quiet[1] == ""
    assert reply("run", switched, "--steer", "on.steer:0", "--template-arg", "loud=false") == quiet
    assert reply("chat", switched, "--steer", "on.steer:0", prompt=()) == loud
    both, note = reply("run", switched, "--steer", "on.steer:0", "--steer", "off.steer:0")
    assert both == loud[0]
    assert "off was learnt with the template argument loud=false, another bundle with true" in note
    for model, more in ((tiny, ()), (base, ("--raw",))):
        plain, note = reply("run", model, "--steer", "on.steer:0", *more)
        assert plain == reply("run", model, *more)[0]
        assert "loud=true, which this model's template does not use" in note
