"""How the cost of steering grows with blocks, bundles, sequences, ubatches and the width of the model.

In:  Settings: a model, how often to measure, threads.
Out: studies: what was varied, what was timed, and for each way points {x, seconds, ratio, interval}. A ratio
     is to the unsteered model in the same context and round.

Blocks, bundles and width are timed with random bundles, batch and ubatch with the given ones.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgesteer.bundle import Bundle, ModelInfo, read_model_info
from edgesteer.evaluate.bench.random_model import kinds, random_bundles, steerable, write_llama
from edgesteer.evaluate.bench.timing import (
    UNSTEERED,
    State,
    Table,
    Timing,
    interleaved,
    native,
    one_token,
    open_states,
    plan_of,
    prefill,
    some_tokens,
    summary,
    timed,
)
from edgesteer.generate.progress import Done, no_progress, portion
from edgesteer.plan import SteeringPlan
from edgesteer.runtime import Lanes, SteeredLlama

BUNDLES = (1, 2, 4, 8)
LANES = (1, 2, 4, 8)
UBATCHES = (32, 128, 512)
WIDTHS = (256, 512, 1024, 2048, 4096)
PREFILL = 512

MIN_ROUNDS = 5

_WIDE = 1024  # from this width on fewer tokens are timed
_DEPTH = 16  # tokens of each lane's prompt
_ROUNDS = 4  # rounds from one prompt to the next


@dataclass(frozen=True)
class Settings:
    """rounds: tokens of each way. prefills: prompts of each way. bundles: None for random ones.
    widths: of the random models."""

    model: str
    rounds: int
    prefills: int
    n_threads: int
    bundles: Mapping[str, Bundle] | None = None
    widths: Sequence[int] = WIDTHS

    @property
    def info(self) -> ModelInfo:
        return read_model_info(self.model)

    def options(self, **more: Any) -> dict[str, Any]:
        """Options of a context."""
        return {"n_ctx": 512, "n_threads": self.n_threads, "n_threads_batch": self.n_threads, **more}

    def fewer(self, longer: float) -> int:
        """Rounds if a sample takes `longer` times as long: long samples vary less."""
        return max(MIN_ROUNDS, min(self.rounds, int(self.rounds / longer)))

    def plans(self) -> dict[str, SteeringPlan]:
        bundles = self.bundles or random_bundles(self.info)
        return {name: plan_of(bundle) for name, bundle in bundles.items()}


Study = Callable[[Settings, Done], Table]
Numbered = dict[int, dict[str, SteeringPlan]]


def _study(x: str, timed_: str, points: Mapping[int, Mapping[str, Table]]) -> Table:
    """Turn {x: {way: summary}} into {"x", "timed", "ways": {way: [{x, seconds, ratio, interval}]}}."""
    ways: dict[str, list[Table]] = {}
    for value, table in points.items():
        for way, row in table.items():
            ways.setdefault(way, []).append({"x": value, **row})
    return {"x": x, "timed": timed_, "ways": ways}


def doubled(most: int) -> list[int]:
    """1, 2, 4, ... and `most`."""
    return sorted({*(2**k for k in range(most.bit_length()) if 2**k <= most), most})


def _by_number(settings: Settings, plans: Numbered, progress: Done) -> dict[int, dict[str, Table]]:
    """Time of a token under the plans of each number, which all take turns in one context."""
    flat = {f"{name} {n}": plan for n, named in plans.items() for name, plan in named.items()}
    with open_states(settings.model, flat, settings.options()) as ways:
        rows = summary(interleaved(ways, settings.rounds, one_token, progress), ways)
    out: dict[int, dict[str, Table]] = {}
    for n, named in plans.items():
        tapped = {native(name): native(f"{name} {n}") for name in named}
        row_names = {name: f"{name} {n}" for name in named} | tapped
        out[n] = {
            UNSTEERED: rows[UNSTEERED],
            **{name: rows[key] for name, key in row_names.items() if key in rows},
        }
    return out


def plans_by_blocks(info: ModelInfo) -> Numbered:
    """Plans on 1, 2, 4, ... and all blocks, evenly spaced."""
    counts = doubled(len(steerable(info)))
    bundles_of = {n: kinds(info, steerable(info, n)) for n in counts}
    return {n: {name: plan_of(bundle) for name, bundle in named.items()} for n, named in bundles_of.items()}


def plans_by_bundles(info: ModelInfo) -> Numbered:
    """Plans of 1, 2, 4 and 8 bundles, each on every block."""
    by_seed = [kinds(info, steerable(info), seed) for seed in range(max(BUNDLES))]
    return {n: {name: plan_of(*(d[name] for d in by_seed[:n])) for name in by_seed[0]} for n in BUNDLES}


def blocks(settings: Settings, progress: Done) -> Table:
    """Steered blocks."""
    return _study("steered blocks", "token", _by_number(settings, plans_by_blocks(settings.info), progress))


def bundles(settings: Settings, progress: Done) -> Table:
    """Bundles that act at once."""
    return _study("active bundles", "token", _by_number(settings, plans_by_bundles(settings.info), progress))


def batch(settings: Settings, progress: Done) -> Table:
    """Sequences decoded at once, one token of each; seconds per sequence."""
    plans, most = settings.plans(), max(LANES)
    room = most * (_DEPTH + 2 * _ROUNDS * (1 + len(plans)))
    points = {}
    with open_states(settings.model, plans, settings.options(n_seq_max=most, n_ctx=max(512, room))) as ways:
        for i, n in enumerate(LANES):
            timing = _side_by_side(ways, n, settings.fewer(n), portion(progress, i, 1, len(LANES)))
            points[n] = summary(timing, ways)
    return _study("sequences at once", "token", points)


def _side_by_side(ways: Sequence[State], n: int, rounds: int, progress: Done) -> Timing:
    """`rounds` samples of each way. The context grows with each sample and starts again from a prompt after a
    few rounds. Each round has another order of the ways, so that all see the same depth on average."""
    seconds: dict[str, list[float]] = {way.name: [] for way in ways}
    contexts = {id(way.llm): way.llm for way in ways}
    rng = np.random.default_rng(0)
    for done in range(0, rounds, _ROUNDS):
        progress(done / rounds)
        for llm in contexts.values():
            assert isinstance(llm, SteeredLlama)
            llm.clear_steering()
            own = [way for way in ways if way.llm is llm]
            with Lanes(llm, [some_tokens(_DEPTH)] * n) as lanes:
                for _ in range(min(_ROUNDS, rounds - done)):
                    for i in rng.permutation(len(own)):
                        seconds[own[i].name].append(_step_after(own[i], lanes, n))
    return Timing(seconds)


def _step_after(way: State, lanes: Lanes, n: int) -> float:
    """Seconds of a lane's token, after another one under the same plan."""
    lanes.steer([way.plan or SteeringPlan()] * n)
    _step(lanes, n, 5)
    return timed(lambda: _step(lanes, n, 7)) / n


