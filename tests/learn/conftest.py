"""A tiny random model that learns, for a whole module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgesteer import SteeredLlama


@pytest.fixture(scope="module")
def llm(model: Callable[[str], Path]) -> Iterator[SteeredLlama]:
    opened = SteeredLlama(model("llama"), n_ctx=1024, n_seq_max=4, n_threads=1, n_threads_batch=1)
    yield opened
    opened.close()
