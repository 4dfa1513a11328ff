"""How the text of `--steer`, `--way` and llama.cpp's spellings becomes bundles, strengths and rows."""

from pathlib import Path

import click
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesteer.cli.options import path_of
from edgesteer.cli.steering import load_steering, parse_steer, parse_way, rows_of
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


# Names as a person gives them: no separators of a sum in them.
PLAIN = st.text(st.characters(codec="ascii", categories=["L", "N", "Po"], exclude_characters=":"), min_size=1)
STRENGTHS = st.none() | st.floats(-100, 100, allow_nan=False)


@given(
    name=st.none() | PLAIN.filter(lambda text: text.strip() == text),
    files=st.lists(st.tuples(PLAIN, STRENGTHS), min_size=1, max_size=4),
)
def test_a_way_names_a_sum(name: str | None, files: list[tuple[str, float | None]]) -> None:
    text = "+".join(file if strength is None else f"{file}:{strength:f}" for file, strength in files)
    rounded = [(file, None if strength is None else float(f"{strength:f}")) for file, strength in files]
    assert parse_way(text if name is None else f"{name}={text}") == (name, rounded)


@pytest.mark.parametrize(
    ("there", "text", "name", "files"),
    [
        ("a=b+c.steer", "a=b+c.steer", None, [("a=b+c.steer", None)]),
        ("a=b.steer", "a=b.steer:2+x", None, [("a=b.steer", 2.0), ("x", None)]),
        ("a=b.steer", "n=a=b.steer", "n", [("a=b.steer", None)]),
        ("a+b.steer", "n=x:1+a+b.steer:0.5+y", "n", [("x", 1.0), ("a+b.steer", 0.5), ("y", None)]),
        ("x.steer", "x.steer:1e+1+y", None, [("x.steer", 10.0), ("y", None)]),
        ("x.steer:1", "x.steer:1", None, [("x.steer:1", None)]),
        ("other", "C:\\b.steer:2+D:\\c.steer", None, [("C:\\b.steer", 2.0), ("D:\\c.steer", None)]),
    ],
)
def test_a_file_that_exists_wins_over_every_separator(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    there: str,
    text: str,
    name: str | None,
    files: list[tuple[str, float | None]],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(there).touch()
    assert parse_way(text) == (name, files)


@pytest.mark.parametrize("text", ["", "=x", " =x", "n=", "x+", "+x", "x++y", "n=x+"])
def test_a_way_without_a_name_or_a_file_is_wrong_usage(text: str) -> None:
    with pytest.raises(click.UsageError, match="--way"):
        parse_way(text)


def test_rows_are_the_sum_of_steer_and_then_each_way(bundle_file: Path, vector_file: Path) -> None:
    toy, bare = str(bundle_file), str(vector_file)
    rows = rows_of([toy, f"{bare}:2"], [toy, f"{toy}:0.5", f"both={toy}:-1+{bare}"])
    strengths = [[strength for _, strength in pairs] for _, pairs in rows]
    assert strengths == [[1.5, 2.0], [1.5], [0.5], [-1.0, 1.0]]
    assert [name for name, _ in rows] == ["toy 1.5 + toy 2", "toy 1.5", "toy 0.5", "both"]


def test_rows_need_names_of_their_own_and_at_least_one(bundle_file: Path) -> None:
    for ways in ([], [f"a={bundle_file}", f"a={bundle_file}:2"], [f"prompt={bundle_file}"]):
        with pytest.raises(click.UsageError):
            rows_of([], ways)


def test_a_path_is_absolute_and_the_home_folder_has_its_short_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "me"))
    assert path_of("x.steer") == Path.cwd() / "x.steer"
    assert path_of("~/x.steer") == tmp_path / "me" / "x.steer"
    assert path_of("~nobody-here/x") == Path.cwd() / "~nobody-here" / "x"


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


@pytest.mark.parametrize("text", ["pirate:abc", "pirate:1,5", "pirate:"])
def test_what_is_no_number_behind_a_bundle_is_named(text: str) -> None:
    with pytest.raises(PlanError, match="is not a number; give a strength such as pirate:1.2"):
        load_steering((text,))
