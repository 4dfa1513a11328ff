"""What steering costs, as ratios: unsteered, constant, S-PSR and A-PSR, interleaved token by token.

In:  a model, and perhaps bundles; without any, random ones of small norm (cost does not depend on values).
Out: for each way of steering the median seconds of a token, a prefill, a turn of the dial and a load, their
     ratios to the unsteered model in the same run, and the memory each takes.

All ways share one context, in which the plan changes before every sample: two contexts of one model differ by
1 or 2 % for as long as they live, by where their memory lies, and that is more than what is measured here. A
token under the new plan goes before each timed one, so that a sample sees the caches of steady generation. The
plain llama_cpp.Llama, which needs a context of its own, is compared over several runs with new contexts.
Absolute times on a shared machine say little, the ratios hold.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from edgesteer.bundle import Bundle, ModelInfo, load, read_model_info, save
from edgesteer.evaluate.pieces import portion
from edgesteer.plan import SteeringPlan
from edgesteer.runtime import SteeredLlama

PLAIN, UNSTEERED = "llama_cpp.Llama", "unsteered"
_PROMPT = 64  # every timed token stands at the same position, behind as many others

Act = Callable[[llama_cpp.Llama], float]


@dataclass(frozen=True)
class Way:
    """A model in one state: `ready` puts it there, untimed."""

    name: str
    llm: llama_cpp.Llama
    plan: SteeringPlan | None = None

    def ready(self) -> None:
        if isinstance(self.llm, SteeredLlama) and self.plan is not None:
            self.llm.steer(self.plan)


@dataclass(frozen=True)
class Timing:
    """Seconds, one per sample, by way. Ratios are taken in the same round."""

    seconds: Mapping[str, list[float]]

    def median(self, way: str) -> float:
        return float(np.median(self.seconds[way]))

    def ratio(self, way: str, base: str = UNSTEERED) -> float:
        return float(np.median(np.array(self.seconds[way]) / np.array(self.seconds[base])))


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
    made: dict[str, dict[str, Any]] = {
        "constant": {"directions": directions},
        "S-PSR": {"directions": {middle: directions[middle]}, "gate": {middle: weights[middle]}},
        "A-PSR": {"directions": directions, "gate": weights},
    }
    return {name: Bundle.build(name=name, model=info, scope="all", **what) for name, what in made.items()}


def _tokens(n: int) -> list[int]:
    """Ids that the smallest vocabulary has too: what they say does not matter."""
    return [3 + (7 * i) % 250 for i in range(n)]


def _timed(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def interleaved(ways: list[Way], rounds: int, act: Act) -> Timing:
    """`rounds` samples of each way, in a new order each round, so that none always follows the same."""
    seconds: dict[str, list[float]] = {way.name: [] for way in ways}
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        for i in rng.permutation(len(ways)):
            ways[i].ready()
            seconds[ways[i].name].append(act(ways[i].llm))
    return Timing(seconds)


def one_token(llm: llama_cpp.Llama) -> float:
    """Seconds of one token's decode through `eval`, behind another under the same plan."""
    llm.eval([5])
    seconds = _timed(lambda: llm.eval([7]))
    llm.n_tokens = _PROMPT  # the next eval drops what lies behind
    return seconds


def prefill(length: int) -> Act:
    tokens = _tokens(length)

    def act(llm: llama_cpp.Llama) -> float:
        llm.n_tokens = 0
        llm.eval(tokens[:2])  # switching slots on or off reserves anew: once, at `steer`
        llm.n_tokens = 0
        return _timed(lambda: llm.eval(tokens))

    return act


def strength_change(way: Way, samples: int) -> dict[str, float]:
    """Median seconds of `steer` with another strength, and of what the next token takes beyond others."""
    llm, plan = way.llm, way.plan
    assert isinstance(llm, SteeredLlama)
    assert plan is not None
    way.ready()
    calls, changed, others = [], [], []
    for i in range(samples):
        dialled = plan.with_strength(plan.terms[0].strength * (0.99 if i % 2 else 0.98))
        llm.eval([5])
        others.append(_timed(lambda: llm.eval([7])))
        calls.append(_timed(lambda: llm.steer(dialled)))  # noqa: B023 - called at once
        changed.append(_timed(lambda: llm.eval([9])))
        llm.n_tokens = _PROMPT
    excess = float(np.median(np.array(changed) - np.array(others)))
    call = float(np.median(calls))
    return {"call": call, "next_token_excess": excess, "seconds": call + max(excess, 0.0)}


