"""The bench's table: every way is there, ratios are ratios, plans are those named. No time is held to
anything."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesteer.bundle import Bundle, ModelInfo, read_model_info
from edgesteer.errors import ModelError
from edgesteer.evaluate.bench import bench, memory, random_bundles, resident
from edgesteer.evaluate.bench.random_model import IN_SCOPE, constant, gated, kinds, steerable
from edgesteer.evaluate.bench.timing import (
    DEPTH,
    UNSTEERED,
    State,
    Timing,
    interleaved,
    native,
    one_token,
    open_states,
    plan_of,
    prefill,
)

OPTIONS = {"n_ctx": 256, "n_threads": 1, "n_threads_batch": 1}


@pytest.fixture(scope="module")
def tiny(model: Callable[[str], Path]) -> str:
    return str(model("llama"))


@pytest.fixture(scope="module")
def info(tiny: str) -> ModelInfo:
    return read_model_info(tiny)


@pytest.fixture(scope="module")
def told() -> list[float]:
    """The progress of `table`."""
    return []


@pytest.fixture(scope="module")
def table(tiny: str, info: ModelInfo, told: list[float]) -> dict[str, Any]:
    """With the real processes of `memory`."""
    bundles = {"mine": constant(info, [1]), "gated": gated(info, [1, 2])}
    return bench(tiny, bundles, rounds=5, prefills=1, runs=2, n_threads=1, progress=told.append)


def test_every_way_is_compared_with_the_unsteered_one(table: dict[str, Any]) -> None:
    ways = ["llama_cpp.Llama", UNSTEERED, "mine", "gated", native("gated")]
    for part in ("token", "prefill"):
        assert list(table[part]) == ways
        assert table[part][UNSTEERED]["ratio"] == 1.0
        for row in table[part].values():
            low, high = row["ratio_range"]
            assert 0 < low <= row["ratio"] <= high < math.inf
            assert 0 < row["seconds"] < math.inf
    assert list(table["strength_change"]) == ways[2:]
    assert set(table["load"]) == {"mine", "gated"}


def test_a_process_of_each_way_tells_its_peak(table: dict[str, Any]) -> None:
    assert set(table["memory"]) == {*table["token"]}
    plain = table["memory"][UNSTEERED]
    assert plain["added"] == 0
    for row in table["memory"].values():
        assert row["peak"] == plain["peak"] + row["added"] > 10**7


def test_the_plans_are_named_by_their_fingerprints(table: dict[str, Any], info: ModelInfo) -> None:
    gates = plan_of(gated(info, [1, 2]))
    assert table["plans"]["gated"] == {"fingerprint": gates.fingerprint, "blocks": [1, 2]}


def test_progress_goes_up_to_the_end(table: dict[str, Any], told: list[float]) -> None:
    assert told == sorted(told)
    assert 0 <= told[0] <= told[-1] == 1.0


# -- clocks ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ways(tiny: str, info: ModelInfo) -> Iterator[list[State]]:
    plans = {name: plan_of(bundle) for name, bundle in kinds(info, [1, 2]).items()}
    with open_states(tiny, plans, OPTIONS) as opened:
        yield opened


def test_each_way_is_in_force_when_it_is_timed(ways: list[State]) -> None:
    """Also a vector of scope response, although nobody said where the prompt ends."""
    seen: dict[str, set[str]] = {}

    def act(llm: Any) -> float:
        seconds = one_token(llm)
        assert llm.n_tokens == DEPTH
        llm.n_tokens = DEPTH + 2  # what one_token has evaluated
        steered = llm.kv_record()[-1]
        llm.n_tokens = DEPTH
        seen.setdefault(llm.steering.fingerprint, set()).add(f"{steered.applied != 0}")
        return seconds

    timing = interleaved(ways, 3, act)
    assert {name: len(found) for name, found in timing.seconds.items()} == {way.name: 3 for way in ways}
    for way in ways:
        assert way.plan is not None
        assert seen[way.plan.fingerprint] == {str(bool(way.plan))}, way.name
    assert IN_SCOPE in {way.name for way in ways}


def test_a_prefill_leaves_its_length(ways: list[State]) -> None:
    assert prefill(100)(ways[0].llm) > 0
    assert ways[0].llm.n_tokens == 100
    ways[0].llm.n_tokens = DEPTH


def test_ratios_are_taken_round_by_round() -> None:
    timing = Timing({UNSTEERED: [1.0, 10.0, 2.0], "slower": [2.0, 20.0, 4.0]})
    assert timing.ratio("slower") == 2.0
    assert timing.interval("slower") == [2.0, 2.0]
    assert timing.median("slower") == 4.0


@pytest.mark.parametrize("n", [1, 2, 5, 50, 1000])
def test_the_interval_holds_the_median(n: int) -> None:
    found = [1 + i / n for i in range(n)]
    timing = Timing({UNSTEERED: [1.0] * n, "way": found})
    low, high = timing.interval("way")
    assert found[0] <= low <= timing.ratio("way") <= high <= found[-1]
    if n == 1000:
        assert high - low < 0.1


# -- memory ----------------------------------------------------------------------------------------


def test_resident_and_peak_are_bytes() -> None:
    assert 10**7 < resident() < 10**12
    assert memory.peak() >= resident() * 0.5


def test_a_peak_is_not_that_of_the_process_that_asks() -> None:
    held = np.ones(200_000_000, np.uint8)
    code = "from edgesteer.evaluate.bench.memory import peak; print(peak())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < held.nbytes < memory.peak()


def test_a_process_that_fails_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="only runs it failed") as caught:
        memory.peaks(str(tmp_path / "none.gguf"), {}, OPTIONS)
    assert "\n" not in str(caught.value)


# -- random bundles --------------------------------------------------------------------------------


def test_random_bundles_follow_from_the_seed(info: ModelInfo) -> None:
    blocks = {name: list(bundle.layers) for name, bundle in random_bundles(info).items()}
    every, middle = list(range(1, info.n_layer)), [info.n_layer // 2]
    assert blocks == {"constant": every, "S-PSR": middle, "A-PSR": every}

    def digests(seed: int) -> dict[str, str]:
        return {name: bundle.digest for name, bundle in random_bundles(info, seed).items()}

    assert digests(0) == digests(0)
    assert not set(digests(0).values()) & set(digests(1).values())


@pytest.mark.parametrize("count", [1, 2, 3])
def test_as_many_blocks_as_asked_for(info: ModelInfo, count: int) -> None:
    blocks = steerable(info, count)
    assert len(set(blocks)) == count
    for bundle in kinds(info, blocks).values():
        assert isinstance(bundle, Bundle)
        assert list(bundle.layers) == blocks
