"""A random Llama in Torch, small enough to train through in milliseconds, and pairs for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgesteer.learn.fit import BlockFit
from edgesteer.learn.pairs import Pair
from edgesteer_converters.torch_model import TorchModel

WIDTH, BLOCKS, VOCAB = 32, 4, 240


def save_llama(folder: Path, seed: int = 0) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=BLOCKS,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.2,
        pad_token_id=None, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def recurrent(arch: str) -> TorchModel:
    """A random model that keeps a state in place of keys and values, in all blocks or in some of them."""
    from transformers import Lfm2Config, Lfm2ForCausalLM, MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    size: dict[str, Any] = {
        "vocab_size": VOCAB, "hidden_size": WIDTH, "num_hidden_layers": BLOCKS, "initializer_range": 0.2,
    }  # fmt: skip
    if arch == "mamba":
        return TorchModel(MambaForCausalLM(MambaConfig(**size, state_size=4)))
    kinds = ["conv", "full_attention"] * (BLOCKS // 2)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return TorchModel(Lfm2ForCausalLM(Lfm2Config(**size, **heads, intermediate_size=48, layer_types=kinds)))


def pairs(n: int = 6, seed: int = 0) -> list[Pair]:
    """Prompts and replies of different lengths; x and x' end alike."""
    rng, made = np.random.default_rng(seed), []
    for i in range(n):
        plain = rng.integers(0, VOCAB, 4 + i % 3).tolist()
        extra = rng.integers(0, VOCAB, 5).tolist()
        reply = rng.integers(0, VOCAB, 3 + i % 4).tolist()
        made.append(Pair(f"q{i}", plain, extra + plain, reply, 1.0, 1.0, 1.0, 1.0))
    return made


def fit(seed: int = 0, hidden: tuple[int, ...] = (), size: float = 0.3) -> BlockFit:
    """A gate that is open for some rows, and a direction of about that size."""
    rng, layers, n_in = np.random.default_rng(seed), [], WIDTH
    for k in (*hidden, 1):
        W = (rng.standard_normal((n_in, k)) / n_in**0.5).astype(np.float32)
        layers.append((W, np.full(k, 0.5, np.float32)))
        n_in = k
    return BlockFit((size * rng.standard_normal(WIDTH)).astype(np.float32), tuple(layers), 0.5)
