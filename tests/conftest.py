"""Models for the tests: two real ones from the registry, and tiny random ones written on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

REAL = {"smollm2": "smollm2-135m-instruct", "gemma3-270m": "gemma-3-270m"}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Path of a model by its name: 'smollm2', 'gemma3-270m', or an architecture of tests.tiny."""
    folder = tmp_path_factory.mktemp("tiny")

    def path(name: str) -> Path:
        if name in REAL:
            from edgesteer_models import resolve

            return resolve(REAL[name])
        from tests.tiny import CHATML, tiny_model

        return tiny_model(name, folder, chat_template=CHATML)

    return path


@pytest.fixture(scope="session")
def smollm2(model: Callable[[str], Path]) -> Path:
    return model("smollm2")
