"""A tiny Torch model, loaded once; one thread, so that nothing depends on how many there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.converters.torch_tiny import save_llama

    return save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def llama(llama_folder: Path) -> Any:
    from edgesteer_converters.torch_model import TorchModel

    torch.set_num_threads(1)
    return TorchModel.load(llama_folder)
