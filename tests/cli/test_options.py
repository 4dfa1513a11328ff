"""How the text of `--steer` and llama.cpp's spellings becomes bundles and strengths."""

from pathlib import Path

import click
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesteer.cli.options import load_steering, parse_steer
from edgesteer.errors import BundleError, PlanError

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


@given(name=NAMES, strength=st.floats(allow_nan=False, allow_infinity=False))
def test_a_finite_tail_is_the_strength(name: str, strength: float) -> None:
    assert parse_steer(f"{name}:{strength!r}") == (name, strength)


@given(name=NAMES.filter(lambda text: ":" not in text))
def test_without_a_colon_there_is_no_strength(name: str) -> None:
    assert parse_steer(name) == (name, None)


@pytest.mark.parametrize("text", ["dir:a/b.steer", "b.steer:", "b.steer:strong", "C:\\b.steer"])
def test_a_tail_that_is_no_number_belongs_to_the_name(text: str) -> None:
    assert parse_steer(text) == (text, None)


def test_a_file_with_the_whole_name_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("take:2").write_bytes(b"")
    assert parse_steer("take:2") == ("take:2", None)
    assert parse_steer("take:2:3") == ("take:2", 3.0)


@pytest.mark.parametrize("tail", ["nan", "inf", "-inf", "1e999"])
def test_a_strength_that_is_not_finite_is_refused(tail: str) -> None:
    with pytest.raises(PlanError, match="finite"):
        parse_steer(f"b.steer:{tail}")


def test_a_bundle_brings_its_default_strength(bundle_file: Path) -> None:
    ((bundle, strength),) = load_steering(steer=(str(bundle_file),))
    assert strength == bundle.strength.default == 1.5
    ((_, strength),) = load_steering(steer=(f"{bundle_file}:-0.5",))
    assert strength == -0.5


def test_llama_cpps_spellings_mean_the_same_vector(vector_file: Path) -> None:
    plain = load_steering(control_vector=(str(vector_file),))
    scaled = load_steering(control_vector_scaled=(f"{vector_file}:1",))
    steered = load_steering(steer=(str(vector_file),))
    assert [s for _, s in plain] == [s for _, s in scaled] == [s for _, s in steered] == [1.0]
    assert plain[0][0].digest == scaled[0][0].digest == steered[0][0].digest
    assert plain[0][0].scope == "all"


def test_lists_are_split_at_commas(vector_file: Path) -> None:
    pairs = load_steering(control_vector_scaled=(f"{vector_file}:0.5,{vector_file}:-2",))
    assert [strength for _, strength in pairs] == [0.5, -2.0]


def test_a_bundle_as_control_vector_acts_on_every_token(bundle_file: Path) -> None:
    ((bundle, strength),) = load_steering(control_vector=(str(bundle_file),))
    assert (bundle.scope, strength) == ("all", 1.0)


def test_the_layer_range_is_inclusive_and_changes_the_identity(vector_file: Path) -> None:
    ((whole, _),) = load_steering(control_vector=(str(vector_file),))
    ((part, _),) = load_steering(control_vector=(str(vector_file),), layer_range=(2, 5))
    assert part.layers == (2, 5)
    assert all(np.array_equal(part.directions[n], whole.directions[n]) for n in part.layers)
    assert part.digest != whole.digest


def test_a_layer_range_that_leaves_nothing_is_refused(vector_file: Path) -> None:
    with pytest.raises(PlanError, match=r"3\.\.4.*1-2, 5"):
        load_steering(control_vector=(str(vector_file),), layer_range=(3, 4))


def test_usage_that_makes_no_sense_is_refused(vector_file: Path) -> None:
    with pytest.raises(click.UsageError):
        load_steering(steer=(str(vector_file),), layer_range=(1, 2))
    with pytest.raises(click.UsageError):
        load_steering(control_vector_scaled=(str(vector_file),))
    with pytest.raises(BundleError, match="absent"):
        load_steering(steer=("absent.steer:1",))
