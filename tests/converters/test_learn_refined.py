"""`learn --refine` from one sentence to a bundle that steers: llama.cpp and Torch on the same tiny random GGUF."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import pytest

from edgesteer import SteeredLlama
from edgesteer.bundle import load, save, verify
from edgesteer.cli import main
from edgesteer.learn import Recipe, course, learn
from edgesteer_converters.train import trainer
from edgesteer_converters.train.trainer import AGAIN, DEFAULTS, Trainer
from tests.learn.support import keep_every_reply

TRAIT = "You talk like a pirate, arr."
ASKED = ["Why is it so?", "Tell me a tale.", "What is a key?", "Who are you?"]
WAYS: dict[str, dict[str, Any]] = {
    "A-Const": {"method": "constant"},
    "S-Const": {"method": "constant", "blocks": "one"},
    "S-PSR": {"blocks": "one"},
    "scope conversation": {"scope": "conversation"},
    "from two sentences": {"opposite": "You are a sober clerk."},
}
LEARN = ("--trait", TRAIT, "--max-tokens", 6, "--emphasis", "never", "--threads", 1, "--ctx-size", 1024)


@pytest.fixture(scope="module")
def llm(model: Callable[[str], Path]) -> Iterator[SteeredLlama]:
    opened = SteeredLlama(model("llama"), n_ctx=1024, n_seq_max=4, n_threads=1, n_threads_batch=1)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every reply of a babbling model is kept, so is what was trained, and each objective is for two epochs."""
    keep_every_reply(monkeypatch)
    monkeypatch.setattr("edgesteer.learn.course.better", lambda closed, trained: trained)
    for settings in (*DEFAULTS.values(), *AGAIN.values()):
        monkeypatch.setitem(settings, "epochs", 2)


@pytest.mark.parametrize("way", WAYS)
def test_every_form_is_trained_and_the_bundle_is_valid(
    llm: SteeredLlama, model: Callable[[str], Path], tmp_path: Path, way: str
) -> None:
    recipe = Recipe(max_tokens=6, emphasis="never", **WAYS[way])
    refining = Recipe(max_tokens=6, emphasis="never", refine="kl", **WAYS[way])
    closed, _ = learn(llm, TRAIT, recipe, questions=ASKED)
    bundle, summary = learn(
        llm, TRAIT, refining, questions=ASKED, trainer=trainer(model("llama"), device="cpu")
    )
    save(bundle, tmp_path / "r.steer")
    verify(tmp_path / "r.steer")
    read = load(tmp_path / "r.steer")
    assert (read.kind, read.scope) == (closed.kind, closed.scope)
    assert recipe.blocks == "all" or len(read.layers) == 1
    facts = read.training["refined"]
    assert facts == summary.refined
    assert facts["loss_after"] < facts["loss_before"]
    assert [point["step"] for point in facts["curve"]] == list(range(facts["steps"]))
    both = set(read.layers) & set(closed.layers)
    assert all(not np.array_equal(read.directions[n], closed.directions[n]) for n in both)
    seen = [pair.plain + pair.reply for pair in summary.pairs]  # where the mean coefficient is 1
    plain = [llm.capture(tokens) for tokens in seen]
    with llm.steered(read, scope="all"):
        steered = [llm.capture(tokens) for tokens in seen]
    assert any(
        not np.array_equal(x[n], y[n]) for x, y in zip(plain, steered, strict=True) for n in read.layers
    )


Run = Callable[..., click.testing.Result]


