"""The scaling studies: what was settings is what was steered, and every point is a ratio to the same context
unsteered."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edgesteer.bundle import ModelInfo, read_model_info
from edgesteer.errors import EdgesteerError
from edgesteer.evaluate.bench import STUDIES, Settings, scale
from edgesteer.evaluate.bench import scaling as studies
from edgesteer.evaluate.bench.random_model import A_PSR, CONSTANT, IN_SCOPE, constant
from edgesteer.evaluate.bench.timing import UNSTEERED, native
from edgesteer.runtime.joint_plan import JointPlan
from tests.tiny import write_tiny


@pytest.fixture(scope="module")
def tiny(model: Callable[[str], Path]) -> str:
    return str(model("llama"))


@pytest.fixture(scope="module")
def info(tiny: str) -> ModelInfo:
    return read_model_info(tiny)


@pytest.fixture
def settings(tiny: str) -> Settings:
    return Settings(tiny, rounds=5, prefills=1, n_threads=1, widths=(64, 128))


EXPECTED = {
    "blocks": [1, 2, 3],
    "bundles": [1, 2, 4, 8],
    "batch": [1, 2, 4, 8],
    "ubatch": [32, 128, 512],
    "width": [64, 128],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_each_way_has_a_point_for_each_number_asked_for(settings: Settings, name: str) -> None:
    told: list[float] = []
    study = scale(settings, [name], told.append)[name]
    ways = study["ways"]
    assert next(iter(ways)) == UNSTEERED
    assert {CONSTANT, A_PSR, native(A_PSR)} <= set(ways)
    for way, points in ways.items():
        assert [point["x"] for point in points] == EXPECTED[name], way
        for point in points:
            low, high = point["interval"]
            assert 0 < low <= point["ratio"] <= high < math.inf
            assert 0 < point["seconds"] < math.inf
    assert {point["ratio"] for point in ways[UNSTEERED]} == {1.0}
    assert told == sorted(told)
    assert all(0 <= done <= 1 for done in told)


def test_every_study_is_tested() -> None:
    assert list(STUDIES) == list(EXPECTED)


def test_a_plan_steers_as_many_blocks_as_its_number_says(info: ModelInfo) -> None:
    plans = studies.plans_by_blocks(info)
    assert list(plans) == EXPECTED["blocks"]
    for n, named in plans.items():
        assert {len(plan.layers) for plan in named.values()} == {n}
        assert len(named[CONSTANT].slots) == n
        operations = [JointPlan.of([named[way]]).operations for way in (IN_SCOPE, A_PSR)]
        assert len(operations[0]) == len(operations[1]) == n


def test_a_plan_holds_as_many_bundles_as_its_number_says(info: ModelInfo) -> None:
    for n, named in studies.plans_by_bundles(info).items():
        for plan in named.values():
            assert len(plan.terms) == n
            assert len({term.bundle.digest for term in plan.terms}) == n


def test_the_plans_are_the_same_each_time(info: ModelInfo) -> None:
    def fingerprints() -> list[str]:
        both = (studies.plans_by_blocks(info), studies.plans_by_bundles(info))
        return [plan.fingerprint for plans in both for named in plans.values() for plan in named.values()]

    assert fingerprints() == fingerprints()
    assert len(set(fingerprints())) == len(fingerprints()) - 3  # all blocks is what one bundle steers


@pytest.mark.parametrize(
    ("most", "found"), [(1, [1]), (2, [1, 2]), (8, [1, 2, 4, 8]), (29, [1, 2, 4, 8, 16, 29])]
)
def test_numbers_double_up_to_the_last(most: int, found: list[int]) -> None:
    assert studies.doubled(most) == found


@pytest.mark.parametrize("longer", [0.25, 1, 4, 1000])
def test_what_takes_longer_is_timed_less_often_but_often_enough(longer: float) -> None:
    rounds = Settings("x", 100, 1, 1).fewer(longer)
    assert studies.MIN_ROUNDS <= rounds <= 100
    assert (rounds < 100) == (longer > 1)


def test_batch_and_ubatch_time_the_bundles_given(settings: Settings, info: ModelInfo) -> None:
    own = Settings(settings.model, 5, 1, 1, {"mine": constant(info, [2])})
    study = scale(own, ["batch"])["batch"]
    assert list(study["ways"]) == [UNSTEERED, "mine"]


def test_studies_stand_in_the_order_asked_for(settings: Settings) -> None:
    assert list(scale(settings, ["width", "blocks"])) == ["width", "blocks"]
    assert scale(settings, []) == {}


def test_temporary_models_go_also_after_an_error(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: float) -> None:
        if list(tmp_path.rglob("*.gguf")):
            raise KeyboardInterrupt

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        scale(settings, ["width"], stop)
    assert not list(tmp_path.iterdir())


def test_a_model_with_nothing_to_steer_is_refused(tmp_path: Path) -> None:
    path = str(write_tiny(tmp_path / "one.gguf", "llama", n_layer=1))
    with pytest.raises(EdgesteerError, match="1 block"):
        scale(Settings(path, 5, 1, 1), ["blocks"])
