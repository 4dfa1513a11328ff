"""`learn` with training, from one sentence to a bundle: llama.cpp and Torch on the same tiny random GGUF."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click.testing
import pytest

from edgesteer import SteeredLlama
from edgesteer.bundle import Bundle, load, save, verify
from edgesteer.cli import main
from edgesteer.cli.learn import resume_hint
from edgesteer.errors import ModelError
from edgesteer.learn import EFFORTS, Effort, Recipe, learn
from edgesteer_converters.train import TorchModel, checkpoints, trainer
from tests.learn.support import LENIENT

TRAIT = "You talk like a pirate, arr."
ASKED = ["Why is it so?", "Tell me a tale.", "What is a key?", "Who are you?"]
WAYS: dict[str, dict[str, Any]] = {
    "A-Const": {"method": "constant"},
    "S-PSR": {"blocks": "one"},
    "scope conversation, from two sentences": {"scope": "conversation", "opposite": "You are a sober clerk."},
}
SHORT: dict[str, Any] = {"max_tokens": 6}


@pytest.fixture(scope="module")
def llm(model: Callable[[str], Path]) -> Iterator[SteeredLlama]:
    opened = SteeredLlama(model("llama"), n_ctx=1024, n_seq_max=4, n_threads=1, n_threads_batch=1)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few steps of each training."""
    monkeypatch.setitem(EFFORTS, "normal", Effort(8, (3, 2), 4))


@pytest.mark.parametrize("way", WAYS)
def test_every_form_is_trained_and_its_bundle_is_valid(
    llm: SteeredLlama, model: Callable[[str], Path], tmp_path: Path, way: str
) -> None:
    recipe, paths = Recipe(**SHORT, **WAYS[way]), [tmp_path / "a.steer", tmp_path / "b.steer"]
    for path in paths:
        train = trainer(model("llama"), device="cpu")
        bundle, summary = learn(llm, TRAIT, recipe, questions=ASKED, trainer=train, limits=LENIENT)
        save(bundle, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    verify(paths[0])
    read = load(paths[0])
    assert (read.kind, read.scope) == ("vector" if recipe.method == "constant" else "psr", recipe.scope)
    assert recipe.blocks == "all" or len(read.layers) == 1
    assert summary.method == f"{recipe.label}+KL"
    assert read.training["trained"] == summary.trained
    assert (read.strength.min < 0) == (recipe.opposite is not None)


@pytest.fixture(scope="module")
def frozen(model: Callable[[str], Path]) -> TorchModel:
    return TorchModel.load(model("llama"))


@pytest.fixture(scope="module")
def unbroken(llm: SteeredLlama, frozen: TorchModel) -> Bundle:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EFFORTS, "normal", Effort(8, (3, 2), 4))
        train = trainer(frozen, device="cpu")
        return learn(llm, TRAIT, Recipe(**SHORT), questions=ASKED, limits=LENIENT, trainer=train)[0]


@pytest.mark.parametrize(
    ("at", "files"),
    [
        (("sample", 1), 0), (("train", 6), 1), (("own replies", 1), 1), (("train again", 6), 2),
        (("choose", 0), 2),
    ],
)  # fmt: skip
def test_a_run_that_stopped_anywhere_is_resumed_to_the_same_bundle(
    llm: SteeredLlama,
    frozen: TorchModel,
    tmp_path: Path,
    unbroken: Bundle,
    at: tuple[str, int],
    files: int,
) -> None:
    """at: the stage, and how many reports of it come before the interruption. files: checkpoints by then."""
    part, checkpoint, stages = tmp_path / "p.part", tmp_path / "p.checkpoint", list[str]()

    def stop(stage: str, fraction: float) -> None:
        stages.append(stage)
        if stage == at[0] and stages.count(stage) > at[1]:
            raise KeyboardInterrupt

    def run(**more: Any) -> Bundle:
        train = trainer(frozen, checkpoint=checkpoint, device="cpu")
        how: dict[str, Any] = {"questions": ASKED, "limits": LENIENT, "trainer": train, "part": part, **more}
        return learn(llm, TRAIT, Recipe(**SHORT), **how)[0]

    with pytest.raises(KeyboardInterrupt):
        run(progress=stop)
    kept = {file: file.read_bytes() for file in checkpoints(checkpoint) if file.exists()}
    assert len(kept) == files
    assert run() == unbroken
    if at[0] == "choose":
        assert {file: file.read_bytes() for file in kept} == kept  # nothing was trained again


