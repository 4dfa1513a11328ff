"""The tiny models load, are reproducible, give sensible logits, and can chat."""

from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
from llama_cpp import Llama

from tests.tiny import ARCHITECTURES, CAUSAL, tiny_model, vocabulary, write_tiny

TEXT = "héllo the\n 🦜 you"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="module", params=CAUSAL)
def llm(request: pytest.FixtureRequest, directory: Path) -> Iterator[Llama]:
    path = tiny_model(request.param, directory)
    model = Llama(str(path), n_ctx=256, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False)
    yield model
    model.close()


def _rows(llm: Llama, tokens: list[int]) -> np.ndarray:
    """Logits of every position, from an empty context."""
    llm.reset()  # type: ignore[no-untyped-call]
    llm.eval(tokens)
    return np.array(llm.scores[: len(tokens)])


def test_the_tokenizer_is_lossless(llm: Llama) -> None:
    assert llm.detokenize(llm.tokenize(TEXT.encode())).decode() == TEXT


def test_logits_are_finite_and_spread(llm: Llama) -> None:
    logits = _rows(llm, llm.tokenize(TEXT.encode()))
    assert np.isfinite(logits).all()
    assert 0.1 < logits.std() < 10


def test_logits_depend_on_the_context(llm: Llama) -> None:
    a, b = (llm.tokenize(text.encode(), add_bos=False) for text in ("ABC the", "xyz the"))
    assert a[-1] == b[-1]
    assert np.abs(_rows(llm, a)[-1] - _rows(llm, b)[-1]).max() > 0.01


def test_greedy_completion_is_reproducible(llm: Llama) -> None:
    texts = [
        llm.create_completion("the", max_tokens=8, temperature=0)["choices"][0]["text"] for _ in range(2)
    ]
    assert texts[0] == texts[1] != ""


def test_chats_with_its_own_template(llm: Llama) -> None:
    reply = llm.create_chat_completion([{"role": "user", "content": "hi"}], max_tokens=4, temperature=0)
    assert reply["usage"]["completion_tokens"] == 4
    specials = llm.tokenize(b"<|im_start|>user\n<|im_end|>", add_bos=False, special=True)
    assert llm.token_eos() == specials[-1]


@pytest.mark.parametrize("arch", [name for name in ARCHITECTURES if name not in CAUSAL])
def test_an_encoder_embeds(arch: str, directory: Path) -> None:
    path = tiny_model(arch, directory)
    model = Llama(str(path), n_ctx=256, n_threads=1, n_threads_batch=1, embedding=True, verbose=False)
    one, other = (np.array(model.embed(text)) for text in ("ABC", "xyz"))
    model.close()
    assert np.isfinite(one).all()
    assert not np.allclose(one, other)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_bytes_follow_from_the_seed(arch: str, tmp_path: Path) -> None:
    files = [
        write_tiny(tmp_path / f"{i}.gguf", arch, seed=seed).read_bytes() for i, seed in enumerate((7, 7, 8))
    ]
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_norms_are_float32_vectors_and_random(arch: str, directory: Path) -> None:
    tensors = gguf.GGUFReader(tiny_model(arch, directory, weight_type="Q8_0")).tensors
    norms = [t for t in tensors if "norm" in t.name and len(t.shape) == 1 and not t.name.endswith(".bias")]
    assert {t.tensor_type.name for t in norms} == {"F32"}
    assert len({t.data.tobytes() for t in norms}) == len(norms) > 4


@pytest.mark.parametrize("weight_type", ["F16", "Q8_0"])
def test_quantized_weights_stay_near_the_float_ones(weight_type: str, directory: Path) -> None:
    def logits(**options: str) -> np.ndarray:
        path = tiny_model("llama", directory, **options)
        model = Llama(str(path), n_ctx=64, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False)
        rows = _rows(model, model.tokenize(b"the other"))
        model.close()
        return rows

    assert 0 < np.abs(logits(weight_type=weight_type) - logits()).max() < 0.5


def test_a_vocabulary_can_be_larger_but_not_smaller(directory: Path) -> None:
    assert len(vocabulary(1000)[0]) == len(set(vocabulary(1000)[0])) == 1000
    path = tiny_model("gpt2", directory, n_vocab=1000)
    model = Llama(str(path), n_ctx=64, n_threads=1, n_threads_batch=1, verbose=False)
    assert model.n_vocab() == 1000
    model.close()
    with pytest.raises(ValueError, match="at least"):
        vocabulary(100)


def test_an_unknown_architecture_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no tiny 'gpt9'"):
        write_tiny(tmp_path / "x.gguf", "gpt9")
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_written_once(directory: Path) -> None:
    first = tiny_model("llama", directory)
    stamp = first.stat().st_mtime_ns
    assert tiny_model("llama", directory).stat().st_mtime_ns == stamp
    assert tiny_model("llama", directory, seed=3) != first
