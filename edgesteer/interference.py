"""What bundles do to one another when they steer together. Pure: knows bundles and plans, no llama.cpp.

In:  a SteeringPlan, or bundles with their strengths as a user gave them.
Out: Interference: for every block the norms and cosines of what is added there, for every pair of terms a
     summary, and the few lines of it that are worth a user's attention.

At block N term i adds u_i = strength_i * coefficient * direction_i[N] to the residual stream. Everything here
takes the coefficient as 1: exact for a constant, the mean over the training tokens for a PSR. And it takes a
token that is in every term's scope. It is geometry before any token is seen: of terms that point apart less
is added for certain, but terms that point alike need not sound alike. Directions learnt from prompts share a
part whatever the prompts say: between unrelated traits 0.2 to 0.7 is usual, and single blocks lie above that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesteer.bundle import Bundle
from edgesteer.bundle.refusal import one_line
from edgesteer.plan import SteeringPlan, Term, check_strength

AGAINST = -0.3
"""Below this cosine two terms work against each other."""
PILE_UP = 0.7
"""Above this cosine much of what two terms add is the same."""

F64 = npt.NDArray[np.float64]


def verdict(cosine: float | None) -> str | None:
    """ "against", "pile-up", or None for what is not worth a word (and for no cosine)."""
    if cosine is None:
        return None
    return "against" if cosine < AGAINST else "pile-up" if cosine > PILE_UP else None


@dataclass(frozen=True, slots=True)
class Block:
    """One block. Indices are into `Interference.terms`.

    layer: 0-based block number N.
    norms: term -> |u_i|, in units of the residual stream, for the terms that have a direction here.
    joint: |sum of u_i|.
    cosines: (i, j), i < j -> u_i . u_j / (|u_i| |u_j|) in [-1, 1].
    weights: (i, j) -> |direction_i| |direction_j|: how much this block counts in the pair's mean.
    """

    layer: int
    norms: dict[int, float]
    joint: float
    cosines: dict[tuple[int, int], float]
    weights: dict[tuple[int, int], float]

    def to_json(self) -> dict[str, Any]:
        cosines = [{"pair": list(p), "cosine": c, "verdict": verdict(c)} for p, c in self.cosines.items()]
        norms = {str(i): norm for i, norm in self.norms.items()}
        return {"block": self.layer, "norms": norms, "joint": self.joint, "cosines": cosines}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two terms over all blocks that both steer.

    blocks: those blocks. mean: sum of u_i . u_j over sum of |u_i| |u_j|, so blocks count by their norms.
    lowest, highest: (cosine, block). All None where they share no block.
    """

    terms: tuple[int, int]
    blocks: tuple[int, ...]
    mean: float | None
    lowest: tuple[float, int] | None
    highest: tuple[float, int] | None

    @property
    def verdict(self) -> str | None:
        return verdict(self.mean)

    def to_json(self) -> dict[str, Any]:
        ends = {"min": self.lowest, "max": self.highest}
        extremes = {name: end and {"cosine": end[0], "block": end[1]} for name, end in ends.items()}
        blocks = list(self.blocks)
        return {
            "pair": list(self.terms),
            "blocks": blocks,
            "mean": self.mean,
            **extremes,
            "verdict": self.verdict,
        }


@dataclass(frozen=True, eq=False)
class Interference:
    """The terms that act, as given; every block that any of them steers; every pair.

    A term of strength 0, or whose directions are all zeros, is left out.
    """

    terms: tuple[Term, ...]
    blocks: tuple[Block, ...]

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        return tuple(_pair(p, self.blocks) for p in combinations(range(len(self.terms)), 2))

    @property
    def sum_of_norms(self) -> float:
        """Over all blocks and terms: what the terms would add if none stood in another's way."""
        return math.fsum(norm for block in self.blocks for norm in block.norms.values())

    @property
    def joint(self) -> float:
        """Over all blocks: what they add together; at most `sum_of_norms`."""
        return math.fsum(block.joint for block in self.blocks)

    @property
    def share(self) -> float | None:
        """joint / sum_of_norms, in [0, 1]; None where nothing is added at all."""
        total = self.sum_of_norms
        return min(1.0, self.joint / total) if total else None

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """One line each for what deserves attention: equal terms first, then pairs, the worst first."""
        return (*_equal_notes(self.terms), *_pair_notes(self))

    def to_json(self) -> dict[str, Any]:
        """Plain values; indices count the terms; what is not defined is null."""
        return {
            "terms": [
                {"name": t.bundle.name, "kind": t.bundle.kind, "scope": t.scope, "strength": t.strength}
                for t in self.terms
            ],
            "thresholds": {"against": AGAINST, "pile-up": PILE_UP},
            "blocks": [block.to_json() for block in self.blocks],
            "pairs": [pair.to_json() for pair in self.pairs],
            "total": {"sum_of_norms": self.sum_of_norms, "joint": self.joint, "share": self.share},
            "notes": list(self.notes),
        }


