"""What is not installed is named, with what to install, wherever it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest

from edgesteer.errors import MissingExtra
from edgesteer_converters.artifact import Artifact
from edgesteer_converters.extras import need, need_onnx, need_torch
from edgesteer_converters.networks.relu_chain import as_modules
from edgesteer_converters.torch_parity import reference, torch_coefficients

GATE = {1: [(np.ones((4, 1), np.float32), np.ones(1, np.float32))]}
NETWORK = Artifact("psr", {1: np.ones(4, np.float32)}, GATE)


@pytest.mark.parametrize(
    ("package", "ask"),
    [
        ("torch", lambda: need_torch("see")),
        ("onnx", need_onnx),
        ("transformers", lambda: need("transformers", "see")),
        ("torch", lambda: as_modules(GATE)),
        ("torch", lambda: torch_coefficients(NETWORK)),
        ("torch", lambda: reference(NETWORK)),
    ],
)
def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, package: str, ask: Callable[[], object]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"^{package}: not installed; needed to .*edgesteer\[convert\]"):
        ask()