def load_times(bundles: Mapping[str, Bundle], samples: int = 9) -> dict[str, dict[str, float]]:
    """Median seconds of `load`, and the bytes of the file."""
    out = {}
    with tempfile.TemporaryDirectory() as folder:
        for i, (name, bundle) in enumerate(bundles.items()):
            path = Path(folder, f"{i}.steer")
            save(bundle, path)
            seconds = float(np.median([_timed(lambda: load(path)) for _ in range(samples)]))  # noqa: B023
            out[name] = {"seconds": seconds, "bytes": path.stat().st_size}
    return out


def resident() -> int:
    """Bytes of this process in memory; where the system does not tell, the most there ever were."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return pages * os.sysconf("SC_PAGE_SIZE")


def _open(model: str, bundles: Mapping[str, Bundle], options: dict[str, Any]) -> tuple[list[Way], Any]:
    """The ways, and the bytes that each takes beyond the unsteered context."""
    plain = llama_cpp.Llama(model, verbose=False, **options)
    llm = SteeredLlama(model, **options)
    native = llm.sibling(gate_engine="native")
    ways = [Way(PLAIN, plain), Way(UNSTEERED, llm, SteeringPlan())]
    for each in (plain, llm, native):
        each.eval(_tokens(_PROMPT))
    llm.steerable()
    memory = {}
    for name, bundle in bundles.items():
        way = Way(name, llm, SteeringPlan.of([(bundle, None, None)]))
        before = resident()
        way.ready()
        one_token(llm)
        memory[name] = resident() - before
        ways.append(way)
    with_gates = [n for n, b in bundles.items() if b.gate_gguf is not None]
    if with_gates:
        ways.append(Way(f"{UNSTEERED} (native)", native, SteeringPlan()))
        ways += [
            Way(f"{n} (native)", native, SteeringPlan.of([(bundles[n], None, None)])) for n in with_gates
        ]
    return ways, memory


def _summary(timing: Timing, ways: list[Way]) -> dict[str, dict[str, float]]:
    """Seconds and ratio by way; a way in the native context is compared with that context unsteered."""
    native = f"{UNSTEERED} (native)"
    return {
        w.name: {
            "seconds": timing.median(w.name),
            "ratio": timing.ratio(w.name, native if w.name.endswith("(native)") else UNSTEERED),
        }
        for w in ways
        if w.name != native
    }


def _run(
    model: str,
    bundles: Mapping[str, Bundle],
    counts: tuple[int, int],
    options: dict[str, Any],
    progress: Callable[[float], None],
) -> dict[str, Any]:
    rounds, prefills = counts
    ways, memory = _open(model, bundles, options)
    try:
        token = _summary(interleaved(ways, rounds, one_token), ways)
        progress(0.4)
        dial = {w.name: strength_change(w, max(rounds // 4, 5)) for w in ways if w.plan}
        progress(0.6)
        filled = _summary(interleaved(ways, prefills, prefill(256)), ways)
    finally:
        for llm in {id(w.llm): w.llm for w in ways}.values():
            llm.close()
    return {"token": token, "prefill": filled, "strength_change": dial, "memory": memory}


def _medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The runs' tables as one: number by number the median, and for ratios the lowest and the highest."""
    out: dict[str, Any] = {}
    for key, first in runs[0].items():
        values = [run[key] for run in runs]
        if isinstance(first, dict):
            out[key] = _medians(values)
        else:
            out[key] = float(np.median(values))
            if key == "ratio":
                out["ratio_range"] = [min(values), max(values)]
    return out


def bench(
    model: str,
    bundles: Mapping[str, Bundle] | None,
    *,
    rounds: int,
    prefills: int,
    runs: int,
    n_threads: int,
    progress: Callable[[float], None] = lambda done: None,
) -> dict[str, Any]:
    """The table as a dict: {"token" | "prefill": {way: {seconds, ratio, ratio_range}}, "strength_change":
    {way: {call, next_token_excess, seconds}}, "load": {bundle: {seconds, bytes}}, "memory": {bundle: bytes}}.

    Each number is the median of `runs` runs, each with contexts of its own. progress(fraction done).
    """
    options = {"n_ctx": 512, "n_threads": n_threads, "n_threads_batch": n_threads}
    bundles = bundles or random_bundles(read_model_info(model))
    tables = []
    for i in range(runs):
        within = portion(progress, i, 1, runs)
        tables.append(_run(model, bundles, (rounds, prefills), options, within))
        within(1.0)
    settings = {"rounds": rounds, "prefills": prefills, "runs": runs, **options}
    return {**_medians(tables), "load": load_times(bundles), "settings": settings}
