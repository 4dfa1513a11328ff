"""Learning end to end on a tiny random model: laws and refusals. How well it works, a real one shows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgesteer
from edgesteer import Bundle, SteeredLlama
from edgesteer.bundle import load, save, verify
from edgesteer.errors import InputError, LearnError, OutputError
from edgesteer.generate import Chat, Question, strength_questions, training_questions
from edgesteer.learn import EFFORTS, Comparison, Forecast, LearnSummary, Limits, Recipe, learn
from edgesteer.learn.contrast import contrast_rows
from edgesteer.learn.fit import BlockFit
from edgesteer.learn.pairs import Pair, keep_good, sample_pairs
from edgesteer.learn.pipeline import questions_of
from tests.learn.support import LENIENT
from tests.tiny import tiny_model

TRAIT = "You talk like a pirate, arr."
ASKED = ["Why is it so?", "Tell me a tale.", "What is a key?", "Who are you?"]
SHORT: dict[str, Any] = {"max_tokens": 8}
MANY = [f"What is so good about {thing}?" for thing in "abcdefghijklmnopqrstuvwxyz"]
CLERK = "You are a sober clerk."
WAYS: dict[str, dict[str, Any]] = {
    "A-PSR": {},
    "S-PSR": {"blocks": "one"},
    "one block by number": {"blocks": 2, "method": "constant"},
    "scope conversation, from two sentences": {
        "scope": "conversation",
        "opposite": CLERK,
        "method": "constant",
    },
}


def learnt(llm: SteeredLlama, **more: Any) -> tuple[Bundle, LearnSummary]:
    recipe = Recipe(**{**SHORT, **{k: more.pop(k) for k in list(more) if k in Recipe.__slots__}})
    more = {"questions": ASKED, "limits": LENIENT, **more}
    return learn(llm, more.pop("trait", TRAIT), recipe, **more)


@pytest.fixture(scope="module")
def a_psr(llm: SteeredLlama) -> tuple[Bundle, LearnSummary]:
    return learnt(llm)


@pytest.fixture(scope="module")
def a_const(llm: SteeredLlama) -> tuple[Bundle, LearnSummary]:
    return learnt(llm, method="constant")


@pytest.mark.parametrize("way", WAYS)
def test_same_seed_same_bytes_and_the_bundle_is_valid(llm: SteeredLlama, tmp_path: Path, way: str) -> None:
    paths = [tmp_path / "a.steer", tmp_path / "b.steer"]
    for path in paths:
        bundle, summary = learnt(llm, **WAYS[way], seed=3, name="arr")
        save(bundle, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    verify(paths[0])
    read = load(paths[0])
    recipe = Recipe(**SHORT | WAYS[way])
    assert read.kind == ("psr" if recipe.method == "psr" else "vector")
    assert read.scope == recipe.scope
    assert recipe.blocks == "all" or len(read.layers) == 1
    assert not isinstance(recipe.blocks, int) or read.layers == (recipe.blocks,)
    assert read.training["trait"] == TRAIT
    assert (read.strength.min < 0) == (recipe.opposite is not None)
    json.dumps(summary.to_json(), allow_nan=False)


@pytest.mark.parametrize("learning", ["a_psr", "a_const"])
def test_the_default_strength_was_measured_and_lies_within_the_range(
    learning: str, request: pytest.FixtureRequest
) -> None:
    bundle, summary = request.getfixturevalue(learning)
    assert bundle.strength.default == summary.strength == summary.steered.strength
    assert np.isfinite(summary.steered.coherence)
    curve = bundle.evaluation["strength questions"]["curve"]
    assert [p["strength"] for p in curve] == [p.strength for p in summary.dose.curve]
    assert bundle.strength.min <= curve[0]["strength"]
    assert curve[-1]["strength"] == bundle.strength.max


def test_a_coherence_that_is_asked_for_is_the_target(llm: SteeredLlama) -> None:
    strict, loose = (learnt(llm, method="constant", coherence=c)[1] for c in (1e-3, 1e3))
    assert not strict.dose.reached
    assert loose.dose.target_coherence == 1e3
    assert loose.dose.reached == any(p.distinct2 >= loose.dose.min_distinct2 for p in loose.dose.curve)


def test_another_seed_another_bundle(llm: SteeredLlama, a_const: tuple[Bundle, LearnSummary]) -> None:
    assert learnt(llm, method="constant", seed=1)[0].digest != a_const[0].digest


def test_the_opposite_learnt_alone_points_the_other_way(llm: SteeredLlama) -> None:
    """Trait and opposite exchanged: the same pairs with their signs turned, so the constant turns too."""
    how: dict[str, Any] = {"method": "constant", "temperature": 0.0, "coherence": 1e3}
    one, _ = learnt(llm, opposite=CLERK, **how)
    other, _ = learnt(llm, trait=CLERK, opposite=TRAIT, **how)
    for block in one.layers:
        cosine = one.directions[block] @ other.directions[block]
        norms = np.linalg.norm(one.directions[block]) * np.linalg.norm(other.directions[block])
        assert cosine / norms < -0.98


def test_learning_leaves_the_models_own_plan(llm: SteeredLlama, a_const: tuple[Bundle, LearnSummary]) -> None:
    bundle = a_const[0]
    with llm.steered(bundle, bundle.strength.default):
        before = llm.steering.fingerprint
        assert learnt(llm, method="constant")[0] == bundle
        assert llm.steering.fingerprint == before


def test_the_constant_is_the_mean_delta(llm: SteeredLlama) -> None:
    """From teacher's activations of a pass of their own: those of the sampling agree to rounding."""
    bundle = learnt(llm, method="constant", cap=None)[0]
    chat = Chat(llm)
    questions = [Question(text) for text in ASKED]
    pairs, _ = keep_good(sample_pairs(chat, TRAIT, questions, Recipe(**SHORT)), LENIENT)
    with contrast_rows(chat, pairs) as rows:
        for block in bundle.layers:
            mean = rows.delta(block).mean(axis=0)
            assert np.abs(bundle.directions[block] - mean).max() < 1e-3 * np.abs(mean).max()


