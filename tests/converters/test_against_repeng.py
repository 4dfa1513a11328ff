"""edgesteer beside repeng: the same vector on the same prompts gives the same replies, and every ratio is
there.

With the real repeng where it is installed, and with a stand-in of the part that is used.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from edgesteer import SteeredLlama
from edgesteer.bundle import Bundle, read_model_info
from edgesteer.errors import MissingExtra, ModelError
from edgesteer_converters.against_repeng import (
    OURS,
    RATIOS,
    THEIRS,
    against_repeng,
    need_repeng,
    summary,
    timed_replies,
)
from edgesteer_converters.against_repeng import prompts as as_prompts

QUESTIONS = ["Why is it so?", "Tell me a tale.", "hm"]


@dataclass
class _ControlVector:
    model_type: str
    directions: dict[int, np.ndarray]


class _ControlModel:
    """repeng's, by hooks."""

    def __init__(self, model: Any, layer_ids: Any) -> None:
        self.model, self.added = model, {}
        for n in layer_ids:
            model.model.layers[n].register_forward_hook(lambda m, a, out, n=n: out + self.added.get(n, 0))

    def set_control(self, control: _ControlVector, coeff: float) -> None:
        self.added = {n: torch.tensor(coeff * v) for n, v in control.directions.items()}

    def reset(self) -> None:
        self.added = {}

    def __call__(self, **inputs: Any) -> Any:
        return self.model(**inputs)


STAND_IN = SimpleNamespace(ControlVector=_ControlVector, ControlModel=_ControlModel)


@pytest.fixture(params=["stand-in", "repeng"])
def repeng(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "stand-in":
        monkeypatch.setitem(sys.modules, "repeng", STAND_IN)
    elif importlib.util.find_spec("repeng") is None:
        pytest.skip("repeng is not installed")


@pytest.fixture(scope="module")
def tiny(model: Callable[[str], Path]) -> str:
    return str(model("llama"))


@pytest.fixture(scope="module")
def bundle(tiny: str) -> Bundle:
    """Strong enough to change the replies."""
    info = read_model_info(tiny)
    rng = np.random.default_rng(3)
    directions = {n: rng.standard_normal(info.n_embd).astype(np.float32) for n in (1, 2)}
    return Bundle.build(name="strong", directions=directions, model=info, scope="response")


@pytest.mark.usefixtures("repeng")
def test_both_reply_alike_under_the_same_vector_and_every_ratio_is_a_ratio(tiny: str, bundle: Bundle) -> None:
    replies = timed_replies(tiny, bundle, QUESTIONS, 5, 1)
    tokens = {name: [reply.tokens for reply in each] for name, each in replies.items()}
    assert tokens[f"{OURS} unsteered"] == tokens[f"{THEIRS} unsteered"]
    assert tokens[f"{OURS} steered"] == tokens[f"{THEIRS} steered"] != tokens[f"{OURS} unsteered"]
    assert {len(reply) for each in tokens.values() for reply in each} == {5}
    table = summary(replies)
    assert table["first_tokens_alike"] == {"unsteered": 1.0, "steered": 1.0}
    assert set(table["ratios"]) == set(RATIOS)
    values = [v for part in ("ways", "ratios") for row in table[part].values() for v in row.values()]
    assert all(0 < value < math.inf for value in values)
    alone = summary({name: each[:1] for name, each in replies.items()})
    for which, (one, other) in RATIOS.items():  # of a single prompt the ratio is that of the medians
        for what, ratio in alone["ratios"][which].items():
            assert ratio == pytest.approx(alone["ways"][one][what] / alone["ways"][other][what])


@pytest.mark.usefixtures("repeng")
def test_threads_are_as_before_and_progress_is_reported(tiny: str, bundle: Bundle) -> None:
    threads, parts = torch.get_num_threads(), list[float]()
    table = against_repeng(tiny, bundle, QUESTIONS[:1], 2, 1, parts.append)
    assert (table["bundle"], table["prompts"], table["tokens"], table["strength"]) == ("strong", 1, 2, 1.0)
    assert torch.get_num_threads() == threads
    assert parts == [0.0]


def test_a_model_without_a_chat_template_gets_the_questions_as_they_stand(tmp_path: Path) -> None:
    from tests.tiny import write_tiny

    path = write_tiny(tmp_path / "base.gguf", "llama", chat_template=None)
    llm = SteeredLlama(path, n_ctx=64, n_threads=1)
    given = as_prompts(llm, QUESTIONS)
    texts = [llm.detokenize(prompt[1:]).decode() for prompt in given]
    llm.close()
    assert texts == QUESTIONS


@pytest.mark.parametrize("package", ["repeng", "torch", "transformers"])
def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingExtra, match=rf"(^|, ){package}(, \w+)?: not installed; needed to compare with .*pip install"
    ):
        need_repeng()


def test_numpy_is_as_it_was_after_the_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "repeng", STAND_IN)
    before = hasattr(np, "float_")
    assert need_repeng() is STAND_IN
    assert hasattr(np, "float_") == before


class _Incapable(_ControlModel):
    def __call__(self, **inputs: Any) -> Any:
        raise AttributeError("'ControlModule' object has no attribute 'attention_type'")


class _Unknowing(_ControlModel):
    def __init__(self, model: Any, layer_ids: Any) -> None:
        raise ValueError(f"don't know how to get layer list for {type(model)}")


@pytest.mark.parametrize("control", [_Incapable, _Unknowing])
def test_a_model_that_repeng_cannot_run_is_one_line(
    tiny: str, bundle: Bundle, control: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    standing = SimpleNamespace(ControlVector=_ControlVector, ControlModel=control)
    monkeypatch.setitem(sys.modules, "repeng", standing)
    with pytest.raises(ModelError, match="repeng cannot run it") as caught:
        against_repeng(tiny, bundle, QUESTIONS[:1], 2, 1)
    assert "\n" not in str(caught.value)
