"""How the project tests itself: the lock, whose warnings fail a test, which examples property tests draw."""

import os
import re
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from edgesteer.errors import EdgesteerWarning

ROOT = Path(__file__).resolve().parents[2]


def requirements() -> list[Requirement]:
    """What pyproject.toml asks for: to run, for each extra, and to build."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    groups = [project["project"]["dependencies"], *project["project"]["optional-dependencies"].values()]
    groups += [*project["dependency-groups"].values(), project["build-system"]["requires"]]
    return [Requirement(text) for group in groups for text in group if not text.startswith("edgesteer[")]


def locked(name: str) -> list[str]:
    """The versions of a package in constraints.txt: one, or one for each group of Python versions."""
    text = (ROOT / "constraints.txt").read_text("utf-8")
    return re.findall(rf"^{re.escape(name.lower())}==(\S+)", text, re.MULTILINE)


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_the_locked_version_is_one_that_pyproject_allows(requirement: Requirement) -> None:
    versions = locked(requirement.name)
    assert versions, "run `make lock`"
    assert all(version in requirement.specifier for version in versions), "run `make lock`"


def test_the_lock_names_no_index() -> None:
    assert "://" not in (ROOT / "constraints.txt").read_text("utf-8")


def test_what_users_install_has_bounds_at_both_ends() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for requirement in map(Requirement, project["dependencies"]):
        assert {spec.operator for spec in requirement.specifier} == {">=", "<"}, str(requirement)


def warn_from(module: str, category: type[Warning]) -> None:
    """Warn as the named module would."""
    code = f"warnings.warn('this is old', category, stacklevel=1)  # {module}"
    exec(code, {"__name__": module, "warnings": warnings, "category": category})


@pytest.mark.parametrize("category", [DeprecationWarning, FutureWarning])
def test_a_third_partys_warning_fails_no_test(category: type[Warning]) -> None:
    warn_from("transformers.somewhere", category)


@pytest.mark.parametrize(
    "module", ["edgesteer.plan", "edgesteer_converters.tensors", "edgesteer_models", "tests.x"]
)
@pytest.mark.parametrize("category", [UserWarning, DeprecationWarning, FutureWarning, RuntimeWarning])
def test_a_warning_that_our_code_gives_or_causes_fails_a_test(module: str, category: type[Warning]) -> None:
    with pytest.raises(category, match="old"):
        warn_from(module, category)


def test_our_warning_fails_a_test_wherever_it_points() -> None:
    with pytest.raises(EdgesteerWarning, match="old"):
        warn_from("transformers.somewhere", EdgesteerWarning)


PROPERTY = """
import os
from hypothesis import given, strategies as st

@given(st.integers(0, 10**9))
def test_drawn(n):
    with open(os.environ["LOG"], "a") as file:
        print(n, file=file)
"""


@pytest.mark.parametrize(("profile", "same"), [("ci", True), ("fuzz", False)])
def test_property_tests_repeat_themselves_except_when_fuzzing(
    tmp_path: Path, profile: str, same: bool
) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text("utf-8"))
    (tmp_path / "test_drawn.py").write_text(PROPERTY)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    words = [sys.executable, "-m", "pytest", "-q", f"--hypothesis-profile={profile}"]
    examples = []
    for turn in range(2):
        log = tmp_path / f"{turn}.log"
        subprocess.run(
            words, cwd=tmp_path, env={**os.environ, "LOG": str(log)}, capture_output=True, check=True
        )
        examples.append(log.read_text())
    assert (examples[0] == examples[1]) is same
