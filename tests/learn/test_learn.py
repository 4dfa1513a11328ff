"""Learning end to end on a tiny random model: laws and refusals. What it reaches is measured on a real one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgesteer import SteeredLlama
from edgesteer.bundle import load, save, verify
from edgesteer.errors import LearnError
from edgesteer.evaluate import Chat
from edgesteer.learn import Question, learn
from edgesteer.learn.contrast import contrast, contrast_pairs, steered_blocks
from edgesteer.learn.fit import fit_constant
from edgesteer.learn.pairs import Limits, keep_good, make_pair, sample_pairs

TRAIT = "You talk like a pirate, arr."
ASKED = [Question("Why is it so?"), Question("Tell me a tale."), Question("What is a key?")]


@pytest.fixture(scope="module")
def llm(model: Callable[[str], Path]) -> Iterator[SteeredLlama]:
    opened = SteeredLlama(str(model("llama")), n_ctx=512, n_threads=2, n_threads_batch=2, logits_all=True)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def keep_every_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model babbles: judge nothing."""
    lenient = Limits(min_tokens=1, min_distinct2=0.0, max_nll=1e9, min_trait=-1e9)
    monkeypatch.setattr("edgesteer.learn.recipe.keep_good", lambda pairs: keep_good(pairs, lenient))


def pair_of(llm: SteeredLlama, trait: str = TRAIT) -> object:
    return make_pair(Chat(llm), trait, ASKED[0], 12, 1.0, np.random.default_rng(0))