@pytest.mark.parametrize(
    ("stage", "at"), [("sample", 3), ("sample", 12), ("sample", 40), ("contrast", 1), ("choose", 2)]
)
def test_a_stopped_run_is_resumed_to_the_same_bytes(
    llm: SteeredLlama, tmp_path: Path, stage: str, at: int
) -> None:
    """Of more questions than the forecast looks at."""
    whole = learnt(llm, questions=MANY)[0]
    path, reports = tmp_path / "p.part", [stage] * at

    def stop(now: str, fraction: float) -> None:
        if now == stage and reports.pop() and not reports:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learnt(llm, questions=MANY, part=path, progress=stop)
    before = path.read_bytes() if path.exists() else b""
    assert learnt(llm, questions=MANY, part=path)[0] == whole
    assert path.read_bytes().startswith(before)
    assert stage == "sample" or path.read_bytes() == before  # nothing was sampled again


def test_the_part_of_other_arguments_is_refused_unless_it_may_be_replaced(
    llm: SteeredLlama, tmp_path: Path
) -> None:
    path = tmp_path / "p.part"
    learnt(llm, part=path)
    with pytest.raises(OutputError, match="other seed"):
        learnt(llm, seed=9, part=path)
    learnt(llm, seed=9, part=path, replace=True)
    assert path.exists()


# -- with a trainer ----------------------------------------------------------------------------------


class Drawing:
    """A trainer that draws small directions, and records what it was handed."""

    def __init__(self, n_embd: int) -> None:
        self.n_embd = n_embd
        self.pairs: list[Pair] = []
        self.how: list[dict[str, Any]] = []

    def __call__(
        self, pairs: Any, held: Any, *, blocks: Any, gated: bool, **how: Any
    ) -> tuple[dict[int, BlockFit], dict[str, Any]]:
        self.pairs += [*pairs, *held]
        self.how.append({"blocks": list(blocks), "gated": gated, **how})
        how["progress"](1.0)
        layer = np.zeros((self.n_embd, 1), np.float32), np.ones(1, np.float32)
        drawn = np.random.default_rng(7).normal(size=(99, self.n_embd)).astype(np.float32) / 50
        return {n: BlockFit(drawn[n], (layer,) if gated else (), 0.0) for n in blocks}, {"steps": 3}


def test_a_trainer_learns_and_the_closed_forms_stand_beside_it(llm: SteeredLlama) -> None:
    trainer, reported = Drawing(llm.n_embd()), list[tuple[str, float]]()
    bundle, summary = learnt(
        llm,
        questions=MANY,
        trainer=trainer,
        comparison=Comparison(("A-PSR", "S-Const"), ["a", "th"]),
        progress=lambda stage, fraction: reported.append((stage, fraction)),
    )
    assert summary.method == "A-PSR+KL"
    assert summary.explained is None
    assert list(bundle.layers) == trainer.how[0]["blocks"]
    assert bundle.training["trained"] == summary.trained == summary.to_json()["trained"]
    assert bundle.strength.default == summary.strength == summary.steered.strength

    assert summary.table is not None
    rows = {row.name: row for row in summary.table.rows}
    assert list(rows) == ["unsteered", "prompt", "S-Const", "A-PSR", "A-PSR+KL"]
    assert rows["A-PSR+KL"].strength == summary.strength
    assert bundle.evaluation["head-to-head"].keys() >= rows.keys()
    assert "first_token_seconds" not in json.dumps(bundle.evaluation)

    assert not {"contrast", "fit"} & summary.seconds.keys()
    fractions = [fraction for _, fraction in reported]
    assert reported[-1] == ("done", 1.0)
    assert fractions == sorted(fractions)
    assert fractions[0] >= 0


