"""What steering costs, as ratios: unsteered, constant, S-PSR and A-PSR, interleaved token by token.

In:  a model, and perhaps bundles; without any, random ones of small norm (cost does not depend on values).
Out: median seconds per way and their ratios to the plain llama_cpp.Llama in the same run.

One context a way, all in one process, taking turns at every token: what the machine does in the
meantime hits all of them alike. Absolute times on a shared machine say little, the ratios hold.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import llama_cpp
import numpy as np

from edgesteer.bundle import Bundle, ModelInfo, read_model_info
from edgesteer.runtime import SteeredLlama

PLAIN = "unsteered"


@dataclass(frozen=True)
class Timing:
    """Seconds, one per sample, by way. `ratio` is against the unsteered time in the same round."""

    seconds: Mapping[str, list[float]]

    def median(self, way: str) -> float:
        return float(np.median(self.seconds[way]))

    def ratio(self, way: str) -> float:
        rounds = np.array(self.seconds[way]) / np.array(self.seconds[PLAIN])
        return float(np.median(rounds))

    def summary(self, way: str) -> dict[str, float]:
        return {"seconds": self.median(way), "ratio": self.ratio(way)}


def random_bundles(info: ModelInfo, seed: int = 0) -> dict[str, Bundle]:
    """Constant, S-PSR (the middle block) and A-PSR (every block) with small random directions and gates."""
    rng = np.random.default_rng(seed)
    blocks = range(1, info.n_layer)
    directions = {n: 1e-3 * rng.standard_normal(info.n_embd, np.float32) for n in blocks}
    weights = {
        n: [(1e-2 * rng.standard_normal((info.n_embd, 1), np.float32), np.ones(1, np.float32))]
        for n in blocks
    }
    middle = info.n_layer // 2
    return {
        "constant": Bundle.build(name="constant", directions=directions, model=info, scope="all"),
        "S-PSR": Bundle.build(
            name="s-psr",
            directions={middle: directions[middle]},
            gate={middle: weights[middle]},
            model=info,
            scope="all",
        ),
        "A-PSR": Bundle.build(name="a-psr", directions=directions, gate=weights, model=info, scope="all"),
    }


def open_ways(model: str, bundles: Mapping[str, Bundle], **options: Any) -> dict[str, llama_cpp.Llama]:
    """One context per way: the plain Llama, and a SteeredLlama for each bundle."""
    ways: dict[str, llama_cpp.Llama] = {PLAIN: llama_cpp.Llama(model, verbose=False, **options)}
    for name, bundle in bundles.items():
        llm = SteeredLlama(model, **options)
        llm.steer(bundle)
        ways[name] = llm
    return ways


def _interleaved(
    ways: Mapping[str, llama_cpp.Llama], rounds: int, act: Callable[[llama_cpp.Llama], None]
) -> Timing:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    names, rng = list(ways), np.random.default_rng(0)
    for _ in range(rounds):
        # A new order each round, so that no way always runs in the same neighbour's wake.
        for name in rng.permutation(names):
            start = time.perf_counter()
            act(ways[name])
            seconds[name].append(time.perf_counter() - start)
    return Timing(seconds)


def time_per_token(ways: Mapping[str, llama_cpp.Llama], rounds: int = 200, prompt: int = 32) -> Timing:
    """Seconds to decode one token behind a prompt, through `eval`."""
    for llm in ways.values():
        llm.reset()
        llm.eval(_some_tokens(prompt))
        for token in _some_tokens(8):
            llm.eval([token])
    return _interleaved(ways, rounds, lambda llm: llm.eval([3 + llm.n_tokens % 250]))


def _some_tokens(n: int) -> list[int]:
    """Ids that the smallest vocabulary has too: what they say does not matter."""
    return [3 + (7 * i) % 250 for i in range(n)]


def time_prefill(ways: Mapping[str, llama_cpp.Llama], rounds: int = 7, length: int = 256) -> Timing:
    """Seconds to evaluate a prompt of `length` tokens."""
    tokens = _some_tokens(length)

    def prefill(llm: llama_cpp.Llama) -> None:
        llm.reset()
        llm.eval(tokens)

    return _interleaved(ways, rounds, prefill)


def bench(
    model: str, bundles: Mapping[str, Bundle] | None, rounds: int, prefills: int, n_threads: int
) -> dict[str, Any]:
    """The table as a dict: {measure: {way: {"seconds": median, "ratio": median of the rounds' ratios}}}."""
    info = read_model_info(model)
    options = {"n_ctx": 32 + 16 + max(rounds, 256), "n_threads": n_threads, "n_threads_batch": n_threads}
    ways = open_ways(model, bundles or random_bundles(info), **options)
    timings = {"token": time_per_token(ways, rounds), "prefill": time_prefill(ways, prefills)}
    return {measure: {way: timing.summary(way) for way in ways} for measure, timing in timings.items()}
