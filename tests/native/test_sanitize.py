"""On random decodes the C code gives the reference's bits, without undefined behaviour or memory errors."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.native import sanitize


def test_the_tap_and_the_gate_under_the_sanitizers(tmp_path: Path) -> None:
    if reason := sanitize.missing():
        pytest.skip(reason)
    try:
        output = sanitize.drive(sanitize.build(tmp_path), decodes=4_000)
    except subprocess.CalledProcessError as error:
        pytest.fail(f"{error.stdout}{error.stderr}")
    assert "decodes as the reference" in output