# -- the command -------------------------------------------------------------------------------------

Run = Callable[..., click.testing.Result]


@pytest.fixture
def run(model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run("--effort", "normal")`: the command on the tiny model, to p.steer in an empty working directory.
    The replies are given, for those of a random model would be dropped."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    lines = [json.dumps({"question": question, "reply": f"Arr, {question}"}) for question in ASKED]
    (tmp_path / "asked.jsonl").write_text("\n".join(lines))
    given = ("-o", "p.steer", "--questions", "asked.jsonl", "--trait", TRAIT)
    given += ("--max-tokens", 6, "--threads", 1, "--ctx-size", 1024)

    def invoke(*more: object, arch: str = "llama") -> click.testing.Result:
        words = [str(one) for one in ("learn", model(arch), *given, *more)]
        return click.testing.CliRunner().invoke(main, words)

    return invoke


def test_the_command_says_what_the_training_reached_and_leaves_no_checkpoint(
    run: Run, tmp_path: Path
) -> None:
    done = run()
    assert done.exit_code == 0, done.output
    assert "A-PSR+KL" in done.stdout
    assert "trained    KL from the prompted model" in done.stdout
    assert "--effort thorough" in done.stdout
    assert not list(tmp_path.glob("p.steer.*"))
    assert load(tmp_path / "p.steer").training["effort"] == "normal"


def test_quick_needs_no_torch_and_names_what_the_next_effort_brings(run: Run, tmp_path: Path) -> None:
    done = run("--effort", "quick")
    assert done.exit_code == 0, done.output
    assert "p.steer: A-PSR, " in done.stdout
    assert "trained" not in done.stdout.replace("--effort normal", "")
    assert "--effort normal" in done.stdout


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_without_torch_the_closed_form_is_learnt_and_what_to_install_is_said(
    run: Run, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    for name in [name for name in sys.modules if name.startswith("edgesteer_converters")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    done = run()
    assert done.exit_code == 0, done.output
    assert "p.steer: A-PSR, " in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("more")]
    assert "pip install 'edgesteer[convert]'" in line


def test_a_model_that_transformers_cannot_read_is_learnt_in_closed_form(run: Run) -> None:
    done = run(arch="olmo2")
    assert done.exit_code == 0, done.output
    assert "p.steer: A-PSR, " in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("more")]
    assert "this model cannot be trained in Torch (" in line
    assert "olmo2" in line


def test_a_model_that_takes_more_memory_than_it_may_is_refused(model: Callable[[str], Path]) -> None:
    with pytest.raises(ModelError, match=r"llama.*GiB in Torch; expected at most the 0\.0 GiB") as caught:
        trainer(model("llama"), device="cpu", memory=1000)
    assert "\n" not in str(caught.value)
    trainer(model("llama"), device="cpu", memory=1 << 30)


def test_a_file_in_the_checkpoints_place_is_refused_before_the_sampling(run: Run, tmp_path: Path) -> None:
    (tmp_path / "p.steer.checkpoint").write_text("a note")
    refused = run()
    assert refused.exit_code == 1
    assert "p.steer.checkpoint" in refused.stderr.splitlines()[-1]
    assert not (tmp_path / "p.steer.part").exists()
    assert (tmp_path / "p.steer.checkpoint").read_text() == "a note"


@pytest.mark.parametrize("files", [(), ("p.part",), ("p.part", "p.checkpoint")])
def test_ctrl_c_names_the_files_that_the_same_command_resumes_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: tuple[str, ...]
) -> None:
    for name in files:
        (tmp_path / name).write_text("kept")
    with pytest.raises(KeyboardInterrupt), resume_hint(tmp_path / "p.part", tmp_path / "p.checkpoint"):
        raise KeyboardInterrupt
    error = capsys.readouterr().err
    assert [name for name in ("p.part", "p.checkpoint") if name in error] == list(files)
    assert ("the same command resumes" in error) is bool(files)
