"""Who wrote a file: told only where the file tells it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgesteer.bundle import ModelInfo
from edgesteer.errors import BundleError
from edgesteer_converters.readers import PRODUCERS, recognise
from tests.bundle.samples import refused
from tests.converters.vector_samples import FIXTURES, rows, write_gguf

MODEL = ModelInfo("llama", "tiny", 4, 6, "F32")


def test_no_torch_until_a_file_needs_it() -> None:
    code = (
        "import sys, edgesteer_converters.readers, edgesteer_converters.writers; "
        "print(*[name for name in ('torch', 'safetensors', 'onnx', 'repeng') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_control_vector_needs_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert recognise([FIXTURES / "repeng.gguf"]) == "repeng"


def test_what_cannot_be_read_is_refused_as_such(tmp_path: Path) -> None:
    refused(lambda: recognise([]), "no file")
    refused(lambda: recognise([tmp_path / "none.gguf"]), "none.gguf", "no such file")
    refused(lambda: recognise([tmp_path]), "a directory")
    (tmp_path / "empty.pt").touch()
    refused(lambda: recognise([tmp_path / "empty.pt"]), "0 bytes")
    (tmp_path / "v.txt").write_text("hello")
    refused(lambda: recognise([tmp_path / "v.txt"]), "v.txt", ".txt", ".gguf", ".safetensors")
    (tmp_path / "v.gguf").write_text("hello")
    refused(lambda: recognise([tmp_path / "v.gguf"]), "v.gguf", "GGUF")


def test_signs_of_two_producers(tmp_path: Path) -> None:
    """Written in repeng's order, and lying beside a companion of jukofyork's."""
    path = write_gguf(tmp_path / "a_vector.gguf", rows([3, 2, 1]), 3)
    write_gguf(tmp_path / "a_debias.gguf", rows([1, 2, 3]), 4)
    with pytest.raises(BundleError, match="several producers.*repeng, jukofyork; .*--from"):
        recognise([path])


def test_the_generators_file_beside_a_companion_is_still_the_generators(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a_vector.gguf", rows([1, 2, 3]), 3, signed=True)
    write_gguf(tmp_path / "a_debias.gguf", rows([1, 2, 3]), 4)
    assert recognise([path]) == "cvector-generator"


def test_every_producer_keeps_the_protocol() -> None:
    for name, producer in PRODUCERS.items():
        assert name == producer.name == name.strip().lower()
        assert producer.suffixes
        assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in producer.suffixes)
