"""`edgesteer scan` on a tiny random model: its output, its page, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import click.testing
import pytest

from edgesteer.bundle import save
from tests.cli.conftest import Run
from tests.runtime.support import psr, vector
from tests.tiny import write_tiny


@pytest.fixture
def here(run: Run, model: Callable[[str], Path], tmp_path: Path) -> Path:
    """The working folder: a model, bundles and files good and bad."""
    llama = model("llama")
    (tmp_path / "m.gguf").symlink_to(llama)
    made = psr(llama, scope="response", seed=1, size=0.5).with_metadata(
        training={"trait": "Talk like a pirate."}
    )
    save(made, tmp_path / "p.steer")
    save(vector(llama, [2]), tmp_path / "one.steer")
    save(vector(model("qwen2")), tmp_path / "other.steer")
    (tmp_path / "v.gguf").write_bytes(vector(llama, size=0.5).members["directions.gguf"])
    (tmp_path / "q.txt").write_text("Why is it so?\nWhat is a key?\n")
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "old.html").write_text("mine")
    return tmp_path


def scanned(run: Run, *args: object, steer: str = "p.steer") -> click.testing.Result:
    given = () if "--steer" in args else ("--steer", steer)
    return run("scan", "m.gguf", *given, "--questions", "q.txt", "-n", 4, "-t", 1, *args)


def test_it_prints_a_row_for_each_block_and_nothing_on_stderr(run: Run, here: Path) -> None:
    done = scanned(run)
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    rows = [line.split() for line in done.stdout.splitlines() if re.match(r" +\d+ ", line)]
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert "\x1b" not in done.stdout


def test_json_is_the_scan_and_the_same_in_every_run(run: Run, here: Path) -> None:
    done = scanned(run, "--json", "--norms", "3,1")
    data = json.loads(done.stdout)
    assert (data["unit"], data["sizes"], data["trait"]) == ("norm", [1.0, 3.0], "Talk like a pirate.")
    assert data["questions"] == ["Why is it so?", "What is a key?"]
    assert scanned(run, "--json", "--norms", "1,3").stdout == done.stdout


def test_the_trait_given_stands_before_the_bundles_own(run: Run, here: Path) -> None:
    assert json.loads(scanned(run, "--json", "--trait", "Be brief.").stdout)["trait"] == "Be brief."


@pytest.mark.parametrize("steer", ["v.gguf", "one.steer"])
def test_without_a_trait_the_gain_is_missing_and_named(run: Run, here: Path, steer: str) -> None:
    done = scanned(run, steer=steer)
    assert done.exit_code == 0, done.output
    assert "--trait TEXT" in " ".join(done.stdout.split())
    assert json.loads(scanned(run, "--json", steer=steer).stdout)["gain"] is None
    assert json.loads(scanned(run, "--json", "--trait", "Arr.", steer=steer).stdout)["gain"] is not None


def test_of_a_strength_the_sign_counts(run: Run, here: Path) -> None:
    plus, more, minus = (
        json.loads(scanned(run, "--json", steer=f"p.steer{text}").stdout) for text in ("", ":3", ":-0.5")
    )
    assert plus == more
    assert minus["strengths"] == [[-s for s in row] for row in plus["strengths"]]


def test_the_page_is_written_once_and_replaced_with_force(run: Run, here: Path) -> None:
    assert scanned(run, "--html", "s.html").exit_code == 0
    first = (here / "s.html").read_bytes()
    assert first.startswith(b"<!DOCTYPE html>")
    assert scanned(run, "--html", "old.html", "--force").exit_code == 0
    assert (here / "old.html").read_bytes() == first


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("--trait", "  "), 2, "--trait is empty"),
        (("--shares", "0.1", "--norms", "1"), 2, "give one of them"),
        *(((option, bad), 2, f"'{option}': {bad}: expected") for option in ("--shares", "--norms")
          for bad in ("0", "-1", "nan", "inf", "a", "0.1,,0.2", "")),
        (("--shares", ",".join(str(i) for i in range(1, 18))), 1, "17 norms"),
        (("--norms", "1e9"), 1, "at most"),
        (("-n", "0"), 2, "max-tokens"),
        (("--questions", "missing.txt"), 1, "missing.txt"),
        (("--questions", "empty.txt"), 1, "empty.txt"),
        (("--steer", "missing.steer"), 1, "missing.steer"),
        (("--steer", "p.steer:0"), 2, "strength 0"),
        (("--steer", "p.steer", "--steer", "one.steer"), 2, "one bundle"),
        (("--steer", "p.steer:nan"), 1, "not finite"),
        (("--steer", "other.steer"), 1, "architecture"),
        (("--html", "old.html"), 1, "--force"),
        (("--html", "no/such.html"), 1, "no folder"),
        (("-c", "256", "-n", "250"), 1, "larger context"),
        (("--template", "no field"), 1, "expected the fields"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_writes_nothing(
    run: Run, here: Path, args: tuple[str, ...], code: int, message: str
) -> None:
    before = {path.name: path.read_bytes() for path in here.iterdir() if path.is_file()}
    done = scanned(run, *args)
    assert (done.exit_code, done.stdout) == (code, ""), done.output
    assert message in done.stderr
    assert "internal error" not in done.stderr
    assert code == 2 or done.stderr.count("\n") == 1
    assert {path.name: path.read_bytes() for path in here.iterdir() if path.is_file()} == before


def test_an_existing_page_is_refused_before_anything_is_opened(run: Run, here: Path) -> None:
    done = run("scan", "no-such-model", "--steer", "missing.steer", "--html", "old.html")
    assert done.exit_code == 1
    assert "old.html: exists already" in done.stderr


def test_another_models_bundle_is_refused_before_a_missing_template(run: Run, here: Path) -> None:
    write_tiny(here / "bare.gguf", "llama", chat_template=None)
    for steer, message in (("other.steer", "architecture"), ("one.steer", "--template")):
        done = run("scan", "bare.gguf", "--steer", steer, "-t", 1)
        assert (done.exit_code, done.stdout) == (1, "")
        assert message in done.stderr
