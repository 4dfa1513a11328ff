"""From one sentence to a bundle: sample, contrast, fit, calibrate, check.

In:  a model, the trait's sentence, questions, a seed.
Out: a Bundle and a LearnSummary. The same model file, arguments and thread count give the same bytes.

All passes run through llama.cpp on the quantized model; only the `onnx` extra is needed besides, to write the
gate. What is measured here is measured on training questions that the final check holds back from the strength
alone: judge a bundle on questions of your own (`edgesteer eval`).
"""

from __future__ import annotations

import dataclasses
import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgesteer.bundle import Bundle, GateWeights, ModelInfo, StrengthRange
from edgesteer.errors import LearnError, MissingExtra
from edgesteer.evaluate.chat import Chat
from edgesteer.evaluate.headtohead import Row, score
from edgesteer.learn.calibrate import GRID, best_strength
from edgesteer.learn.contrast import Contrast, contrast_pairs, steered_blocks
from edgesteer.learn.fit import fit_constant, fit_rank1
from edgesteer.learn.pairs import Pair, keep_good, reply_stream, sample_pairs, trait_floor
from edgesteer.learn.questions import Question, built_in
from edgesteer.runtime import SteeredLlama

METHODS = ("psr", "constant")

Progress = Callable[[str, float], None]

# Rough shares of the time that the stages take, for the time left.
_STAGES = {"sample": 0.58, "contrast": 0.22, "fit": 0.04, "calibrate": 0.08, "check": 0.08}

# Pairs that the strength is calibrated on, and questions that the result is checked on.
_N_VALIDATION = 6
_N_CHECK = 6


@dataclass(frozen=True, slots=True)
class LearnSummary:
    """What learning saw and reached. trait and nll0 as in evaluate.measures, nats a token, unsteered model.

    sampled, kept, dropped: replies, and those dropped by reason. tokens: positions that the fit saw.
    trait_rate: share of the steered replies to `checked` training questions that show as much of the trait as
    a prompted reply had to, to be kept.
    steered_*, prompted_*: means over those replies, and over the kept prompted ones; sampled alike.
    """

    method: str
    strength: float
    layers: int
    sampled: int
    kept: int
    dropped: dict[str, int]
    tokens: int
    checked: int
    trait_rate: float
    steered_trait: float
    steered_nll0: float
    prompted_trait: float
    prompted_nll0: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values, rounded; a mean over no replies is None."""
        return {key: _plain(value) for key, value in dataclasses.asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything about the learning besides trait and questions that changes the result."""

    method: str = "psr"
    seed: int = 0
    max_tokens: int = 48
    temperature: float = 0.7
    ridge: float = 0.03
    objective: str = "teacher-forced local deltas"


def learn(
    llm: SteeredLlama,
    trait: str,
    *,
    method: str = "psr",
    questions: Sequence[Question | str] | None = None,
    seed: int = 0,
    max_tokens: int = 48,
    temperature: float = 0.7,
    ridge: float = 0.03,
    name: str = "steering",
    license: str = "unspecified",
    progress: Progress = lambda stage, fraction: None,
) -> tuple[Bundle, LearnSummary]:
    """Learn a bundle that does to replies what `trait` does as a system prompt.

    Args:
        llm: loaded with `logits_all=True`; its own steering is set aside meanwhile.
        method: "psr" (rank-1 ReLU gates on all blocks) or "constant" (a vector on all blocks).
        questions: None for the built-in ones.
        progress: called with the stage and the fraction done of the whole, 0..1.
    Raises:
        LearnError: no trait, no questions, or no reply that shows the trait.
        MissingExtra: method "psr" without the `onnx` package.
    """
    started = time.monotonic()
    recipe = Recipe(method, seed, max_tokens, temperature, ridge)
    asked = (
        built_in()
        if questions is None
        else [q if isinstance(q, Question) else Question(q) for q in questions]
    )
    _check(recipe)
    with llm.steered([]):
        chat = Chat(llm)
        pairs = sample_pairs(
            chat,
            trait,
            asked,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            progress=_part(progress, "sample"),
        )
        kept, dropped = keep_good(pairs)
        contrasts = contrast_pairs(llm, kept, _part(progress, "contrast"))
        make = _Maker(llm.model_info, recipe, name, license, f"Learnt from one sentence: {trait}")
        strength = _calibrate(chat, make, kept, contrasts, _part(progress, "calibrate"))
        bundle = make.bundle(contrasts, strength)
        _part(progress, "check")(0.0)
        steered = _check_replies(chat, bundle, kept, recipe)
    progress("done", 1.0)
    summary = LearnSummary(
        method=method,
        strength=strength,
        layers=len(bundle.layers),
        sampled=len(pairs),
        kept=len(kept),
        dropped=dropped,
        tokens=sum(c.h.shape[1] for c in contrasts),
        checked=len(steered.replies),
        trait_rate=sum(t > trait_floor(pairs) for t in steered.traits) / len(steered.replies),
        steered_trait=steered.trait,
        steered_nll0=steered.nll0,
        prompted_trait=float(np.mean([p.trait for p in kept])),
        prompted_nll0=float(np.mean([p.nll0 for p in kept])),
        seconds=time.monotonic() - started,
    )
    return bundle.with_metadata(**_facts(trait, recipe, summary)), summary


