"""The dial: a change of strength is exact, reserves nothing, warns beyond the evaluated range, leaks
nothing."""

from __future__ import annotations

import gc
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import llama_cpp.llama_cpp as llama_h
import numpy as np
import pytest

from edgesteer import Bundle, EdgesteerWarning, SteeredLlama
from edgesteer.bundle import StrengthRange, read_model_info
from edgesteer.evaluate.bench import resident
from edgesteer.runtime import library
from tests.runtime.support import OPTIONS, directions, logits, psr, steered, tokens_of, vector

Model = Callable[[str], Path]
STRENGTHS = (1.0, -0.3, 2.5, 0.7)


@pytest.mark.parametrize("arch", ["llama", "gemma3", "gpt2", "smollm2"])
@pytest.mark.parametrize("kind", [vector, psr])
def test_a_turn_of_the_dial_gives_the_bits_of_steering_anew(
    model: Model, arch: str, kind: Callable[[Path], Bundle]
) -> None:
    path = model(arch)
    bundle = kind(path)
    dialled, anew = steered(path), steered(path)
    tokens = tokens_of(dialled, n=8)
    dialled.steer(bundle)
    plan = dialled.steering
    for strength in STRENGTHS:
        dialled.steer(plan * strength)
        anew.clear_steering()
        anew.steer(bundle, strength)
        assert dialled.steering == anew.steering
        assert np.array_equal(logits(dialled, tokens), logits(anew, tokens))


def test_blocks_that_leave_the_slots_act_no_more(model: Model) -> None:
    path = model("llama")
    one, other, both = vector(path, [1], seed=1), vector(path, [2], seed=2), vector(path, [1, 2], seed=3)
    llm = steered(path)
    tokens = tokens_of(llm)
    for bundle in (both, one, other, both, one):
        llm.steer(bundle)
        fresh = steered(path)
        fresh.steer(bundle)
        assert np.array_equal(logits(llm, tokens), logits(fresh, tokens))


def _reservations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes handed to llama_set_adapter_cvec, each of which makes the scheduler reserve anew."""
    calls: list[int] = []
    original = llama_h.llama_set_adapter_cvec

    def counted(context: object, data: object, size: int, *rest: int) -> int:
        calls.append(size)
        result: int = original(context, data, size, *rest)
        return result

    monkeypatch.setattr(llama_h, "llama_set_adapter_cvec", counted)
    return calls


def test_only_switching_slots_on_and_off_reserves(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    path = model("llama")
    llm = steered(path)
    llm.steerable()
    calls = _reservations(monkeypatch)
    llm.steer(vector(path))
    assert len(calls) == 1
    for strength in STRENGTHS:
        llm.steer(llm.steering * strength)
    llm.steer(vector(path, seed=1))
    llm.steer(vector(path, [1], seed=2))
    assert len(calls) == 1
    llm.clear_steering()
    assert len(calls) == 2
    llm.steer(psr(path))
    llm.steer(llm.steering * 0.5)
    llm.clear_steering()
    assert len(calls) == 2


def test_without_a_way_to_the_tensors_the_slots_are_set_anew(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "second_source", lambda: None)
    path = model("llama")
    llm, usual = steered(path), vector(path)
    llm.steer(usual)
    calls = _reservations(monkeypatch)
    tokens = tokens_of(llm)
    llm.steer(llm.steering * 0.5)
    assert len(calls) == 1
    llm.steer(llm.steering)
    assert len(calls) == 1
    monkeypatch.undo()
    other = steered(path)
    other.steer(usual, 0.5)
    assert np.array_equal(logits(llm, tokens), logits(other, tokens))


def test_the_second_source_is_found_and_lies_within_a_tensor() -> None:
    offset = library.second_source()
    assert offset is not None
    assert 0 < offset < library.function("ggml_tensor_overhead")()


def test_a_strength_beyond_the_evaluated_range_is_warned_of(model: Model) -> None:
    path = model("llama")
    bundle = Bundle.build(
        name="narrow",
        directions=directions(read_model_info(path)),
        model=read_model_info(path),
        strength=StrengthRange(1.0, 0.5, 1.5),
    )
    llm = steered(path)
    llm.steer(bundle, 1.5)
    for strength in (1.6, 0.4, -1.0):
        with pytest.warns(EdgesteerWarning, match=f"narrow: strength {strength:g} is outside .*0.5 to 1.5"):
            llm.steer(bundle, strength)
    with pytest.warns(EdgesteerWarning, match="narrow: strength -3"):
        llm.steer(llm.steering * 3.0)
    llm.steer(bundle, 0.0)
    assert not llm.steering


def test_ten_thousand_tokens_under_changing_plans_take_no_more_memory(model: Model) -> None:
    """On a tiny model; `make proof` does the same on the real one."""
    path = model("llama")
    options = {**OPTIONS, "logits_all": False, "n_ctx": 256, "n_threads": 1}
    grown = memory_growth(SteeredLlama(str(path), **options), path, tokens=10_000, settle=3_000)
    assert grown < 2_000_000


def memory_growth(llm: SteeredLlama, path: Path, *, tokens: int, settle: int) -> int:
    """Bytes that the process gained between `settle` generated tokens and all, the plan changed every 50."""
    bundles = [
        vector(path),
        psr(path),
        psr(path, [1], scope="response", seed=1),
        vector(path, scope="response"),
    ]
    plans = cycle([[], bundles[:1], bundles[1:2], bundles[2:], bundles[:2], bundles[3:]])
    prompt, at_first = tokens_of(llm), 0
    for i in range(0, tokens, 50):
        if i == settle:
            gc.collect()
            at_first = resident()
        llm.steer(next(plans))
        for j, _ in enumerate(llm.generate(prompt, temp=0)):
            if j == 25:
                llm.steer(llm.steering * 0.5)
            if j == 49:
                break
    gc.collect()
    return resident() - at_first
