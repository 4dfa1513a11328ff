"""What a way to ask costs: context, time to the first token and for each further one, file size, KV cache.

Times hold for this machine at this moment. The ways take turns, so their times can be compared with each
other, but with nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgesteer.bundle import Bundle, encode_directions
from edgesteer.bundle.container import zip_bytes
from edgesteer.evaluate.way import Way
from edgesteer.generate.chat import Chat, Tokens
from edgesteer.runtime import Lanes, SteeredLlama

# Questions that are timed, and tokens generated for each.
_N_TIMED, _N_TOKENS = 5, 8

# Bytes of a cached value by ggml's type number: F32, F16, BF16, and quantized types in blocks of 32.
_TYPE_BYTES = {
    0: 4.0,
    1: 2.0,
    30: 2.0,
    2: 18 / 32,
    3: 20 / 32,
    6: 22 / 32,
    7: 24 / 32,
    8: 34 / 32,
    20: 18 / 32,
}
# Architectures in which some blocks keep no keys and values, share another block's, or compress them.
_OTHERWISE = (
    "attention.kv_lora_rank",
    "attention.shared_kv_layers",
    "attention.key_length_swa",
    "attention.value_length_swa",
)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one way costs beyond the model itself.

    context_tokens: by how many tokens its prompts are longer than the first way's, on average.
    first_token_seconds: median from a prompt in an empty context to the first token. token_seconds: median of
        each further token. None if not timed, or if the context has no room for more.
    artifact_bytes: size of the bundles' files as they are shipped; 0 without bundles.
    kv_bytes: what its context tokens take in the KV cache; None if the model does not say.
    """

    context_tokens: float
    first_token_seconds: float | None
    token_seconds: float | None
    artifact_bytes: int
    kv_bytes: float | None


def costs(chat: Chat, ways: Sequence[Way], *, timing: bool = True) -> list[Cost]:
    """Measure each way; the ways take turns, and the model's own steering is set aside meanwhile.

    timing: False decodes nothing and leaves the seconds None.
    Raises InputError for a prompt that does not fit the context.
    """
    seconds = _seconds(chat, ways) if timing else [(None, None)] * len(ways)
    per_token = kv_bytes_per_token(chat.llm)
    out = []
    for way, (first, each) in zip(ways, seconds, strict=True):
        more = added_tokens(way.held, ways[0].held)
        kv = None if per_token is None else more * per_token
        out.append(Cost(more, first, each, sum(map(artifact_bytes, way.bundles)), kv))
    return out


def added_tokens(prompts: Sequence[Tokens], plain: Sequence[Tokens]) -> float:
    """By how many tokens prompts are longer than the plain ones, on average."""
    return float(np.mean([len(a) - len(b) for a, b in zip(prompts, plain, strict=True)]))


def artifact_bytes(bundle: Bundle) -> int:
    """Bytes of the bundle's file or folder, or of the file that `save` would write."""
    if bundle.source is not None and (path := Path(bundle.source)).exists():
        files = path.iterdir() if path.is_dir() else [path]
        return sum(file.stat().st_size for file in files)
    if bundle.members:
        return len(zip_bytes(bundle.members))
    return len(encode_directions(bundle.directions, bundle.architecture_hint or ""))


def kv_bytes_per_token(llm: SteeredLlama) -> float | None:
    """Bytes that a token of one sequence takes in the model's KV cache; 0 if the model's state does not grow.

    None if the model's file does not say what each block keeps. A sliding window keeps at most its length.
    """
    types = llm.context_params.type_k, llm.context_params.type_v
    values = _cached_values(llm.metadata)
    if values is None or not all(kind in _TYPE_BYTES for kind in types):
        return None
    return sum(n * _TYPE_BYTES[kind] for n, kind in zip(values, types, strict=True))


def _cached_values(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """How many numbers of its keys and of its values a token leaves in the cache, over all blocks."""
    own = {
        key.removeprefix(f"{metadata.get('general.architecture')}."): value for key, value in metadata.items()
    }
    try:
        n_layer = int(own["block_count"]) - int(own.get("nextn_predict_layers", 0))
        n_head = int(own["attention.head_count"])
        # llama_cpp's metadata omits a list with a number per block; without the key every head has its own
        # keys.
        mixed = any(key.startswith(("ssm.", "wkv.", "shortconv.")) for key in own)
        n_kv = int(own["attention.head_count_kv"] if mixed else own.get("attention.head_count_kv", n_head))
        if any(int(own.get(key, 0)) for key in _OTHERWISE) or (mixed and n_kv):
            return None
        width = int(own["embedding_length"]) // n_head if n_head else 0
        key, value = (int(own.get(f"attention.{each}_length", width)) for each in ("key", "value"))
    except (KeyError, ValueError):
        return None
    return n_layer * n_kv * key, n_layer * n_kv * value


def _seconds(chat: Chat, ways: Sequence[Way]) -> list[tuple[float | None, float | None]]:
    """For each way the median seconds to the first token, and for each further one."""
    for way in ways:
        chat.groups(way.prompts[:_N_TIMED], 1)  # what does not fit is refused before anything is timed
    first: list[list[float]] = [[] for _ in ways]
    each: list[list[float]] = [[] for _ in ways]
    for i in range(min(_N_TIMED, len(ways[0].prompts))):
        for j in _turn(len(ways), i):
            with ways[j].steered(chat):
                seconds = _timed(chat, ways[j].prompts[i])
            first[j].append(seconds[0])
            each[j] += seconds[1:]
    return [(_median(a), _median(b)) for a, b in zip(first, each, strict=True)]


def _turn(n: int, first: int) -> list[int]:
    """0 .. n-1, rotated to begin with another index each round, so that none always follows the same one."""
    return [(first + i) % n for i in range(n)]


def _timed(chat: Chat, prompt: Tokens) -> list[float]:
    """Seconds from the prompt to its first token, then for each further one."""
    _feed(chat, prompt[:2], 1)  # what a change of plan costs comes once, not at each reply
    return _feed(chat, prompt, 1 + _N_TOKENS)


def _feed(chat: Chat, prompt: Tokens, n: int) -> list[float]:
    """Seconds of `n` decodes: the prompt, then the same ordinary token again and again."""
    fed = chat.llm.tokenize(b"a", add_bos=False)[-1]
    n = min(n, 1 + chat.llm.n_ctx() - len(prompt))
    out, start = [], time.perf_counter()
    with Lanes(chat.llm, [prompt]) as lanes:
        for token in [prompt[-1], *[fed] * (n - 1)]:
            for _ in lanes.feed({0: [token]}):
                out.append(time.perf_counter() - start)
            start = time.perf_counter()
    return out


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None