@dataclass(frozen=True, slots=True)
class _Maker:
    """Makes bundles of one recipe from contrasts."""

    model: ModelInfo
    recipe: Recipe
    name: str
    license: str
    description: str

    def bundle(self, contrasts: Sequence[Contrast], strength: float = 1.0) -> Bundle:
        """Fit every block and put the result together. Raises LearnError if no block moves."""
        directions: dict[int, np.ndarray[Any, np.dtype[np.float32]]] = {}
        gates: dict[int, list[tuple[Any, Any]]] = {}
        for row, block in enumerate(steered_blocks(self.model.n_layer)):
            h = np.concatenate([c.h[row] for c in contrasts])
            delta = np.concatenate([c.delta[row] for c in contrasts])
            if self.recipe.method == "constant":
                directions[block] = fit_constant(delta)
            elif fitted := fit_rank1(h, delta, ridge=self.recipe.ridge):
                directions[block] = fitted.z
                gates[block] = [(fitted.w[:, None], np.array([fitted.b], dtype=np.float32))]
        return self._build(directions, gates or None, strength)

    def _build(self, directions: dict[int, Any], gates: GateWeights | None, strength: float) -> Bundle:
        if not any(direction.any() for direction in directions.values()):
            raise LearnError("the trait changes no activation of this model; word the trait more strongly")
        return Bundle.build(
            directions=directions,
            gate=gates,
            model=self.model,
            scope="response",
            strength=StrengthRange(strength, 0.0, max(2.0, round(1.5 * strength, 2))),
            name=self.name,
            license=self.license,
            description=self.description,
        )


def _calibrate(
    chat: Chat,
    make: _Maker,
    pairs: Sequence[Pair],
    contrasts: Sequence[Contrast],
    progress: Callable[[float], None],
) -> float:
    """The default strength, from pairs left out of a first fit (of all pairs, where they are few)."""
    held = _spread(len(pairs), _N_VALIDATION) if len(pairs) >= 3 * _N_VALIDATION else []
    seen = [c for i, c in enumerate(contrasts) if i not in held]
    judges = [pairs[i] for i in held] or list(pairs[:_N_VALIDATION])
    trial = make.bundle(seen, GRID[-1])  # its range holds every strength that is tried
    return best_strength(chat, trial, judges, progress)


def _check_replies(chat: Chat, bundle: Bundle, pairs: Sequence[Pair], recipe: Recipe) -> Row:
    """Steered replies to some of the training questions, drawn as the prompted ones were, scored unsteered."""
    chosen = [pairs[i] for i in _spread(len(pairs), _N_CHECK)]
    with chat.llm.steered(bundle):
        replies = [
            chat.reply(p.plain, recipe.max_tokens, recipe.temperature, reply_stream(recipe.seed, p.question))
            for p in chosen
        ]
    return score(
        chat,
        "steered",
        bundle.strength.default,
        replies,
        [p.plain for p in chosen],
        [p.prompted for p in chosen],
    )


def _facts(trait: str, recipe: Recipe, summary: LearnSummary) -> dict[str, Any]:
    """The manifest's `training` and `evaluation`. No clock: the same learning gives the same bytes."""
    known = summary.to_json()
    trained = {key: known[key] for key in ("sampled", "kept", "dropped", "tokens")}
    checked = ("checked", "trait_rate", "steered_trait", "steered_nll0", "prompted_trait", "prompted_nll0")
    return {
        "training": {
            "trait": trait,
            **dataclasses.asdict(recipe),
            **trained,
        },
        "evaluation": {"training questions": {key: known[key] for key in checked}},
    }


def _check(recipe: Recipe) -> None:
    if recipe.method not in METHODS:
        raise LearnError(f"method {recipe.method!r}: unknown, expected one of {', '.join(METHODS)}")
    if recipe.max_tokens < 1 or recipe.temperature < 0:
        raise LearnError(
            f"max_tokens {recipe.max_tokens}, temperature {recipe.temperature}: expected at least 1 and 0"
        )
    if recipe.method == "psr" and importlib.util.find_spec("onnx") is None:
        raise MissingExtra("onnx: not installed; needed to write a gate; pip install 'edgesteer[learn]'")


def _part(progress: Progress, stage: str) -> Callable[[float], None]:
    names = list(_STAGES)
    before = sum(_STAGES[name] for name in names[: names.index(stage)])
    return lambda fraction: progress(stage, before + _STAGES[stage] * fraction)


def _spread(n: int, most: int) -> list[int]:
    """At most `most` of the indices 0 .. n-1, evenly spaced."""
    return list(range(n)) if n <= most else [i * n // most for i in range(most)]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return None if value != value else round(value, 4)
    return value
