"""Random models and bundles to measure with: cost does not depend on values, and needs no download.

A model is a GGUF file of architecture llama, of any width, with a small byte-level BPE vocabulary. Directions
are short, so that they hardly change the model. The same arguments give the same bytes. The tests write their
tiny models of other architectures with the same vocabulary and writer. Does not import llama_cpp.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from edgesteer.bundle import Bundle, ModelInfo
from edgesteer.errors import ModelError
from edgesteer.generate.progress import spread

F32 = npt.NDArray[np.float32]

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
HEAD = 64  # width of one attention head
N_VOCAB = 320
_ROWS = 64  # distinct rows of a large matrix

_PAIRS = (
    "Ġ t,Ġ a,h e,i n,Ġt he,e r,o u,Ġ s,o n,r e,Ġ w,Ġ b,a t,Ġ c,l l,o r,Ġ m,e n,Ġ f,Ġ p,"
    "i t,e s,Ġ d,Ġa n,a n,in g,Ġ y,Ġy ou,Ġ o,Ġo f,u s"
)
MERGES = tuple(_PAIRS.split(","))


def byte_tokens() -> list[str]:
    """GPT-2's spelling of the 256 bytes: printable ones as they are, the others from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(moved)) for byte in range(256)]


def vocabulary(n_vocab: int, control: tuple[str, ...] = CONTROL) -> tuple[list[str], list[int]]:
    """Tokens and their GGUF types: bytes, merged pairs, specials, then unused ones up to `n_vocab`.

    Raises ValueError for a vocabulary that is too small for them.
    """
    words = [*byte_tokens(), *(merge.replace(" ", "") for merge in MERGES)]
    unused = n_vocab - len(words) - len(control)
    if unused < 0:
        raise ValueError(f"n_vocab is {n_vocab}, but this vocabulary needs at least {n_vocab - unused}")
    tokens = [*words, *control, *(f"<|unused{i}|>" for i in range(unused))]
    types = [gguf.TokenType.NORMAL] * len(words) + [gguf.TokenType.CONTROL] * len(control)
    return tokens, [int(t) for t in types + [gguf.TokenType.UNUSED] * unused]


def write_vocabulary(
    writer: gguf.GGUFWriter, n_vocab: int, control: tuple[str, ...], bos: str, eos: str
) -> None:
    """The byte-level vocabulary; `bos` and `eos` are among `control`."""
    tokens, types = vocabulary(n_vocab, control)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_merges(list(MERGES))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_bos_token_id(tokens.index(bos))
    writer.add_eos_token_id(tokens.index(eos))


def write_keys(writer: gguf.GGUFWriter, architecture: str, keys: Mapping[str, Any]) -> None:
    """Write hyperparameters under their architecture's name, each with the type that llama.cpp reads."""
    for key, value in keys.items():
        name = f"{architecture}.{key}"
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        else:
            writer.add_array(name, value)


@contextlib.contextmanager
def writing(path: str | os.PathLike[str], architecture: str) -> Iterator[gguf.GGUFWriter]:
    """A writer to fill with keys and tensors; the file appears when it is complete, or not at all."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    writer = gguf.GGUFWriter(partial, architecture)
    try:
        yield writer
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_llama(path: str | os.PathLike[str], n_embd: int, n_layer: int = 4, seed: int = 0) -> Path:
    """Write a random llama of this width in Q4_0, about 6.5 n_embd^2 bytes per block.

    Heads are 64 wide, four query heads share a key head, and the MLP is three times as wide. Matrices repeat
    64 rows, which costs the same to run.

    Raises ValueError for a width that is no multiple of 64.
    """
    if n_embd < HEAD or n_embd % HEAD:
        raise ValueError(f"n_embd is {n_embd}, expected a multiple of {HEAD}")
    rng, n_head = np.random.default_rng(seed), n_embd // HEAD
    n_head_kv = next(n for n in range(max(1, n_head // 4), n_head + 1) if n_head % n == 0)
    keys = {
        "context_length": 2048, "embedding_length": n_embd, "block_count": n_layer,
        "feed_forward_length": 3 * n_embd, "attention.head_count": n_head,
        "attention.head_count_kv": n_head_kv, "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": HEAD,
    }  # fmt: skip
    with writing(path, "llama") as writer:
        writer.add_name(f"random {n_embd}")
        writer.add_file_type(int(gguf.LlamaFileType.MOSTLY_Q4_0))
        write_keys(writer, "llama", keys)
        write_vocabulary(writer, N_VOCAB, CONTROL, bos=CONTROL[0], eos=CONTROL[2])
        for name, shape in _tensors(n_embd, n_layer, HEAD * n_head_kv):
            _write_tensor(writer, name, shape, rng)
    return Path(path)


def _tensors(n: int, n_layer: int, n_kv: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes, in NumPy's axis order."""
    yield from (
        ("token_embd.weight", (N_VOCAB, n)),
        ("output_norm.weight", (n,)),
        ("output.weight", (N_VOCAB, n)),
    )
    block = {
        "attn_norm": (n,), "attn_q": (n, n), "attn_k": (n_kv, n), "attn_v": (n_kv, n), "attn_output": (n, n),
        "ffn_norm": (n,), "ffn_gate": (3 * n, n), "ffn_up": (3 * n, n), "ffn_down": (n, 3 * n),
    }  # fmt: skip
    for i in range(n_layer):
        yield from ((f"blk.{i}.{name}.weight", shape) for name, shape in block.items())


