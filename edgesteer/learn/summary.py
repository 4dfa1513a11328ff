"""The facts and figures of a learning run, for the command line and, without times, for the manifest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgesteer.evaluate import Table
from edgesteer.evaluate.dose import Dose, Point
from edgesteer.learn.fit import BlockFit
from edgesteer.learn.forecast import Forecast
from edgesteer.learn.pairs import Pair
from edgesteer.learn.strength import Yardstick


@dataclass(frozen=True, slots=True)
class LearnSummary:
    """Trait and coherence are those of generate.measures, nats per token, under the unsteered model.

    method: the recipe's label, with +KL if a trainer learnt. effort: a name in EFFORTS. layers: how many
        blocks are steered. questions: how many were learnt from.
    sampled, kept, dropped: number of replies, dropped ones by reason. tokens: of the kept replies.
    forecast: whether the trait was expected to learn well; None if too few replies were good enough.
    explained: mean over the blocks of the share of |delta|^2 that the closed form accounts for; None with a
        trainer.
    strength, dose: the default, and the curve that it was chosen from. prompted: greedy prompted replies to
        the same questions.
    table: the head-to-head on held-out questions; None if there was none.
    emphasised: whether the sentence was repeated after the question when replies were sampled.
    trained: the trainer's facts; empty without one.
    seconds: of each stage. pairs: the replies that were learnt from.
    """

    method: str
    effort: str
    strength: float
    layers: int
    questions: int
    sampled: int
    kept: int
    dropped: dict[str, int]
    tokens: int
    forecast: Forecast | None
    explained: float | None
    dose: Dose
    prompted: Point
    table: Table | None
    emphasised: bool
    trained: dict[str, Any]
    seconds: dict[str, float]
    pairs: tuple[Pair, ...] = dataclasses.field(repr=False)

    @property
    def steered(self) -> Point:
        """The figures at the default strength, read from the curve."""
        return self.dose.point

    def to_json(self) -> dict[str, Any]:
        """Plain values, rounded."""
        return {
            "method": self.method,
            "effort": self.effort,
            "strength": self.strength,
            "layers": self.layers,
            **self.training(),
            **self.evaluation(),
            "table": None if self.table is None else self.table.to_json(),
            "seconds": {stage: round(taken, 1) for stage, taken in self.seconds.items()},
        }

    def training(self) -> dict[str, Any]:
        """The manifest's `training`, without the recipe."""
        return {
            "questions": self.questions,
            "sampled": self.sampled,
            "kept": self.kept,
            "dropped": dict(self.dropped),
            "tokens": self.tokens,
            **({} if self.forecast is None else {"forecast": dataclasses.asdict(self.forecast)}),
            **({} if self.explained is None else {"explained": round(self.explained, 4)}),
            **({"trained": self.trained} if self.trained else {}),
        }

    def evaluation(self) -> dict[str, Any]:
        """The manifest's `evaluation`, without the head-to-head."""
        return {
            "strength questions": {
                "steered": _point(self.steered),
                "prompted": _point(self.prompted),
                "target_coherence": _rounded(self.dose.target_coherence),
                "min_distinct2": _rounded(self.dose.min_distinct2),
                "min_relevance": _rounded(self.dose.min_relevance),
                "interval": [self.dose.low, self.dose.high],
                "bound": self.dose.bound,
                "questions": self.dose.questions,
                "reached": self.dose.reached,
                "curve": [_point(point) for point in self.dose.curve],
            }
        }


def prompted_point(yardstick: Yardstick) -> Point:
    mean = yardstick.scores.mean
    return Point(0.0, mean("trait"), mean("coherence"), mean("distinct2"))


def mean_explained(fits: Mapping[int, BlockFit]) -> float:
    return float(np.mean([fit.explained for fit in fits.values()])) if fits else 0.0


def head_to_head_facts(table: Table) -> dict[str, Any]:
    """A table's facts for the manifest, without replies and times."""
    plain = table.to_json(timing=False)
    for row in plain["rows"]:
        if row["matched"] is None:
            del row["matched"]
    rows = {row["name"]: {k: v for k, v in row.items() if k not in _BULKY} for row in plain["rows"]}
    return {"head-to-head": {"questions": len(table.questions), "max_tokens": table.max_tokens, **rows}}


_BULKY = ("name", "replies", "scores", "by_reply", "judged")


def _point(point: Point) -> dict[str, float | None]:
    return {k: _rounded(v) for k, v in dataclasses.asdict(point).items()}


def _rounded(value: float) -> float | None:
    return None if not np.isfinite(value) else round(value, 4)
