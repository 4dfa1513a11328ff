"""Training rows from pairs: what is compared, where, and that grouping and spooling change nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from edgesteer import SteeredLlama
from edgesteer.errors import InputError, LearnError, OutputError
from edgesteer.generate import Chat
from edgesteer.learn import Recipe
from edgesteer.learn.contrast import contrast_rows, steered_blocks
from edgesteer.learn.fit import fit_blocks
from edgesteer.learn.rows import Rows
from edgesteer.learn.task import Task

TRAIT = "You talk like a pirate, arr."


@dataclass(frozen=True)
class Pair:
    plain: list[int]
    prompted: list[int]
    reply: list[int]
    sign: int = 1


@pytest.fixture(scope="module")
def chat(llm: SteeredLlama) -> Chat:
    return Chat(llm)


@pytest.fixture(scope="module")
def pairs(chat: Chat) -> list[Pair]:
    asked = ["Why is it so?", "Tell me a tale.", "What is a key?", "Who are you?", "Say a long thing."]
    return [
        Pair(chat.prompt(q), chat.prompt(q, TRAIT), list(range(40 + i, 46 + 2 * i)))
        for i, q in enumerate(asked)
    ]


def arrays(rows: Rows) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    with rows:
        return {block: (h.copy(), delta.copy()) for block, h, delta in rows.each()}


def same(one: dict, two: dict, tolerance: float = 0.0) -> None:
    assert one.keys() == two.keys()
    for block in one:
        for a, b in zip(one[block], two[block], strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def captured(chat: Chat, tokens: list[int], n: int) -> dict[int, np.ndarray]:
    """The last n rows of a text that is run alone."""
    blocks = list(steered_blocks(chat.llm.model_info.n_layer))
    return {b: stream[-n:] for b, stream in chat.llm.capture(tokens, blocks).items()}


def test_accumulated_rows_are_what_the_model_has_in_the_two_contexts(chat: Chat, pairs: list[Pair]) -> None:
    rows = arrays(contrast_rows(chat, pairs, kind="accumulated"))
    start = 0
    for pair in pairs:
        n = len(pair.reply)
        plain = captured(chat, pair.plain + pair.reply[:-1], n)
        teacher = captured(chat, pair.prompted + pair.reply[:-1], n)
        for block, (h, delta) in rows.items():
            np.testing.assert_allclose(h[start : start + n], plain[block], atol=2e-3)
            np.testing.assert_allclose(delta[start : start + n], teacher[block] - plain[block], atol=2e-3)
        start += n
    assert all(len(h) == start for h, _ in rows.values())


def test_the_first_steered_block_needs_the_same_in_both_kinds_and_others_do_not(
    chat: Chat, pairs: list[Pair]
) -> None:
    local, accumulated = (arrays(contrast_rows(chat, pairs, kind=k)) for k in ("local", "accumulated"))
    first, *others = sorted(local)
    same({first: local[first]}, {first: accumulated[first]})
    for block in others:
        assert np.abs(local[block][0] - accumulated[block][0]).max() > 1e-3


@pytest.mark.parametrize("kind", ["local", "accumulated"])
@pytest.mark.parametrize("scope", ["response", "conversation"])
def test_the_teacher_alone_is_the_goal_of_both_kinds(
    chat: Chat, pairs: list[Pair], kind: str, scope: str
) -> None:
    rows = arrays(contrast_rows(chat, pairs[:1], kind=kind, scope=scope))
    n = len(next(iter(rows.values()))[0])
    goal = captured(chat, pairs[0].prompted + pairs[0].reply[:-1], n)
    for block, (h, delta) in rows.items():
        np.testing.assert_allclose(h + delta, goal[block], atol=2e-3)


def test_without_the_trait_there_is_nothing_to_add(chat: Chat, pairs: list[Pair]) -> None:
    rows = arrays(contrast_rows(chat, [replace(p, prompted=p.plain) for p in pairs]))
    assert all(np.abs(delta).max() < 2e-3 for _, delta in rows.values())


def test_sign_turns_delta_and_nothing_else(chat: Chat, pairs: list[Pair]) -> None:
    wanted, unwanted = (arrays(contrast_rows(chat, [replace(p, sign=s) for p in pairs])) for s in (1, -1))
    same(wanted, {block: (h, -delta) for block, (h, delta) in unwanted.items()})


def test_activations_from_sampling_are_those_of_a_teacher_pass(chat: Chat, pairs: list[Pair]) -> None:
    blocks = steered_blocks(chat.llm.model_info.n_layer)
    replies = chat.replies([p.prompted for p in pairs], 7, layers=blocks)
    said = [replace(p, reply=r.all_tokens) for p, r in zip(pairs, replies, strict=True)]
    given = arrays(contrast_rows(chat, said, teacher=[r.seen for r in replies]))
    same(given, arrays(contrast_rows(chat, said)), 1e-3)
    some = arrays(contrast_rows(chat, said, teacher=[replies[0].seen, None, *[r.seen for r in replies[2:]]]))
    same(given, some, 1e-3)


def test_same_call_same_bits_and_groups_change_rounding_alone(
    chat: Chat, pairs: list[Pair], tmp_path: Path
) -> None:
    rows = arrays(contrast_rows(chat, pairs))
    same(rows, arrays(contrast_rows(chat, pairs, directory=tmp_path, ram_bytes=0)))
    same(rows, arrays(contrast_rows(chat, pairs, group_bytes=1)), 1e-3)


def test_a_pair_without_reply_has_no_rows(chat: Chat, pairs: list[Pair]) -> None:
    silent = [replace(pairs[0], reply=[]), *pairs[1:3]]
    same(arrays(contrast_rows(chat, silent)), arrays(contrast_rows(chat, pairs[1:3])))


def test_scope_conversation_adds_what_both_prompts_end_with_behind_the_system_turn(
    chat: Chat, pairs: list[Pair]
) -> None:
    pair = pairs[0]
    alike = [a == b for a, b in zip(reversed(pair.plain), reversed(pair.prompted), strict=False)]
    common = alike.index(False) if False in alike else len(alike)
    assert common > 1
    with contrast_rows(chat, [pair], scope="conversation") as rows:
        assert rows.n_rows == common + len(pair.reply) - 1
    answer = arrays(contrast_rows(chat, [pair], kind="accumulated"))
    whole = arrays(contrast_rows(chat, [pair], kind="accumulated", scope="conversation"))
    n = len(pair.reply)
    same(answer, {block: (h[-n:], delta[-n:]) for block, (h, delta) in whole.items()}, 2e-3)


def test_prompts_that_end_differently_still_give_the_row_that_speaks(chat: Chat, pairs: list[Pair]) -> None:
    odd = replace(pairs[0], prompted=[*pairs[0].prompted, 50])
    with contrast_rows(chat, [odd], scope="conversation") as rows:
        assert rows.n_rows == len(odd.reply)


def test_a_prompt_that_is_in_scope_as_a_whole_needs_no_row_in_front(chat: Chat, pairs: list[Pair]) -> None:
    bare = replace(pairs[0], plain=[60, 61, 62], prompted=[44, 45, 60, 61, 62])
    with contrast_rows(chat, [bare], scope="conversation") as rows:
        assert rows.n_rows == 3 + len(bare.reply) - 1


def test_steering_is_set_aside_and_comes_back(chat: Chat, pairs: list[Pair]) -> None:
    recipe = Recipe(method="constant")
    with contrast_rows(chat, pairs) as rows:
        fits = fit_blocks(rows, recipe)
        before = {block: (h.copy(), delta.copy()) for block, h, delta in rows.each()}
    with chat.llm.steered(Task(chat, TRAIT, recipe).bundle(fits)):
        plan = chat.llm.steering
        same(before, arrays(contrast_rows(chat, pairs)))
        assert chat.llm.steering is plan


# -- bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        ({"plain": []}, {}, "pair 1: an empty prompt"),
        ({"sign": 0}, {}, "sign 0"),
        ({}, {"kind": "global"}, "kind 'global'"),
        ({}, {"scope": "all"}, "scope 'all'"),
        (
            {},
            {"teacher": [None, np.zeros((1, 8, 3), dtype=np.float32), None, None, None]},
            "pair 1: activations",
        ),
        ({}, {"blocks": []}, "at least one"),
    ],
)
def test_bad_input_is_one_clear_error(
    chat: Chat, pairs: list[Pair], change: dict, options: dict, said: str
) -> None:
    bad = [pairs[0], replace(pairs[1], **change), *pairs[2:]]
    with pytest.raises(LearnError, match=said):
        contrast_rows(chat, bad, **options)
    assert not chat.llm.steering


def test_no_pairs_no_replies_too_long(chat: Chat, pairs: list[Pair]) -> None:
    for nothing in ([], [replace(pairs[0], reply=[])]):
        with pytest.raises(LearnError, match="no reply"):
            contrast_rows(chat, nothing)
    with pytest.raises(InputError, match="larger context"):
        contrast_rows(chat, [replace(pairs[0], reply=[45] * 1200)])


def test_a_failure_midway_leaves_no_file_and_no_steering(
    chat: Chat, pairs: list[Pair], tmp_path: Path
) -> None:
    def stop(fraction: float) -> None:
        if fraction:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        contrast_rows(chat, pairs, directory=tmp_path, ram_bytes=0, group_bytes=1, progress=stop)
    assert not list(tmp_path.iterdir())
    assert not chat.llm.steering
    with pytest.raises(OutputError, match="TMPDIR"):
        contrast_rows(chat, pairs, directory=tmp_path / "missing", ram_bytes=0)


def test_blocks_that_can_be_steered() -> None:
    assert list(steered_blocks(5)) == [1, 2, 3]
    assert list(steered_blocks(2)) == [1]
