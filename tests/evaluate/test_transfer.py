"""Transfer: requantized copies keep the base, are steered as the file is, and leave nothing behind."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesteer import Bundle
from edgesteer.bundle import read_model_info
from edgesteer.errors import IncompatibleError, InputError, OutputError
from edgesteer.evaluate.transfer import FILE_TYPES, SCORES, Transfer, divergence, transfer
from edgesteer.generate import Chat
from edgesteer.plan import SteeringPlan
from edgesteer.report.transfer import lines
from edgesteer.runtime.quantize import folder_for_copies
from tests.runtime.support import psr, vector
from tests.tiny import tiny_model

TRAIT = "You are a pirate."
QUESTIONS = ["Why?", "The weather in the west", "ships"]
N = 12


@pytest.fixture(scope="module")
def result(chat: Chat, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Transfer]:
    folder = tmp_path_factory.mktemp("copies")
    steps: list[tuple[str, float]] = []
    yield transfer(
        chat,
        psr(Path(chat.llm.model_path), size=0.5),
        TRAIT,
        QUESTIONS,
        strength=0.9,
        max_tokens=N,
        folder=folder,
        progress=lambda stage, part: steps.append((stage, part)),
    )
    assert not list(folder.iterdir())
    parts = [part for _, part in steps]
    assert parts == sorted(parts)
    assert steps[-1] == ("done", 1.0)
    assert {"write Q4_0", "Q4_0", "F32"} <= {stage for stage, _ in steps}


def test_each_copy_is_steered(result: Transfer) -> None:
    assert [trial.file_type for trial in result.trials] == ["F32", *FILE_TYPES]
    assert [trial.copy for trial in result.trials] == [False, True, True, True]
    for trial in result.trials:
        assert trial.estimates["kl"].low > 0
        assert trial.replies != trial.unsteered
        assert trial.minus_unsteered.keys() == set(SCORES)
    sizes = {trial.file_type: trial.file_bytes for trial in result.trials}
    assert sizes["Q4_0"] < sizes["Q8_0"] < sizes["F16"] < sizes["F32"]


def test_the_first_is_what_the_others_are_compared_with(result: Transfer) -> None:
    first, *copies = result.trials
    assert {(e.value, e.low, e.high) for e in first.minus_first.values()} == {(0.0, 0.0, 0.0)}
    for trial in copies:
        for key, each in trial.minus_first.items():
            assert each.value == pytest.approx(trial.estimates[key].value - first.estimates[key].value)
    near = {trial.file_type: abs(trial.minus_first["kl"].value) for trial in copies}
    assert near["F16"] < near["Q4_0"]


def test_the_card_says_what_it_was_learnt_and_tried_on(result: Transfer, chat: Chat) -> None:
    values = result.for_manifest()
    assert values["learnt_on"] == "F32"
    assert list(values["tried_on"]) == ["F32", *FILE_TYPES]
    bundle = psr(Path(chat.llm.model_path)).with_metadata(evaluation={"transfer": values})
    assert bundle.evaluation["transfer"] == values
    assert "tried_on" in (bundle.card or "")
    assert json.loads(json.dumps(result.to_json(), allow_nan=False))["trials"][1]["file_type"] == "Q4_0"


def test_the_report_fits_a_terminal(result: Transfer) -> None:
    text = list(lines(result))
    assert max(map(len, text)) <= 100
    assert sum(line.startswith("Q4_0 ") for line in text) >= 2
    assert "Requantized from F32: Q4_0, Q8_0, F16." in " ".join(text)


def test_steering_that_does_nothing_moves_nothing(chat: Chat) -> None:
    prompts = [chat.prompt(q) for q in QUESTIONS]
    replies = chat.replies(prompts, N)
    assert divergence(chat, SteeringPlan(), prompts, replies).tolist() == [0.0] * len(QUESTIONS)
    plans = [SteeringPlan.of([(vector(Path(chat.llm.model_path)), s, None)]) for s in (0.5, 1.0)]
    weak, strong = (divergence(chat, plan, prompts, replies) for plan in plans)
    assert (weak > 0).all()
    assert (strong > weak).all()


def test_a_reply_without_a_token_has_no_divergence(chat: Chat) -> None:
    prompts = [chat.prompt(q) for q in QUESTIONS]
    plan = SteeringPlan.of([(vector(Path(chat.llm.model_path)), 1.0, None)])
    replies = [dataclasses.replace(chat.replies(prompts[:1], N)[0], tokens=[]), *chat.replies(prompts[1:], N)]
    assert np.isnan(divergence(chat, plan, prompts, replies)).tolist() == [True, False, False]


def test_the_files_own_type_is_not_written_again(chat: Chat, tmp_path: Path) -> None:
    bundle = vector(Path(chat.llm.model_path), size=0.5)
    tried = transfer(chat, bundle, TRAIT, QUESTIONS[:1], file_types=["F32", "F16", "F16"], max_tokens=4)
    assert [trial.file_type for trial in tried.trials] == ["F32", "F16"]


def test_another_base_is_refused(chat: Chat, model: Callable[[str], Path], tmp_path: Path) -> None:
    def tried(bundle: Bundle) -> None:
        transfer(chat, bundle, TRAIT, QUESTIONS, max_tokens=4, folder=tmp_path)

    other = tiny_model("llama", tmp_path, seed=7)
    assert read_model_info(other).base_sha256 != chat.llm.model_info.base_sha256
    with pytest.raises(IncompatibleError, match="other base weights"):
        tried(vector(other))
    with pytest.raises(IncompatibleError, match="architecture"):
        tried(vector(model("qwen2")))
    assert [path.name for path in tmp_path.iterdir()] == [other.name]


def test_nothing_is_left_after_ctrl_c(chat: Chat, tmp_path: Path) -> None:
    bundle = vector(Path(chat.llm.model_path), size=0.5)

    def interrupted(stage: str, part: float) -> None:
        if stage == "Q8_0" and part > 0.3:
            assert list(tmp_path.glob("*/*.gguf"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        transfer(
            chat,
            bundle,
            TRAIT,
            QUESTIONS,
            max_tokens=4,
            folder=tmp_path,
            file_types=["Q8_0"],
            progress=interrupted,
        )
    assert not list(tmp_path.iterdir())
    assert not chat.llm.steering


_HOLD = """
import sys, time
from edgesteer.runtime.quantize import folder_for_copies
with folder_for_copies(sys.argv[1]) as folder:
    (folder / "copy.gguf").write_text("weights")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_left_is_deleted_by_the_next(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            (theirs,) = tmp_path.iterdir()
            (tmp_path / "other").mkdir()
            (tmp_path / "other" / "lock").touch()
            with folder_for_copies(tmp_path):
                assert (theirs / "copy.gguf").exists()  # still in use
        finally:
            process.kill()
    assert theirs.exists()
    with folder_for_copies(tmp_path) as folder:
        assert {*tmp_path.iterdir()} == {folder, tmp_path / "other"}
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    with (
        pytest.raises(OutputError, match="no folder for copies can be made"),
        folder_for_copies(tmp_path / "none"),
    ):
        pass


def test_bad_input_is_refused_before_anything_is_measured(chat: Chat) -> None:
    bundle = vector(Path(chat.llm.model_path))
    bad: list[tuple[str, dict[str, Any]]] = [
        ("no questions", {"questions": []}),
        ("trait is empty", {"trait": " "}),
        ("steers nothing", {"strength": 0.0}),
        ("file type 'Q9': expected one of F32", {"file_types": ["Q9"]}),
    ]
    for match, change in bad:
        given: dict[str, Any] = {"bundle": bundle, "trait": TRAIT, "questions": QUESTIONS, **change}
        with pytest.raises(InputError, match=match):
            transfer(chat, **given)