def test_a_trainer_gets_every_sound_reply_behind_the_system_prompt(llm: SteeredLlama) -> None:
    """Also where the prompt has no effect, so that the closed form repeats it after each question."""
    trainer, template = Drawing(llm.n_embd()), "Q: {question}\nA:"
    none = Limits(min_tokens=1, min_distinct2=0.0, max_nll=1e9, min_trait=1e9)
    _, summary = learnt(llm, trainer=trainer, template=template, limits=none, questions=MANY)
    assert not summary.emphasised
    chat = Chat(llm, template)
    assert {p.question for p in trainer.pairs} < set(MANY)
    for pair in trainer.pairs:
        assert pair.plain == chat.prompt(pair.question)
        assert pair.prompted == chat.prompt(pair.question, TRAIT)
    _, closed = learnt(llm, template=template, questions=MANY)
    assert closed.emphasised


@pytest.mark.parametrize("method", ["psr", "constant"])
def test_one_block_is_trained_where_the_closed_form_serves_best(llm: SteeredLlama, method: str) -> None:
    trainer = Drawing(llm.n_embd())
    closed, _ = learnt(llm, method=method, blocks="one", questions=MANY)
    trained, summary = learnt(llm, method=method, blocks="one", questions=MANY, trainer=trainer)
    assert trained.layers == closed.layers
    assert trainer.how[0]["blocks"] == list(closed.layers)
    assert trainer.how[0]["gated"] is (method == "psr")
    assert trainer.how[0]["start"] is None
    assert trained.training["blocks"] == "one"
    assert summary.method == ("S-PSR+KL" if method == "psr" else "S-Const+KL")


# -- questions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("effort", EFFORTS)
def test_more_effort_learns_from_more_of_the_same_questions(effort: str) -> None:
    training, apart = questions_of(Recipe(effort=effort), None)
    assert [q.text for q in training] == training_questions()[: EFFORTS[effort].questions]
    assert len(training) == EFFORTS[effort].questions
    assert apart == strength_questions()[: EFFORTS[effort].measured]
    assert len(apart) == EFFORTS[effort].measured


def test_of_many_given_questions_some_are_kept_for_the_strength() -> None:
    training, apart = questions_of(Recipe(), MANY)
    assert sorted([*apart, *(q.text for q in training)]) == sorted(MANY)
    assert len(apart) == 9
    more = [f"{q} {i}" for q in MANY for i in range(20)]
    training, apart = questions_of(Recipe(), more)
    assert sorted([*apart, *(q.text for q in training)]) == sorted(more)  # none is left out
    assert len(apart) == EFFORTS["normal"].measured
    assert more.index(apart[-1]) > 0.9 * len(more)
    few = MANY[:23]
    assert questions_of(Recipe(), few) == ([Question(q) for q in few], few)
    answered = [Question(q, "Arr.") for q in MANY]  # what a person wrote is learnt from
    assert questions_of(Recipe(), answered) == (answered, MANY[: EFFORTS["normal"].measured])


def test_no_reply_is_sampled_beside_a_written_one_wherever_it_stands(llm: SteeredLlama) -> None:
    """Each question has a reply of each sign, far behind one another in the list, and stands there bare."""
    signs = [Question(q, f"{text} {q}", sign) for sign, text in ((1, "Arr,"), (-1, "Dear sir,")) for q in MANY]
    fractions = list[float]()
    _, summary = learnt(
        llm,
        questions=[*MANY, *signs],
        opposite=CLERK,
        method="constant",
        progress=lambda stage, fraction: fractions.append(fraction),
    )
    assert sorted((p.question, p.sign) for p in summary.pairs) == sorted((q.text, q.sign) for q in signs)
    assert all(p.given for p in summary.pairs)
    assert fractions == sorted(fractions)


def test_replies_that_the_token_limit_cuts_are_not_too_short(llm: SteeredLlama) -> None:
    limits = Limits(min_tokens=8, min_distinct2=0.0, max_nll=1e9, min_trait=-1e9)
    _, summary = learnt(llm, limits=limits, max_tokens=2, method="constant")
    assert (summary.kept, summary.dropped) == (len(ASKED), {})


def test_sampling_of_two_sentences_never_goes_back(llm: SteeredLlama) -> None:
    fractions = list[float]()
    learnt(
        llm,
        questions=MANY,
        opposite=CLERK,
        method="constant",
        progress=lambda stage, fraction: fractions.append(fraction),
    )
    assert fractions == sorted(fractions)