def interference(
    what: SteeringPlan | Iterable[tuple[Bundle, float]], scope: str | None = None
) -> Interference:
    """How the terms of a plan, or bundles with strengths, act together.

    A plan has merged equal terms already; bundles are taken as they are given, so that a bundle given twice
    shows as two terms. scope: for bundles, instead of their own.

    Raises PlanError for a strength that is no finite number. Bundles of different width must be refused
    before (`edgesteer.bundle.check_together`).
    """
    if isinstance(what, SteeringPlan):
        return _of(what.terms)
    terms = (Term(b, check_strength(s, b.source or b.name), scope or b.scope) for b, s in what)
    return _of([term for term in terms if term.strength and term.layers])


def _of(terms: Sequence[Term]) -> Interference:
    layers = sorted({n for term in terms for n in term.layers})
    return Interference(tuple(terms), tuple(_block(n, terms) for n in layers))


def _block(layer: int, terms: Sequence[Term]) -> Block:
    """float64 throughout: products of float32 numbers neither overflow nor vanish there."""
    here = {
        i: t.bundle.directions[layer].astype(np.float64) for i, t in enumerate(terms) if layer in t.layers
    }
    lengths = {i: float(np.linalg.norm(v)) for i, v in here.items()}
    pairs = list(combinations(here, 2))
    signs = {i: math.copysign(1.0, terms[i].strength) for i in here}
    largest = max(abs(terms[i].strength) for i in here)
    total = np.sum([terms[i].strength / largest * v for i, v in here.items()], axis=0)
    return Block(
        layer,
        {i: abs(terms[i].strength) * lengths[i] for i in here},
        largest * float(np.linalg.norm(total)),
        {(i, j): _cosine(signs[i] * here[i], signs[j] * here[j], lengths[i] * lengths[j]) for i, j in pairs},
        {(i, j): lengths[i] * lengths[j] for i, j in pairs},
    )


def _cosine(a: F64, b: F64, lengths: float) -> float:
    return float(np.clip(np.sum(a * b) / lengths, -1.0, 1.0))


def _pair(terms: tuple[int, int], blocks: Sequence[Block]) -> Pair:
    shared = [block for block in blocks if terms in block.cosines]
    layers = tuple(block.layer for block in shared)
    if not shared:
        return Pair(terms, layers, None, None, None)
    known = [(block.cosines[terms], block.weights[terms], block.layer) for block in shared]
    lowest, highest = min((c, n) for c, _, n in known), max((c, -n) for c, _, n in known)
    mean = math.fsum(c * weight for c, weight, _ in known) / math.fsum(weight for _, weight, _ in known)
    within = min(max(mean, lowest[0]), highest[0])  # rounding aside
    return Pair(terms, layers, within, lowest, (highest[0], -highest[1]))


def _equal_notes(terms: Sequence[Term]) -> Iterable[str]:
    """The terms that a plan merges: equal up to sign, so that their strengths add up or cancel."""
    groups: dict[bytes, list[Term]] = {}
    for term in terms:
        groups.setdefault(term.key, []).append(term)
    for group in groups.values():
        if len(group) > 1:
            merged = SteeringPlan.of((t.bundle, t.strength, t.scope) for t in group)
            left = sum(t.strength * t.sign * group[0].sign for t in merged.terms)
            names = _names(group)
            yield (
                f"{names} cancel: nothing of them is left"
                if not merged
                else (
                    f"{names} are the same directions: the strengths add up to {left:g} of {_name(group[0])}"
                )
            )


def _pair_notes(shown: Interference) -> Iterable[str]:
    """Pairs of what is left when equal terms are merged, in the order given."""
    plan = SteeringPlan.of((t.bundle, t.strength, t.scope) for t in shown.terms)
    given = [term.key for term in shown.terms]
    merged = _of(sorted(plan.terms, key=lambda term: given.index(term.key)))
    for pair in sorted(merged.pairs, key=lambda pair: pair.mean or 0.0):
        names, where = _names([merged.terms[i] for i in pair.terms]), shared_blocks(pair)
        if pair.verdict == "against":
            yield f"{names} work against each other: cosine {pair.mean:.2f} over {where}"
        elif pair.verdict == "pile-up":
            yield f"{names} pile up: much of what they add is the same, cosine {pair.mean:.2f} over {where}"


def shared_blocks(pair: Pair) -> str:
    return f"{len(pair.blocks)} shared block{'' if len(pair.blocks) == 1 else 's'}"


def _name(term: Term) -> str:
    return one_line(term.bundle.name)


def _names(terms: Sequence[Term]) -> str:
    names = [f"{_name(term)} x {term.strength:g}" for term in terms]
    return f"{', '.join(names[:-1])} and {names[-1]}"