@pytest.mark.parametrize("method", ["psr", "constant"])
def test_same_seed_same_bytes_and_the_bundle_is_valid(llm: SteeredLlama, tmp_path: Path, method: str) -> None:
    paths = [tmp_path / "a.steer", tmp_path / "b.steer"]
    for path in paths:
        bundle, summary = learn(llm, TRAIT, method=method, questions=ASKED, seed=3, max_tokens=12, name="arr")
        save(bundle, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    verify(paths[0])
    read = load(paths[0])
    assert read.kind == ("psr" if method == "psr" else "vector")
    assert read.scope == "response"
    assert read.strength.default == summary.strength
    assert summary.sampled == len(ASKED)
    json.dumps(summary.to_json(), allow_nan=False)


def test_another_seed_another_bundle(llm: SteeredLlama) -> None:
    one, two = (learn(llm, TRAIT, questions=ASKED, seed=s, max_tokens=12, temperature=1.0)[0] for s in (0, 1))
    assert one.digest != two.digest


def test_a_question_keeps_its_reply_whatever_stands_beside_it(llm: SteeredLlama) -> None:
    chat = Chat(llm)
    together = sample_pairs(chat, TRAIT, ASKED, max_tokens=12, temperature=1.0, seed=5)
    alone = sample_pairs(chat, TRAIT, ASKED[1:2], max_tokens=12, temperature=1.0, seed=5)
    assert together[1].reply == alone[0].reply


def test_a_given_reply_is_learnt_from(llm: SteeredLlama) -> None:
    chat = Chat(llm)
    pair = sample_pairs(chat, TRAIT, [Question("Why?", "Arr, matey!")], max_tokens=64)[0]
    assert chat.text(pair.reply).strip() == "Arr, matey!"


def test_learning_leaves_the_models_own_plan(llm: SteeredLlama) -> None:
    bundle = learn(llm, TRAIT, method="constant", questions=ASKED, max_tokens=12)[0]
    with llm.steered(bundle, 0.5):
        before = llm.steering.fingerprint
        again = learn(llm, TRAIT, method="constant", questions=ASKED, max_tokens=12)[0]
        assert llm.steering.fingerprint == before
    assert again == bundle


def test_equal_prompts_have_no_contrast(llm: SteeredLlama) -> None:
    """Where teacher and student read the same prompt, nothing is missing at any block."""
    pair = pair_of(llm)
    same = type(pair)(**{k: getattr(pair, k) for k in pair.__slots__} | {"prompted": pair.plain})  # type: ignore[attr-defined]
    found = contrast_pairs(llm, [same])[0]
    assert np.abs(found.delta).max() < 1e-4 * np.abs(found.h).max()


def test_delta_completes_the_student_to_the_teacher(llm: SteeredLlama) -> None:
    """h + delta is what the teacher has there, block by block: the sequence's end, aligned."""
    pair = pair_of(llm)
    n = pair.n_positions  # type: ignore[attr-defined]
    blocks = steered_blocks(llm.model_info.n_layer)
    found = contrast(llm, pair, blocks, np.arange(n))  # type: ignore[arg-type]
    teacher = llm.capture(pair.prompted + pair.reply, blocks)  # type: ignore[attr-defined]
    for row, block in enumerate(blocks):
        np.testing.assert_allclose(found.h[row] + found.delta[row], teacher[block][-n:], rtol=1e-4, atol=1e-5)


def test_steering_by_the_recorded_deltas_gives_the_teachers_next_tokens(llm: SteeredLlama) -> None:
    """The deltas are local: adding each at its block while the others are added too restores the teacher."""
    pair = pair_of(llm)
    n = pair.n_positions  # type: ignore[attr-defined]
    blocks = steered_blocks(llm.model_info.n_layer)
    found = contrast(llm, pair, blocks, np.arange(n))  # type: ignore[arg-type]
    teacher = llm.capture(pair.prompted + pair.reply, blocks)  # type: ignore[attr-defined]
    plain = llm.capture(pair.plain, blocks)  # type: ignore[attr-defined]
    goal = {b: np.concatenate([plain[b][:-1], teacher[b][-n:]]) for b in blocks}
    arrived = llm.forced(pair.plain + pair.reply, goal)  # type: ignore[attr-defined]
    for row, block in enumerate(blocks):
        np.testing.assert_allclose(
            arrived[block][-n:] + found.delta[row], goal[block][-n:], rtol=1e-4, atol=1e-5
        )


def test_the_constant_is_the_mean_delta(llm: SteeredLlama) -> None:
    lenient = Limits(1, 0.0, 1e9, -1e9)
    pairs, _ = keep_good(sample_pairs(Chat(llm), TRAIT, ASKED, max_tokens=12, seed=0), lenient)
    found = contrast_pairs(llm, pairs)
    bundle = learn(llm, TRAIT, method="constant", questions=ASKED, seed=0, max_tokens=12)[0]
    for row, block in enumerate(bundle.layers):
        expected = fit_constant(np.concatenate([c.delta[row] for c in found]))
        np.testing.assert_array_equal(bundle.directions[block], expected)


def test_memory_is_bounded_by_spacing_positions(llm: SteeredLlama, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = pair_of(llm)
    info = llm.model_info
    monkeypatch.setattr(
        "edgesteer.learn.contrast.MAX_BYTES", 2 * 4 * len(steered_blocks(info.n_layer)) * info.n_embd * 10
    )
    found = contrast_pairs(llm, [pair, pair])  # type: ignore[list-item]
    assert [c.h.shape[1] for c in found] == [5, 5]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"trait": "  "}, "trait is empty"),
        ({"questions": []}, "no training questions"),
        ({"method": "magic"}, "unknown"),
        ({"max_tokens": 0}, "expected at least 1"),
        ({"questions": ["why " * 600]}, "larger context"),
    ],
)
def test_bad_input_is_refused_in_one_line(llm: SteeredLlama, arguments: dict[str, object], said: str) -> None:
    with pytest.raises(LearnError, match=said) as refused:
        learn(llm, **{"trait": TRAIT, "questions": ASKED, **arguments})  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


def test_all_replies_dropped_is_an_error(llm: SteeredLlama, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "edgesteer.learn.recipe.keep_good", lambda pairs: keep_good(pairs, Limits(min_tokens=999))
    )
    with pytest.raises(LearnError, match="all 3 replies were dropped"):
        learn(llm, TRAIT, questions=ASKED, max_tokens=12)


def test_a_model_without_all_logits_is_refused(model: Callable[[str], Path]) -> None:
    opened = SteeredLlama(str(model("llama")), n_ctx=1024, n_batch=64, n_threads=2, n_threads_batch=2)
    with pytest.raises(LearnError, match="logits_all=True"):
        learn(opened, TRAIT, questions=ASKED)
    opened.close()
