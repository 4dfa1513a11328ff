"""Learning end to end on a tiny random model: laws and refusals. What it reaches is measured on a real one."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesteer import Bundle, SteeredLlama
from edgesteer.bundle import load, save, verify
from edgesteer.errors import LearnError
from edgesteer.generate import Chat
from edgesteer.learn import LearnSummary, Recipe, ReplyStore, compare, learn
from edgesteer.generate import Question
from edgesteer.learn.calibrate import Yardstick
from edgesteer.learn.contrast import contrast_rows
from edgesteer.learn.pairs import Limits, keep_good, sample_pairs
from tests.learn.support import LENIENT, keep_every_reply

TRAIT = "You talk like a pirate, arr."
ASKED = [Question(text) for text in ("Why is it so?", "Tell me a tale.", "What is a key?", "Who are you?")]
SHORT: dict[str, Any] = {"max_tokens": 8, "emphasis": "never"}
WAYS: dict[str, dict[str, Any]] = {
    "A-PSR": {},
    "A-Const": {"method": "constant"},
    "A-Const of the principal component": {"method": "constant", "direction": "pca"},
    "S-PSR": {"blocks": "one"},
    "S-Const": {"method": "constant", "blocks": "one"},
    "one block by number": {"blocks": 2},
    "MLP gates": {"gate": "mlp:4"},
    "sequential": {"fit": "sequential"},
    "scope conversation": {"scope": "conversation"},
    "from two sentences": {"opposite": "You are a sober clerk."},
    "emphasis, best of two": {"emphasis": "always", "best_of": 2},
    "pruned": {"prune": True},
}


@pytest.fixture(autouse=True)
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_every_reply(monkeypatch)


def learnt(llm: SteeredLlama, **more: Any) -> tuple[Bundle, LearnSummary]:
    own = {k: more.pop(k) for k in list(more) if k in Recipe.__slots__}
    return learn(llm, more.pop("trait", TRAIT), Recipe(**{**SHORT, **own}), **{"questions": ASKED, **more})


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
    assert set(summary.left_out).isdisjoint(read.layers)
    json.dumps(summary.to_json(), allow_nan=False)


def test_the_default_strength_was_measured_and_lies_within_the_range(llm: SteeredLlama) -> None:
    bundle, summary = learnt(llm)
    assert bundle.strength.default == summary.strength == summary.steered.strength
    assert np.isfinite(summary.steered.coherence)
    curve = bundle.evaluation["training questions"]["curve"]
    assert [p["strength"] for p in curve] == [p.strength for p in summary.dose.curve]
    assert bundle.strength.min <= curve[0]["strength"]
    assert curve[-1]["strength"] == bundle.strength.max


def test_a_coherence_that_is_asked_for_is_the_target(llm: SteeredLlama) -> None:
    strict, loose = (learnt(llm, coherence=c)[1] for c in (1e-3, 1e3))
    assert not strict.dose.reached
    assert loose.dose.target_coherence == 1e3
    assert loose.dose.reached == any(p.distinct2 >= loose.dose.min_distinct2 for p in loose.dose.curve)


def test_no_more_coherence_is_asked_for_than_the_model_itself_has(llm: SteeredLlama) -> None:
    chat = Chat(llm)
    bundle, _ = learnt(llm, method="constant")
    yardstick = Yardstick.of(chat, TRAIT, [q.text for q in ASKED], 8, None, lambda part: None)
    own = yardstick._unsteered(chat)
    for given, wanted in ((False, own), (True, own / 2)):
        strict = dataclasses.replace(yardstick, target=own / 2, given=given)
        assert strict.dose(chat, bundle, 1.0, lambda part: None).target_coherence == wanted
    loose = dataclasses.replace(yardstick, target=own + 1e3)
    assert loose.dose(chat, bundle, 1.0, lambda part: None).target_coherence == own + 1e3


def test_another_seed_another_bundle(llm: SteeredLlama) -> None:
    one, two = (learnt(llm, seed=seed, temperature=1.0)[0] for seed in (0, 1))
    assert one.digest != two.digest


def test_the_opposite_learnt_alone_points_the_other_way(llm: SteeredLlama) -> None:
    """Trait and opposite exchanged: the same pairs with their signs turned, so the constant turns too."""
    sober = "You are a sober clerk."
    ways = {"method": "constant", "temperature": 0.0}
    one, _ = learnt(llm, opposite=sober, **ways)
    other, _ = learnt(llm, trait=sober, opposite=TRAIT, **ways)
    for block in one.layers:
        cosine = one.directions[block] @ other.directions[block]
        norms = np.linalg.norm(one.directions[block]) * np.linalg.norm(other.directions[block])
        assert cosine / norms < -0.98


def test_learning_leaves_the_models_own_plan(llm: SteeredLlama) -> None:
    bundle = learnt(llm, method="constant")[0]
    with llm.steered(bundle, bundle.strength.default):
        before = llm.steering.fingerprint
        again = learnt(llm, method="constant")[0]
        assert llm.steering.fingerprint == before
    assert again == bundle


def test_the_constant_is_the_mean_delta(llm: SteeredLlama) -> None:
    """From teacher's activations of a pass of their own: those of the sampling agree to rounding."""
    bundle = learnt(llm, method="constant", cap=None)[0]
    chat = Chat(llm)
    pairs, _ = keep_good(sample_pairs(chat, TRAIT, ASKED, max_tokens=8, seed=0), LENIENT)
    with contrast_rows(chat, pairs) as rows:
        for block in bundle.layers:
            mean = rows.delta(block).mean(axis=0)
            assert np.abs(bundle.directions[block] - mean).max() < 1e-3 * np.abs(mean).max()


