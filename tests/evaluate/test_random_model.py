"""Random models of any width: llama.cpp loads them, the same seed gives the same bytes, no part of a file is
left."""

from __future__ import annotations

from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from edgesteer.bundle import read_model_info
from edgesteer.evaluate.bench.random_model import HEAD, N_VOCAB, vocabulary, write_llama, writing


@pytest.mark.parametrize("width", [HEAD, 320, 1024])
def test_llama_cpp_runs_it_at_its_width(width: int, tmp_path: Path) -> None:
    path = write_llama(tmp_path / "random.gguf", width, n_layer=2)
    info = read_model_info(path)
    assert (info.architecture, info.n_embd, info.n_layer) == ("llama", width, 2)
    llm = llama_cpp.Llama(str(path), n_ctx=32, n_threads=1, logits_all=True, verbose=False)
    llm.eval([3, 4, 5])
    logits = np.array(llm.scores[:3])
    llm.close()
    assert logits.shape == (3, N_VOCAB)
    assert np.isfinite(logits).all()
    assert logits.std() > 0.1


def test_the_bytes_follow_from_the_seed(tmp_path: Path) -> None:
    files = [
        write_llama(tmp_path / f"{i}.gguf", 64, seed=seed).read_bytes() for i, seed in enumerate((1, 1, 2))
    ]
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize("width", [0, -64, 63, 100])
def test_a_width_without_whole_heads_is_refused(width: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"n_embd is {width}, expected a multiple of 64"):
        write_llama(tmp_path / "x.gguf", width)
    assert not list(tmp_path.iterdir())


def test_a_vocabulary_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="needs at least"):
        vocabulary(100)


def test_nothing_is_left_of_a_file_that_was_not_finished(tmp_path: Path) -> None:
    def stopped() -> None:
        with writing(tmp_path / "x.gguf", "llama") as writer:
            writer.add_name("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert not list(tmp_path.iterdir())