@pytest.fixture
def run(model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run("--refine", "kl")`: the command on the tiny model, to p.steer in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "asked.txt").write_text("\n".join(ASKED))
    given = ("learn", model("llama"), "-o", "p.steer", "--questions", "asked.txt", *LEARN)

    def invoke(*more: object) -> click.testing.Result:
        return click.testing.CliRunner().invoke(main, [str(one) for one in (*given, *more)])

    return invoke


def stop_after_training(patch: pytest.MonkeyPatch) -> None:
    """Ctrl-C when the strength of what was trained is to be found."""

    def retuned(*_: Any) -> Any:
        raise KeyboardInterrupt

    patch.setattr(course, "retuned", retuned)


def test_of_single_blocks_the_best_alone_is_trained(
    llm: SteeredLlama, model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ordinary, given = trainer(model("llama"), device="cpu"), []

    def noted(fits: Any, pairs: Any, **more: Any) -> Any:
        given.append(list(fits))
        return ordinary(fits, pairs, **more)

    bundle, _ = learn(
        llm,
        TRAIT,
        Recipe(max_tokens=6, emphasis="never", refine="kl", blocks="one"),
        questions=ASKED,
        trainer=noted,
    )
    assert given == [list(bundle.layers)] * 2  # and once more, on its own replies
    assert len(given[0]) == 1


@pytest.mark.parametrize(("measured", "trained"), [(1, 3), (4, 4)])
def test_questions_that_strengths_are_measured_on_are_not_trained_on_while_enough_others_are_left(
    llm: SteeredLlama,
    model: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    measured: int,
    trained: int,
) -> None:
    monkeypatch.setattr(course, "_N_MEASURED", measured)
    ordinary, given = trainer(model("llama"), device="cpu"), []

    def noted(fits: Any, pairs: Any, **more: Any) -> Any:
        given.append(list(pairs))
        return ordinary(fits, pairs, **more)

    recipe = Recipe(max_tokens=6, emphasis="never", refine="kl")
    bundle, summary = learn(llm, TRAIT, recipe, questions=ASKED, trainer=noted)
    first, again = given
    assert len(first) == trained == bundle.training["refined"]["replies"]
    assert {pair.question for pair in again} == {pair.question for pair in first}
    assert len(summary.pairs) == len(ASKED)


def test_ctrl_c_after_the_training_loses_nothing_of_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [tmp_path / f"p.steer.{end}" for end in ("part", "checkpoint", "checkpoint-again")]
    with monkeypatch.context() as patch:
        stop_after_training(patch)
        stopped = run("--refine", "kl")
    assert stopped.exit_code == 130
    assert all(path.exists() for path in left)
    assert all(path.name in stopped.stderr for path in left[:2])
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_one_epoch", None)  # nothing is trained twice
        done = run("--refine", "kl")
    assert done.exit_code == 0, done.output
    assert not any(path.exists() for path in left)
    refined = load(tmp_path / "p.steer").training["refined"]
    line = next(line for line in done.stdout.splitlines() if line.startswith("refined"))
    for told in (
        "kl",
        f"{refined['loss_before']:.3f}",
        f"{refined['loss_after']:.3f}",
        str(refined["steps"]),
        f"{refined['own']['loss_before']:.3f}",
    ):
        assert told in line.split()
    assert not any(line.startswith("refined") for line in run("--force").stdout.splitlines())


def test_a_checkpoint_that_other_arguments_left_is_replaced_with_a_warning(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after_training(patch)
        run("--refine", "kl")
    done = run("--refine", "mse", "--json")
    assert done.exit_code == 0, done.output
    assert [line for line in done.stderr.splitlines() if "warning" in line and "p.steer.checkpoint" in line]
    assert json.loads(done.stdout)["refined"]["objective"] == "mse"
    assert not (tmp_path / "p.steer.checkpoint").exists()


def test_a_file_in_the_checkpoints_place_is_refused_before_the_sampling(run: Run, tmp_path: Path) -> None:
    (tmp_path / "p.steer.checkpoint").write_text("a note")
    refused = run("--refine", "kl")
    assert refused.exit_code == 1
    assert "p.steer.checkpoint" in refused.stderr.splitlines()[-1]
    assert not (tmp_path / "p.steer.part").exists()
    assert (tmp_path / "p.steer.checkpoint").read_text() == "a note"