def test_a_stopped_run_goes_on_to_the_same_bytes(llm: SteeredLlama, tmp_path: Path) -> None:
    whole = learnt(llm, best_of=2)[0]
    path = tmp_path / "p.part"
    seen: list[str] = []

    def stop(stage: str, fraction: float) -> None:
        seen.append(stage)
        if stage == "sample" and fraction > 0.3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learnt(llm, best_of=2, store=lambda facts: ReplyStore(path, facts), progress=stop)
    assert path.exists()
    resumed = learnt(llm, best_of=2, store=lambda facts: ReplyStore(path, facts))[0]
    assert resumed.layers == whole.layers
    for block in whole.layers:  # the teacher's activations come from another pass: equal to rounding
        assert np.allclose(resumed.directions[block], whole.directions[block], rtol=1e-2, atol=1e-4)
    with pytest.raises(LearnError, match="other: seed"):
        learnt(llm, best_of=2, seed=9, store=lambda facts: ReplyStore(path, facts))


def test_the_comparison_names_every_way_and_reaches_the_manifest(llm: SteeredLlama) -> None:
    bundle, summary = learnt(llm, against=("A-Const", "S-PSR"), counts=["a", "th"])
    assert summary.table is not None
    assert [row.name for row in summary.table.rows] == ["unsteered", "prompt", "A-Const", "S-PSR", "A-PSR"]
    told = bundle.evaluation["head-to-head"]
    assert told.keys() >= {"unsteered", "prompt", "A-Const", "S-PSR", "A-PSR"}
    assert "first_token_seconds" not in json.dumps(told)


def test_the_stages_seconds_leave_nothing_out(llm: SteeredLlama) -> None:
    began = time.monotonic()
    _, summary = learnt(llm, against=("A-PSR",))
    taken = time.monotonic() - began
    assert list(summary.seconds) == ["prompt", "sample", "contrast", "fit", "choose", "compare"]
    assert 0.8 * taken <= sum(summary.seconds.values()) <= taken


def test_a_trainer_goes_on_from_the_fit_and_the_better_of_the_two_steers(llm: SteeredLlama) -> None:
    (closed, without), told = learnt(llm), list[Any]()

    def trainer(fits: Any, pairs: Any, **how: Any) -> tuple[Any, dict[str, Any]]:
        told.append((sorted(fits), len(pairs), how["objective"], how["scope"], how["again"]))
        how["progress"](1.0)
        return {n: dataclasses.replace(fit, direction=2 * fit.direction) for n, fit in fits.items()}, {
            "steps": 7
        }

    bundle, summary = learnt(llm, refine="kl", trainer=trainer)
    first, again = told
    assert first == (list(closed.layers), summary.kept, "kl", "response", False)
    assert again == (list(closed.layers), summary.kept, "kl", "response", True)
    assert summary.method == "A-PSR+KL"
    assert bundle.training["refine"] == "kl"
    facts = summary.refined
    assert bundle.training["refined"] == facts == summary.to_json()["refined"]
    assert facts["steps"] == facts["own"]["steps"] == 7
    assert facts["trait"]["closed"] == round(without.dose.smoothed.trait, 4)
    for block in bundle.layers:
        times = 4 if facts["kept"] else 1
        assert np.array_equal(bundle.directions[block], times * closed.directions[block])
    with pytest.raises(LearnError, match="no trainer"):
        learnt(llm, refine="kl")


