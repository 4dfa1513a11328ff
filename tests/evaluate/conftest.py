"""A Chat on a tiny random model, for a whole module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgesteer import SteeredLlama
from edgesteer.generate import Chat


@pytest.fixture(scope="module")
def chat(model: Callable[[str], Path]) -> Iterator[Chat]:
    llm = SteeredLlama(str(model("llama")), n_ctx=1024, n_threads=1, n_threads_batch=1, n_seq_max=4)
    yield Chat(llm)
    llm.close()