def _step(lanes: Lanes, n: int, token: int) -> None:
    for _ in lanes.feed({lane: [token] for lane in range(n)}):
        pass


def ubatch(settings: Settings, progress: Done) -> Table:
    """A prompt of 512 tokens, evaluated in parts of n_ubatch; each size has its own context."""
    points = {}
    for i, n in enumerate(UBATCHES):
        options = settings.options(n_ctx=2 * PREFILL, n_batch=PREFILL, n_ubatch=n)
        with open_states(settings.model, settings.plans(), options) as ways:
            done = portion(progress, i, 1, len(UBATCHES))
            points[n] = summary(interleaved(ways, settings.prefills, prefill(PREFILL), done), ways)
    return _study("n_ubatch", f"prefill of {PREFILL} tokens", points)


def width(settings: Settings, progress: Done) -> Table:
    """Random models of four blocks, from 256 wide on. With a small vocabulary a token's time is spent in the
    blocks alone, so the ratios also hold for a deep model, except for its first block, which is not steered.
    """
    points = {}
    for i, n in enumerate(settings.widths):
        with tempfile.TemporaryDirectory() as folder:
            model = str(write_llama(Path(folder, "random.gguf"), n))
            info = read_model_info(model)
            plans = {name: plan_of(bundle) for name, bundle in kinds(info, steerable(info)).items()}
            with open_states(model, plans, settings.options()) as ways:
                done = portion(progress, i, 1, len(settings.widths))
                points[n] = summary(interleaved(ways, settings.fewer(n / _WIDE), one_token, done), ways)
    return _study("width of the model", "token", points)


STUDIES: Mapping[str, Study] = {
    "blocks": blocks,
    "bundles": bundles,
    "batch": batch,
    "ubatch": ubatch,
    "width": width,
}


def scale(settings: Settings, names: Sequence[str], progress: Done = no_progress) -> Table:
    """Run the studies `names`, which are keys of STUDIES."""
    out = {}
    for i, name in enumerate(names):
        out[name] = STUDIES[name](settings, portion(progress, i, 1, len(names)))
    return out