def test_what_a_trainer_went_on_from_is_compared_as_it_was_found(
    llm: SteeredLlama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A-PSR beside A-PSR+KL is the fit whose strength is known; only other forms are learnt for the comparison."""
    ordinary, found = compare.tuned, list[str]()

    def tuned(work: Any, *rest: Any) -> Any:
        found.append(compare.label(work.recipe))
        return ordinary(work, *rest)

    monkeypatch.setattr(compare, "tuned", tuned)
    _, summary = learnt(
        llm, refine="kl", trainer=lambda fits, pairs, **how: (fits, {}), against=("A-PSR", "A-Const")
    )
    assert summary.table is not None
    rows = {row.name: row for row in summary.table.rows}
    assert found == ["A-Const"]
    assert rows["A-PSR"].strength == learnt(llm)[1].strength


def test_how_many_questions_are_its_own_is_told_where_it_was_asked_for_some(llm: SteeredLlama) -> None:
    bundle, summary = learnt(llm, questions="auto")
    assert bundle.training["written_questions"] == summary.written
    assert summary.written is not None
    assert 0 <= summary.written <= summary.sampled
    bundle, summary = learnt(llm)
    assert summary.written is None
    assert "written_questions" not in bundle.training


@pytest.mark.parametrize("emphasis", ["auto", "always", "never"])
def test_a_trainer_follows_the_system_prompt_unless_emphasis_was_asked_for(
    llm: SteeredLlama, monkeypatch: pytest.MonkeyPatch, emphasis: str
) -> None:
    monkeypatch.setattr("edgesteer.learn.stages._HEEDED", 1e9)  # a trait that is hardly heeded
    chat, seen = Chat(llm), []

    def trainer(fits: Any, pairs: Any, **how: Any) -> tuple[Any, dict[str, Any]]:
        seen.extend(pairs)
        return fits, {"steps": 7}

    learnt(llm, refine="ll", trainer=trainer, emphasis=emphasis)
    wanted = chat.emphasised if emphasis == "always" else chat.prompt
    assert [pair.prompted for pair in seen] == [wanted(pair.question, TRAIT) for pair in seen]


def test_progress_never_goes_back_and_ends(llm: SteeredLlama) -> None:
    told: list[tuple[str, float]] = []
    learnt(llm, progress=lambda stage, fraction: told.append((stage, fraction)))
    assert told[-1] == ("done", 1.0)
    sampling = [fraction for stage, fraction in told if stage == "sample"]
    assert sampling == sorted(sampling)
    assert all(0 <= fraction <= 1 for _, fraction in told)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"trait": "  "}, "trait is empty"),
        ({"opposite": f" {TRAIT.upper()} "}, "expected two that differ"),
        ({"questions": []}, "no training questions"),
        ({"questions": ["why?"]}, "1 training question, expected at least 4"),
        ({"questions": "guess"}, "expected one of auto"),
        ({"questions": ["why " * 900, "a?", "b?", "c?"]}, "larger context"),
        ({"blocks": 0}, "block 0: expected 1 to"),
        ({"blocks": 99}, "block 99: expected 1 to"),
        ({"against": ["B-PSR"]}, "expected some of A-Const"),
        ({"counts": ["("]}, "regular expression"),
    ],
)
def test_bad_input_is_refused_in_one_line(llm: SteeredLlama, arguments: dict[str, Any], said: str) -> None:
    told: list[str] = []
    with pytest.raises(LearnError, match=said) as refused:
        learnt(llm, progress=lambda stage, fraction: told.append(stage), **arguments)
    assert "sample" not in told  # before the minutes of work
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"method": "magic"}, "expected one of psr, constant"),
        ({"gate": "gelu"}, "expected 'relu' or 'mlp:K'"),
        ({"gate": "mlp:1"}, "expected 'relu' or 'mlp:K'"),
        ({"refine": "guess"}, "expected one of kl, ll, mse"),
        ({"fit": "guess"}, "expected one of local, sequential"),
        ({"scope": "all"}, "expected one of response, conversation"),
        ({"direction": "median"}, "expected one of mean, pca"),
        ({"blocks": "some"}, "expected one of all, one"),
        ({"max_tokens": 0}, "expected at least 1"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"best_of": 0}, "best_of 0"),
        ({"ridge": 0.0}, "expected ridge above 0"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(recipe: dict[str, Any], said: str) -> None:
    with pytest.raises(LearnError, match=said):
        Recipe(**recipe)


def test_all_replies_dropped_says_why_and_shows_two(
    llm: SteeredLlama, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_every_reply(monkeypatch, Limits(min_distinct2=2.0, min_tokens=1))
    with pytest.raises(LearnError, match="all 4 replies were dropped .*repetitive"):
        learnt(llm)


def test_a_model_without_a_chat_template_needs_one(tmp_path: Path) -> None:
    from tests.tiny import tiny_model

    base = SteeredLlama(
        tiny_model("llama", tmp_path, chat_template=None),
        n_ctx=512,
        n_seq_max=4,
        n_threads=1,
        n_threads_batch=1,
    )
    with pytest.raises(LearnError, match="no chat template .* --template"):
        learnt(base)
    words = {"template": "{system}\nQ: {question}\nA:", "stop": "\n"}
    bundle, _ = learnt(base, **words)
    assert bundle.training["template"] == words["template"]
    for bad in ("{question", "{system}", "{question} {more}"):
        with pytest.raises(LearnError, match="template"):
            learnt(base, template=bad)
    base.close()