def _write_tensor(
    writer: gguf.GGUFWriter, name: str, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    if len(shape) == 1:
        writer.add_tensor(name, np.ones(shape, np.float32))
        return
    few: F32 = rng.standard_normal((_ROWS, shape[1]), np.float32) * np.float32(shape[1] ** -0.5)
    kind = gguf.GGMLQuantizationType.Q4_0
    rows = gguf.quants.quantize(few, kind)
    writer.add_tensor(name, np.tile(rows, (-(-shape[0] // _ROWS), 1))[: shape[0]], raw_dtype=kind)


# -- bundles -------------------------------------------------------------------------------------

CONSTANT, IN_SCOPE, S_PSR, A_PSR = "constant", "constant (response)", "S-PSR", "A-PSR"


def constant(info: ModelInfo, blocks: Sequence[int], seed: int = 0, scope: str = "all") -> Bundle:
    """A direction in each of the blocks. With scope `all` llama.cpp's own slots add them, else the tap."""
    return Bundle.build(name="constant", model=info, scope=scope, directions=_directions(info, blocks, seed))


def gated(info: ModelInfo, blocks: Sequence[int], seed: int = 0) -> Bundle:
    """A direction and a linear gate in each of the blocks. Raises MissingExtra without the `onnx` package."""
    rng = np.random.default_rng(1000 + seed)
    gate = {
        n: [(1e-2 * rng.standard_normal((info.n_embd, 1), np.float32), np.ones(1, np.float32))]
        for n in blocks
    }
    directions = _directions(info, blocks, seed)
    return Bundle.build(name="gated", model=info, scope="all", directions=directions, gate=gate)


def _directions(info: ModelInfo, blocks: Sequence[int], seed: int) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {n: 1e-3 * rng.standard_normal(info.n_embd, np.float32) for n in blocks}


def steerable(info: ModelInfo, count: int | None = None) -> list[int]:
    """`count` blocks, evenly spaced, or all that can be steered. Block 0 has no slot.

    Raises ModelError for a model of one block.
    """
    every = list(range(1, info.n_layer))
    if not every:
        raise ModelError(
            f"{info.name}: has 1 block, expected 2 or more: the first cannot be steered; use another model"
        )
    return every if count is None else [every[i] for i in spread(len(every), count)]


def random_bundles(info: ModelInfo, seed: int = 0) -> dict[str, Bundle]:
    """Constant, S-PSR (the middle block) and A-PSR (every block)."""
    every, middle = steerable(info), [info.n_layer // 2]
    return {
        CONSTANT: constant(info, every, seed),
        S_PSR: gated(info, middle, seed),
        A_PSR: gated(info, every, seed),
    }


def kinds(info: ModelInfo, blocks: Sequence[int], seed: int = 0) -> dict[str, Bundle]:
    """The kinds that scale differently: a sum in a slot, a sum in the tap, a gate."""
    return {
        CONSTANT: constant(info, blocks, seed),
        IN_SCOPE: constant(info, blocks, seed, scope="response"),
        A_PSR: gated(info, blocks, seed),
    }
