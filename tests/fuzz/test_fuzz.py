"""The first cases of the fuzzing, so that every test run has a little of it; `make fuzz` runs many more."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable

import pytest

from tests.fuzz.cases import case
from tests.fuzz.run import ROOT, STAGES, run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX pipes and resource limits")


def test_any_file_is_read_or_refused_in_one_line() -> None:
    result = run(range(500))
    assert result.broken == {}
    unreached = set(result.unreached())
    rooms = {stage.partition(".")[0] for stage in STAGES}
    assert rooms == {stage.partition(".")[0] for stage in STAGES if stage not in unreached}, (
        "a parser was not reached"
    )


def test_a_number_is_a_case() -> None:
    """The same bytes in every process and order, or a number in a report would be worth nothing."""
    program = "from tests.fuzz.test_fuzz import digest; print(digest(range(300)))"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, cwd=ROOT, env=environment, text=True, capture_output=True, check=True)
    assert done.stdout.strip() == digest(range(299, -1, -1))


def digest(numbers: Iterable[int]) -> str:
    cases = {number: repr(case(number)) for number in numbers}
    return hashlib.sha256(repr(sorted(cases.items())).encode()).hexdigest()