def test_the_forecast_is_known_before_the_rest_is_sampled(llm: SteeredLlama) -> None:
    said = list[tuple[Forecast, float]]()
    at = [0.0]
    bundle, summary = learnt(
        llm,
        questions=MANY * 2 + [f"{q} Really?" for q in MANY],
        method="constant",
        on_forecast=lambda forecast: said.append((forecast, at[0])),
        progress=lambda stage, fraction: at.__setitem__(0, fraction),
    )
    ((forecast, fraction),) = said
    assert forecast == summary.forecast
    assert bundle.training["forecast"] == {"similarity": forecast.similarity, "well": forecast.well}
    assert fraction < 0.5


# -- the rest ----------------------------------------------------------------------------------------


def test_one_sequence_and_the_name_at_the_top_are_enough(model: Callable[[str], Path]) -> None:
    """`from edgesteer import learn`, and a model opened as for chatting."""
    llm = SteeredLlama(model("llama"), n_ctx=256, n_threads=1, n_threads_batch=1)
    recipe = Recipe(method="constant", max_tokens=4)
    bundle, summary = edgesteer.learn(llm, TRAIT, recipe, questions=ASKED, limits=LENIENT)
    assert bundle.training["trait"] == TRAIT
    assert summary.kept == len(ASKED)
    with llm.steered(bundle):
        assert llm.steering
    llm.close()


def test_a_recipe_of_older_options_in_a_manifest_stays_readable(
    a_const: tuple[Bundle, LearnSummary], tmp_path: Path
) -> None:
    older = {"gate": "mlp:8", "direction": "pca", "fit": "sequential", "prune": True, "left_out": [3]}
    bundle = a_const[0]
    save(bundle.with_metadata(training={**bundle.training, **older}), tmp_path / "old.steer")
    verify(tmp_path / "old.steer")
    read = load(tmp_path / "old.steer")
    assert {key: read.training[key] for key in older} == older


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"trait": "  "}, "trait is empty"),
        ({"opposite": f" {TRAIT.upper()} "}, "expected two that differ"),
        ({"questions": []}, "no training questions"),
        ({"questions": ["why?"]}, "1 training question, expected at least 4"),
        ({"questions": ["why " * 900, "a?", "b?", "c?"]}, "larger context"),
        ({"blocks": 0}, "block 0: expected 1 to"),
        ({"blocks": 99}, "block 99: expected 1 to"),
        ({"comparison": Comparison(["B-PSR"])}, "expected some of A-Const"),
        ({"comparison": Comparison(["A-Const"], ["("])}, "regular expression"),
        ({"effort": "quick", "trainer": lambda *_, **__: None}, "effort 'quick' does not train"),
        ({"limits": Limits(min_distinct2=2.0, min_tokens=1)}, "all 4 replies were dropped .*repetitive"),
    ],
)
def test_bad_input_is_refused_in_one_line(llm: SteeredLlama, arguments: dict[str, Any], message: str) -> None:
    stages: list[str] = []
    with pytest.raises((LearnError, InputError), match=message) as refused:
        learnt(llm, progress=lambda stage, fraction: stages.append(stage), **arguments)
    assert "limits" in arguments or "sample" not in stages  # before the minutes of work
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"effort": "much"}, "expected one of quick, normal, thorough"),
        ({"method": "magic"}, "expected one of psr, constant"),
        ({"scope": "all"}, "expected one of response, conversation"),
        ({"blocks": "some"}, "expected one of all, one"),
        ({"max_tokens": 0}, "max_tokens 0"),
        ({"seed": -1}, "seed -1"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"temperature": -1.0}, "temperature -1"),
        ({"ridge": 0.0}, "expected a ridge above 0"),
        ({"ridge": float("nan")}, "expected a ridge above 0"),
        ({"cap": 0.0}, "a cap above 0"),
    ],
)
def test_a_recipe_that_cannot_be_used_is_refused(recipe: dict[str, Any], message: str) -> None:
    with pytest.raises(LearnError, match=message):
        Recipe(**recipe)


def test_a_model_without_a_chat_template_needs_one(tmp_path: Path) -> None:
    base = SteeredLlama(
        tiny_model("llama", tmp_path, chat_template=None), n_ctx=512, n_threads=1, n_threads_batch=1
    )
    with pytest.raises(InputError, match="no chat template .* --template"):
        learnt(base)
    with pytest.raises(InputError, match="template"):
        learnt(base, template="{question} {more}")
    template = {"template": "{system}\nQ: {question}\nA:", "stop": "\n"}
    bundle, _ = learnt(base, method="constant", max_tokens=4, **template)
    assert template.items() <= bundle.training.items()
    base.close()
