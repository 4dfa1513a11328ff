"""What the runtime's tests share: models side by side, random bundles, and FORMAT's equation in NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from edgesteer import Bundle, SteeredLlama
from edgesteer.bundle import ModelInfo, StrengthRange, read_model_info

ANY_STRENGTH = StrengthRange(1.0, -3e38, 3e38)  # these bundles overflow on purpose
F32 = npt.NDArray[np.float32]
TINY = ["llama", "qwen2", "gemma3", "gpt2"]
REAL = ["smollm2", "gemma3-270m"]
OPTIONS: dict[str, Any] = {"n_ctx": 256, "n_threads": 1, "n_threads_batch": 1, "logits_all": True}
TEXT = b"The ship came in at dawn, and nobody on the quay had expected it to carry so many stories."


def steered(path: Path, **options: Any) -> SteeredLlama:
    return SteeredLlama(str(path), **{**OPTIONS, **options})


def plain(path: Path, **options: Any) -> llama_cpp.Llama:
    return llama_cpp.Llama(str(path), verbose=False, **{**OPTIONS, **options})


def tokens_of(llm: llama_cpp.Llama, text: bytes = TEXT, n: int = 20) -> list[int]:
    return llm.tokenize(text, add_bos=False)[:n]  # a BOS may be an end of generation too


def logits(llm: llama_cpp.Llama, tokens: Sequence[int], **how: Any) -> F32:
    """float32 [tokens, n_vocab] of a fresh evaluation."""
    llm.reset()
    llm.eval(list(tokens), **how)
    return llm.scores[: len(tokens)].copy()


def stepwise(llm: llama_cpp.Llama, tokens: Sequence[int], **how: Any) -> F32:
    """The same, token by token."""
    llm.reset()
    for token in tokens:
        llm.eval([token], **how)
    return llm.scores[: len(tokens)].copy()


def directions(
    info: ModelInfo, layers: Sequence[int] | None = None, seed: int = 0, size: float = 0.1
) -> dict[int, F32]:
    rng = np.random.default_rng(seed)
    scale = size * (10 if info.architecture == "gemma3" and info.n_embd > 64 else 1)  # Gemma's stream is wide
    drawn = {n: rng.standard_normal(info.n_embd).astype(np.float32) for n in range(1, info.n_layer)}
    return {n: (scale * drawn[n]).astype(np.float32) for n in (layers or drawn)}


def vector(
    path: Path, layers: Sequence[int] | None = None, *, scope: str = "all", seed: int = 0, size: float = 0.1
) -> Bundle:
    info = read_model_info(path)
    return Bundle.build(
        name=f"vector-{seed}",
        directions=directions(info, layers, seed, size),
        model=info,
        scope=scope,
        strength=ANY_STRENGTH,
    )


Layers = list[tuple[F32, F32]]


def gate_weights(info: ModelInfo, layers: Sequence[int], seed: int = 0) -> dict[int, Layers]:
    """One layer that opens for about half of the tokens. On the real Gemma, whose stream is led by a few
    huge dimensions so that a random gate is open for all tokens or for none, two layers: |h w| / 2."""
    rng = np.random.default_rng(1000 + seed)
    drawn = {n: rng.standard_normal((info.n_embd, 1)).astype(np.float32) for n in range(1, info.n_layer)}
    out: dict[int, Layers] = {}
    for n in layers:
        w = (drawn[n] / np.sqrt(info.n_embd)).astype(np.float32)
        if info.architecture == "gemma3" and info.n_embd > 64:
            w = (w / 100).astype(np.float32)
            half = np.full((2, 1), 0.5, np.float32)
            out[n] = [(np.hstack([w, -w]), np.zeros(2, np.float32)), (half, np.zeros(1, np.float32))]
        else:
            out[n] = [(w, np.array([0.1], dtype=np.float32))]
    return out


def psr(
    path: Path,
    layers: Sequence[int] | None = None,
    *,
    scope: str = "all",
    seed: int = 0,
    size: float = 0.1,
    strength: StrengthRange = ANY_STRENGTH,
) -> Bundle:
    info = read_model_info(path)
    z = directions(info, layers, seed, size)
    weights = gate_weights(info, list(z), seed)
    return Bundle.build(
        name=f"psr-{seed}", directions=z, gate=weights, model=info, scope=scope, strength=strength
    )


def reference(h: F32, strength: F32, direction: F32, gate: Layers | None) -> F32:
    """h' = h + strength[t] * coefficient[t] * direction, each layer of the gate ReLU(x W + b), in float64."""
    x = y = h.astype(np.float64)
    for w, b in gate or []:
        y = np.maximum(y @ w.astype(np.float64) + b, 0)
    coefficient = np.ones(len(x)) if gate is None else y[:, 0]
    return (x + (strength * coefficient)[:, None] * direction.astype(np.float64)).astype(np.float32)


def close(a: F32, b: F32, rtol: float = 2e-5) -> bool:
    """Equal to float32 rounding, relative to the largest value of the row."""
    return bool((np.abs(a - b).max(axis=-1) <= rtol * np.abs(b).max(axis=-1)).all())


def without(bundle: Bundle, path: Path, layers: Sequence[int], *, seed: int) -> Bundle:
    """The PSR bundle of this seed on `layers` only: what lies below a block, without the block."""
    return psr(path, layers, scope=bundle.scope, seed=seed)


def as_cvec(vectors: Mapping[int, F32], n_layer: int, n_embd: int) -> F32:
    rows = np.zeros((n_layer - 1, n_embd), dtype=np.float32)
    for n, v in vectors.items():
        rows[n - 1] = v
    return rows
