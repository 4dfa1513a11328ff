"""What a way to ask costs: context, time to the first token and to each further one, bytes of file and cache.

In:  a Chat and Ways; the first is what the others' context is compared with. Out: one Cost a way, in their order.

Times are the clock's word of this machine at this moment: the ways take turns, so that they can be compared with
each other, and with nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgesteer.bundle import Bundle, encode_directions
from edgesteer.bundle.container import zip_bytes
from edgesteer.generate.chat import Chat, Tokens
from edgesteer.evaluate.ways import Way
from edgesteer.runtime import Lanes, SteeredLlama

# Questions that are timed, and tokens behind each.
_N_TIMED, _N_TOKENS = 5, 8

# Bytes of a cached value by ggml's type number: F32, F16, BF16, and the quantized caches, whose blocks hold 32.
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
# Models of which some blocks keep no keys and values, keep another's, or keep them compressed.
_OTHERWISE = (
    "attention.kv_lora_rank",
    "attention.shared_kv_layers",
    "attention.key_length_swa",
    "attention.value_length_swa",
)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one way costs beyond the model itself.

    context_tokens: by how much its prompts are longer than those of the first way, on average.
    first_token_seconds: median from a prompt alone in an empty context to its first token. token_seconds: median of
        each further one behind that prompt. None where nobody timed, or the context has no room for more.
    artifact_bytes: the bundle's file as it is shipped; 0 where there is none.
    kv_bytes: what its context tokens take in the KV cache; None where the model does not say.
    """

    context_tokens: float
    first_token_seconds: float | None
    token_seconds: float | None
    artifact_bytes: int
    kv_bytes: float | None


def costs(chat: Chat, ways: Sequence[Way], *, timing: bool = True) -> list[Cost]:
    """Measure each way; the ways take turns, and the model's own steering is set aside meanwhile.

    timing: False decodes nothing and leaves the seconds None. Raises InputError for a prompt that does not fit.
    """
    seconds = _seconds(chat, ways) if timing else [(None, None)] * len(ways)
    per_token = kv_bytes_per_token(chat.llm)
    out = []
    for way, (first, each) in zip(ways, seconds, strict=True):
        more = added_tokens(way.prompts, ways[0].prompts)
        kv = None if per_token is None else more * per_token
        out.append(Cost(more, first, each, artifact_bytes(way.bundle), kv))
    return out


def added_tokens(prompts: Sequence[Tokens], plain: Sequence[Tokens]) -> float:
    """By how many tokens prompts are longer than the plain ones, on average."""
    return float(np.mean([len(a) - len(b) for a, b in zip(prompts, plain, strict=True)]))


def artifact_bytes(bundle: Bundle | None) -> int:
    """Bytes of the bundle as it is shipped: its file or folder, or the file that it would be."""
    if bundle is None:
        return 0
    if bundle.source is not None and (path := Path(bundle.source)).exists():
        files = path.iterdir() if path.is_dir() else [path]
        return sum(file.stat().st_size for file in files)
    if bundle.members:
        return len(zip_bytes(bundle.members))
    return len(encode_directions(bundle.directions, bundle.architecture_hint or ""))


def kv_bytes_per_token(llm: SteeredLlama) -> float | None:
    """Bytes that a token of one sequence takes in the model's KV cache; 0 for one whose state does not grow.

    None where the model's file leaves open which blocks keep what. A sliding window keeps no more than its length.
    """
    types = llm.context_params.type_k, llm.context_params.type_v
    values = _cached_values(llm.metadata)
    if values is None or not all(kind in _TYPE_BYTES for kind in types):
        return None
    return sum(n * _TYPE_BYTES[kind] for n, kind in zip(values, types, strict=True))


def _cached_values(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """How many values of keys and of values a token leaves in the cache, over all blocks."""
    own = {
        key.removeprefix(f"{metadata.get('general.architecture')}."): value for key, value in metadata.items()
    }
    try:
        n_layer, n_head = int(own["block_count"]), int(own["attention.head_count"])
        # A list, one number a block, is not among the metadata; without it all heads have keys of their own.
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
    """Of each way the median seconds to the first token, and of each further one."""
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
    """0 .. n-1 from another one on each round, so that none always follows the same."""
    return [(first + i) % n for i in range(n)]


def _timed(chat: Chat, prompt: Tokens) -> list[float]:
    """Seconds from the prompt to its first token, then of each further one."""
    _feed(chat, prompt[:2], 1)  # what a change of plan costs comes once, not at each reply
    return _feed(chat, prompt, 1 + _N_TOKENS)


def _feed(chat: Chat, prompt: Tokens, n: int) -> list[float]:
    """Seconds of `n` decodes: the prompt, then a token that ends nothing, whatever the model would say."""
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
