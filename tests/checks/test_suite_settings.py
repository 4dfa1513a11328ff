"""How the test suite itself is set up: whose warnings fail a test, and which examples property tests draw."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from edgesteer.errors import EdgesteerWarning

ROOT = Path(__file__).resolve().parents[2]


def warn_from(module: str, category: type[Warning]) -> None:
    """Warn as the named module would."""
    code = f"warnings.warn('this is old', category, stacklevel=1)  # {module}"
    exec(code, {"__name__": module, "warnings": warnings, "category": category})


@pytest.mark.parametrize("category", [DeprecationWarning, FutureWarning])
def test_a_third_partys_warning_fails_no_test(category: type[Warning]) -> None:
    warn_from("transformers.somewhere", category)


@pytest.mark.parametrize("module", ["edgesteer.plan", "edgesteer_converters.tensors", "edgesteer_models", "tests.x"])
@pytest.mark.parametrize("category", [UserWarning, DeprecationWarning, FutureWarning, RuntimeWarning])
def test_a_warning_that_our_code_gives_or_causes_fails_a_test(module: str, category: type[Warning]) -> None:
    with pytest.raises(category, match="old"):
        warn_from(module, category)


def test_our_warning_fails_a_test_wherever_it_points() -> None:
    with pytest.raises(EdgesteerWarning, match="old"):
        warn_from("transformers.somewhere", EdgesteerWarning)


PROPERTY = '''
import os
from hypothesis import given, strategies as st

@given(st.integers(0, 10**9))
def test_drawn(n):
    with open(os.environ["LOG"], "a") as file:
        print(n, file=file)
'''


@pytest.mark.parametrize(("profile", "same"), [("ci", True), ("fuzz", False)])
def test_property_tests_repeat_themselves_except_when_fuzzing(tmp_path: Path, profile: str, same: bool) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text("utf-8"))
    (tmp_path / "test_drawn.py").write_text(PROPERTY)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    words = [sys.executable, "-m", "pytest", "-q", f"--hypothesis-profile={profile}"]
    drawn = []
    for turn in range(2):
        log = tmp_path / f"{turn}.log"
        subprocess.run(words, cwd=tmp_path, env={**os.environ, "LOG": str(log)}, capture_output=True, check=True)
        drawn.append(log.read_text())
    assert (drawn[0] == drawn[1]) is same
