"""Fair timing: ways of running a model take turns in one context and are compared within each round.

In:  contexts, and the plans to put into force in them. Out: a Timing: seconds by way and round, and ratios.

All ways share one context, in which the plan changes before every sample. Two contexts of one model would
differ by 1 or 2 % because of where their memory lies, more than the differences that are measured here. A way
that needs its own context (another gate engine) is compared with that context unsteered. An untimed token
under the new plan precedes each timed one, so that a sample sees the caches of steady generation.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import llama_cpp
import numpy as np

from edgesteer.bundle import Bundle
from edgesteer.generate.progress import Done, no_progress
from edgesteer.plan import SteeringPlan
from edgesteer.runtime import SteeredLlama

UNSTEERED = "unsteered"
DEPTH = 64  # position of every timed token

Act = Callable[[llama_cpp.Llama], float]
Table = dict[str, Any]


def native(name: str) -> str:
    """The name of the way `name` with the tap's own gate engine."""
    return f"{name} (native)"


@dataclass(frozen=True)
class State:
    """A model and a plan; `ready` puts the plan into force, untimed. base: the way it is compared with."""

    name: str
    llm: llama_cpp.Llama
    plan: SteeringPlan | None = None
    base: str = UNSTEERED

    def ready(self) -> None:
        if isinstance(self.llm, SteeredLlama) and self.plan is not None:
            self.llm.steer(self.plan)


@dataclass(frozen=True)
class Timing:
    """Seconds of each sample, by way. A ratio is of two samples in the same round."""

    seconds: Mapping[str, Sequence[float]]

    def median(self, way: str) -> float:
        return float(np.median(self.seconds[way]))

    def ratios(self, way: str, base: str = UNSTEERED) -> list[float]:
        return sorted((np.array(self.seconds[way]) / np.array(self.seconds[base])).tolist())

    def ratio(self, way: str, base: str = UNSTEERED) -> float:
        return float(np.median(self.ratios(way, base)))

    def interval(self, way: str, base: str = UNSTEERED) -> list[float]:
        """A 95 % interval of the median ratio, from the ranks of the rounds' ratios."""
        ratios = self.ratios(way, base)
        reach = 0.98 * len(ratios) ** 0.5
        low = max(0, int(len(ratios) / 2 - reach))
        return [ratios[low], ratios[-1 - low]]


def timed(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def some_tokens(n: int) -> list[int]:
    """Token ids that even the smallest vocabulary has; their text does not matter."""
    return [3 + (7 * i) % 250 for i in range(n)]


def interleaved(ways: Sequence[State], rounds: int, act: Act, progress: Done = no_progress) -> Timing:
    """`rounds` samples of each way, each round in a new order, so that none always follows the same one."""
    seconds: dict[str, list[float]] = {way.name: [] for way in ways}
    rng = np.random.default_rng(0)
    for done in range(rounds):
        progress(done / rounds)
        for i in rng.permutation(len(ways)):
            ways[i].ready()
            seconds[ways[i].name].append(act(ways[i].llm))
    return Timing(seconds)


def one_token(llm: llama_cpp.Llama) -> float:
    """Seconds of one token's decode through `eval`, after another one under the same plan."""
    llm.eval([5])
    seconds = timed(lambda: llm.eval([7]))
    llm.n_tokens = DEPTH  # the next eval drops what lies behind
    return seconds


def prefill(length: int) -> Act:
    """A function that times a prompt of `length` tokens in an empty context, in seconds."""
    tokens = some_tokens(length)

    def act(llm: llama_cpp.Llama) -> float:
        llm.n_tokens = 0
        llm.eval(tokens[:2])  # switching slots on or off reserves anew: once, at `steer`
        llm.n_tokens = 0
        return timed(lambda: llm.eval(tokens))

    return act


@contextlib.contextmanager
def open_states(
    model: str, plans: Mapping[str, SteeringPlan], options: Mapping[str, Any]
) -> Iterator[list[State]]:
    """The unsteered model and each plan in one context at DEPTH. Plans whose gates the tap can evaluate are
    repeated in a second context on the same weights. Both contexts are closed at the end."""
    with contextlib.ExitStack() as stack:
        llm = stack.enter_context(contextlib.closing(SteeredLlama(model, **options)))
        ways = [
            State(UNSTEERED, llm, SteeringPlan()),
            *(State(name, llm, plan) for name, plan in plans.items()),
        ]
        gated = {name: plan for name, plan in plans.items() if _has_native_gates(plan)}
        if gated:
            own = stack.enter_context(contextlib.closing(llm.sibling(gate_engine="native")))
            ways.append(State(native(UNSTEERED), own, SteeringPlan(), native(UNSTEERED)))
            ways += [State(native(name), own, plan, native(UNSTEERED)) for name, plan in gated.items()]
        for each in [llm, own] if gated else [llm]:
            each.eval(some_tokens(DEPTH))
            each.steerable()
        yield ways


def _has_native_gates(plan: SteeringPlan) -> bool:
    gated = [term.bundle for term in plan.terms if not term.constant]
    return bool(gated) and all(bundle.gate_gguf is not None for bundle in gated)


def plan_of(*bundles: Bundle) -> SteeringPlan:
    """All at their default strengths, in their own scopes."""
    return SteeringPlan.of([(bundle, None, None) for bundle in bundles])


def summary(timing: Timing, ways: Sequence[State]) -> dict[str, Table]:
    """{way: {seconds, ratio, interval}}, without the unsteered state of a second context."""
    return {
        way.name: {
            "seconds": timing.median(way.name),
            "ratio": timing.ratio(way.name, way.base),
            "interval": timing.interval(way.name, way.base),
        }
        for way in ways
        if way.name != native(UNSTEERED)
    }
