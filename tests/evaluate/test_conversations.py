"""Scripted conversations on a tiny random model: what is asked, what is measured, and what ends them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from edgesteer import Bundle, SteeredLlama
from edgesteer.errors import InputError
from edgesteer.evaluate import head_to_head
from edgesteer.evaluate.conversation_scripts import Script, read_scripts
from edgesteer.evaluate.conversation_table import ConversationRow, ConversationTable
from edgesteer.evaluate.conversations import conversations
from edgesteer.evaluate.llm_judge import AtCoherence
from edgesteer.evaluate.table import Judging
from edgesteer.generate import REPEAT_PENALTY, Chat, Tokens, score
from edgesteer.generate.progress import Done, no_progress
from edgesteer.report.conversations import lines
from tests.tiny import CHATML, tiny_model

TRAIT = "You talk like a pirate, arr."
SCRIPTS = [
    Script("ships", ("Why is it so?", "And then?", "Who said it?")),
    Script("keys", ("What is a key?", "I have none.", "Thanks.")),
    Script("tea", ("Make tea.", "Is it hot?", "Good.")),
]


def held(
    chat: Chat, bundle: Bundle | None = None, scripts: Sequence[Script] = SCRIPTS, **options: object
) -> ConversationTable:
    """Three turns; with a bundle, a row at strength 3."""
    rows = [] if bundle is None else [("full", [(bundle, 3.0)])]
    how: dict[str, object] = {"turns": 3, "max_tokens": 8, **options}
    return conversations(chat, TRAIT, rows, scripts, **how)  # type: ignore[arg-type]


def value(row: ConversationRow, measure: str) -> list[float]:
    return [each.value for each in row.turns[measure]]


def same(a: ConversationRow, b: ConversationRow) -> bool:
    """Whether two rows have the same replies and, bit for bit, the same figures."""
    figures = [json.dumps({**row.turns, "kept": row.trait_kept}, default=repr) for row in (a, b)]
    return a.replies == b.replies and figures[0] == figures[1]


def by_hand(chat: Chat, turn: int, replies: Sequence[Sequence[str]], system: str | None = None) -> list[Tokens]:
    """The prompts for a turn of SCRIPTS, behind the replies before it."""
    template, prompts = chat.llm.chat_template, []
    assert template is not None
    for script, own in zip(SCRIPTS, replies, strict=True):
        messages = [] if system is None else [{"role": "system", "content": system}]
        for question, reply in zip(script.turns[:turn], own, strict=False):
            messages += {"role": "user", "content": question}, {"role": "assistant", "content": reply}
        messages.append({"role": "user", "content": script.turns[turn]})
        prompts.append(template.tokens(template.text(messages, think=chat.reasoning == "keep")))
    return prompts


def greedy(chat: Chat, prompts: Sequence[Tokens]) -> list[str]:
    return [chat.text(r.tokens) for r in chat.replies(prompts, 8, repeat_penalty=REPEAT_PENALTY)]


def test_the_first_turn_is_a_head_to_head(chat: Chat, bundle: Bundle) -> None:
    table = held(chat, bundle)
    questions = [script.turns[0] for script in SCRIPTS]
    rows = [("full", [(bundle, 3.0)])]
    single = head_to_head(chat, TRAIT, rows, questions=questions, max_tokens=8, timing=False)
    assert [row.name for row in table.rows] == [row.name for row in single.rows]
    for row, one in zip(table.rows, single.rows, strict=True):
        assert tuple(replies[0] for replies in row.replies) == one.replies
        assert row.strength == one.strength
        for name in ("trait", "coherence"):
            assert value(row, name)[0] == pytest.approx(getattr(one, name), abs=1e-4)
        assert (value(row, "distinct2")[0], value(row, "words")[0]) == (one.distinct2, one.words)


def test_a_turn_answers_the_whole_conversation_so_far(chat: Chat, bundle: Bundle) -> None:
    """Its coherence is that behind the conversation, its trait that behind its own question alone, whoever wrote
    the replies."""
    for row in held(chat, bundle).rows:
        plan = [(bundle, 3.0)] if row.name == "full" else []
        for turn in (1, 2):
            plain, prompted = (by_hand(chat, turn, row.replies, system) for system in (None, TRAIT))
            with chat.llm.steered(plan):
                asked = prompted if row.name == "prompt" else plain
                replies = chat.replies(asked, 8, repeat_penalty=REPEAT_PENALTY)
            assert [chat.text(r.tokens) for r in replies] == [r[turn] for r in row.replies]
            scores = score(chat, replies, plain, prompted)
            questions = [script.turns[turn] for script in SCRIPTS]
            alone = score(chat, replies, *([chat.prompt(q, s) for q in questions] for s in (None, TRAIT)))
            assert value(row, "trait")[turn] == pytest.approx(alone.mean("trait"), abs=1e-4)
            assert value(row, "coherence")[turn] == pytest.approx(scores.mean("coherence"), abs=1e-4)


def test_strength_zero_is_the_unsteered_row(chat: Chat, bundle: Bundle) -> None:
    rows = [("zero", [(bundle, 0.0)]), ("full", [(bundle, 3.0)])]
    with chat.llm.steered(bundle):  # which is set aside
        table = conversations(chat, TRAIT, rows, SCRIPTS, turns=3, max_tokens=8)
    unsteered, prompt, zero, full = table.rows
    assert same(zero, unsteered)
    assert len({unsteered.replies, prompt.replies, full.replies}) == 3
    for each in prompt.over_turns_minus_prompt.values():
        assert (each.value, each.low, each.high) == (0, 0, 0)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_conversations_do_not_influence_each_other(chat: Chat, bundle: Bundle, temperature: float) -> None:
    together = held(chat, bundle, temperature=temperature)
    turned = held(chat, bundle, SCRIPTS[::-1], temperature=temperature)
    for i, script in enumerate(SCRIPTS):
        alone = held(chat, bundle, [script], temperature=temperature)
        for first, second, third in zip(together.rows, turned.rows, alone.rows, strict=True):
            assert first.replies[i] == second.replies[-1 - i] == third.replies[0]


def test_sampled_replies_depend_on_the_seed_alone(chat: Chat) -> None:
    one, again, other = (held(chat, temperature=0.7, seed=seed) for seed in (1, 1, 2))
    assert all(map(same, one.rows, again.rows))
    assert one.rows[0].replies != other.rows[0].replies


def shortest(chat: Chat, questions: Sequence[str]) -> int:
    """The tokens of a prompt whose replies so far are one character each."""
    turns = [turn for text in questions for turn in ({"role": "user", "content": text}, {"role": "assistant", "content": "."})]
    assert chat.llm.chat_template is not None
    return len(chat.llm.chat_template.prompt([{"role": "system", "content": TRAIT}, *turns[:-1]]))


def test_a_conversation_ends_where_the_context_does(chat: Chat) -> None:
    """The others go on as they would without it."""
    questions = ("Why?", "How?", "Who?")
    brief = Script("brief", (*questions, "And?"))
    n = max(n for n in range(1024) if shortest(chat, (*questions, "more " * n)) <= 1024 - 40 - 9)
    wordy = Script("wordy", (*questions, "more " * n))
    both = held(chat, scripts=[wordy, brief], turns=4, max_tokens=40)
    alone = held(chat, scripts=[brief], turns=4, max_tokens=40)
    for row, other in zip(both.rows, alone.rows, strict=True):
        assert [len(replies) for replies in row.replies] == [3, 4]
        assert row.n_replies == 7
        assert row.replies[1] == other.replies[0]
        assert value(row, "trait")[3] == pytest.approx(value(other, "trait")[3], abs=1e-4)
        (note,) = row.notes
        assert note.startswith("'wordy' ended before turn 4, which takes ")
        assert note.endswith("the context holds 1024")


def test_what_cannot_fit_is_refused_before_it_starts(chat: Chat) -> None:
    long = Script("long", ("mxqz " * 100,) * 3)
    with pytest.raises(InputError, match="3 turns of 'long' take at least .* larger context"):
        held(chat, scripts=[SCRIPTS[0], long])
    assert held(chat, scripts=[long], turns=1).rows[0].n_replies == 1


def test_an_empty_reply_does_not_end_a_conversation(chat: Chat, bundle: Bundle) -> None:
    first = held(chat).rows[0].replies[0][0]
    silent = Chat(chat.llm, stop=first[0])
    table = held(silent, bundle)
    row = table.rows[0]
    assert "" in row.replies[0]
    assert row.n_replies == 9
    assert row.n_empty == sum(not text for one in row.replies for text in one) > 0
    assert json.loads(json.dumps(table.to_json()))["rows"][0]["n_empty"] == row.n_empty


class Lengths:
    """Rates a reply by its length; one that abstains gives nothing."""

    def __init__(self, abstains: bool = False) -> None:
        self.judging = Judging("lengths", "judged by length", abstains)
        self.asked: list[tuple[str, str]] = []

    def rate(
        self, questions: Sequence[str], replies: Sequence[str], progress: Done = no_progress
    ) -> dict[str, tuple[float, ...]]:
        self.asked += zip(questions, replies, strict=True)
        return {} if self.judging.abstains else {"judge": tuple(len(text) / 100 for text in replies)}

    def at_coherence(self, curve: Sequence[object], prompted: object) -> dict[str, AtCoherence]:
        raise AssertionError("a conversation has no curve")


def test_a_judge_sees_every_reply_with_its_question(chat: Chat) -> None:
    judge = Lengths()
    table = held(chat, judge=judge)
    for row in table.rows:
        lengths = [np.mean([len(replies[t]) / 100 for replies in row.replies]) for t in range(3)]
        assert value(row, "judge") == pytest.approx(lengths)
    pairs = [
        (question, reply)
        for script, replies in zip(SCRIPTS, table.rows[0].replies, strict=True)
        for question, reply in zip(script.turns, replies, strict=True)
    ]
    assert judge.asked[: len(pairs)] == pairs
    assert table.judge == judge.judging
    assert any(line.startswith("Judged by length.") for line in lines(table))


def test_a_judge_that_abstains_leaves_no_figures(chat: Chat) -> None:
    silent = held(chat, judge=Lengths(abstains=True))
    assert "judge" not in silent.rows[0].turns
    assert silent.judge is not None
    assert silent.judge.abstains
    assert silent.rows[0].replies == held(chat).rows[0].replies


def test_a_judge_needs_eight_questions(chat: Chat) -> None:
    with pytest.raises(InputError, match="judge: 6 questions, expected at least 8"):
        held(chat, turns=2, judge=Lengths())


def test_the_progress_is_of_all_ways(chat: Chat, bundle: Bundle) -> None:
    seen: list[tuple[str, float]] = []
    held(chat, bundle, progress=lambda name, part: seen.append((name, part)))
    assert [part for _, part in seen] == sorted(part for _, part in seen)
    assert {name for name, _ in seen} == {"unsteered", "prompt", "full", "done"}
    assert seen[-1] == ("done", 1.0)


def test_bad_input(chat: Chat, bundle: Bundle) -> None:
    for options, reason in (
        ({"turns": 4}, "'ships' has 3 turns, expected at least 4"),
        ({"turns": 0}, "turns 0, expected at least 1"),
        ({"max_tokens": 0}, "max_tokens 0"),
        ({"temperature": -1.0}, "temperature -1.0"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"seed": -1}, "seed -1"),
        ({"scripts": []}, "no scripts"),
        ({"scripts": [SCRIPTS[0], SCRIPTS[0]]}, "two scripts are named 'ships'"),
    ):
        with pytest.raises(InputError, match=reason):
            held(chat, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the trait is empty"):
        conversations(chat, " ", [], SCRIPTS, turns=3)
    with pytest.raises(InputError, match="two rows are named 'prompt'"):
        conversations(chat, TRAIT, [("prompt", [(bundle, 1.0)])], SCRIPTS, turns=3)
    with pytest.raises(InputError, match="--template or the bundle gives another; leave them out"):
        held(Chat(chat.llm, template="Q: {question}\nA:"))


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SteeredLlama]:
    """A model whose template opens its thoughts, which it never closes."""
    template = CHATML.replace("assistant\n'}}{% endif %}", "assistant\n<think>\n'}}{% endif %}")
    path = tiny_model("llama", tmp_path_factory.mktemp("thinker"), chat_template=template)
    llm = SteeredLlama(str(path), n_ctx=1024, n_threads=1, n_threads_batch=1, n_seq_max=4)
    assert llm.chat_template is not None
    assert llm.chat_template.reasoning is not None
    yield llm
    llm.close()


def test_thoughts_are_skipped_in_every_turn(thinker: SteeredLlama) -> None:
    chat = Chat(thinker)
    row = held(chat).rows[0]
    for turn in range(3):
        assert greedy(chat, by_hand(chat, turn, row.replies)) == [r[turn] for r in row.replies]


def test_thoughts_that_are_kept_are_not_seen_in_later_turns(thinker: SteeredLlama) -> None:
    chat = Chat(thinker, reasoning="keep")
    row = held(chat).rows[0]
    nothing = [[""] * 3] * len(SCRIPTS)
    assert row.n_empty == 0
    for turn in range(3):
        assert greedy(chat, by_hand(chat, turn, nothing)) == [r[turn] for r in row.replies]


def test_the_scripts_that_ship() -> None:
    scripts = read_scripts()
    assert len(scripts) == 6
    assert {len(script.turns) for script in scripts} == {10}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no conversations, expected a JSON object"),
        ("no JSON", "not JSON"),
        ('{"name": "a"}', 'expected a JSON object with "name" and "turns"'),
        ('{"name": "a", "turns": []}', "expected a list of texts"),
        ('{"name": "a", "turns": "hello"}', '"turns" is .hello., expected a list of texts'),
        ('{"name": "a", "turns": ["hello", 1]}', "1, expected text"),
        ('{"name": " ", "turns": ["hello"]}', "' ', expected text"),
        ('{"name": "a", "turns": ["hel\\u0000lo"]}', "NUL"),
    ],
)
def test_bad_script_files(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "scripts.jsonl"
    path.write_text(text + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=reason) as error:
        read_scripts(path)
    assert str(path) in str(error.value)
