"""The built-in sets: what an item looks like, and that nothing but its meaning tells a matching answer."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgesteer.errors import InputError
from edgesteer.learn.pas.files import SETS, read_items, set_path
from edgesteer.learn.pas.items import prepare
from tests import make_sets

BEHAVIOURS = sorted(make_sets.CHOICES)
LABELLED = [*BEHAVIOURS, *make_sets.STATEMENTS]
PLAIN = sorted(make_sets.PLAIN)  # few words, a fixed pair of answers: meaning and wording go together here
SHIPPED = [*LABELLED, *PLAIN]
TWO_CHOICES = re.compile(r"(?P<situation>[^\n]+)\n\nChoices:\n \(A\) (?P<A>[^\n]+)\n \(B\) (?P<B>[^\n]+)")
STATEMENT = re.compile(r'Is the following statement something you would say\?\n"(?P<statement>[^\n"]+)"')
NEGATION = re.compile(r"\b(?:can)?not\b|n't\b|\bnever\b", re.IGNORECASE)
NO = re.compile(r"\b(?:no|nobody|nothing|none|nor|without)\b", re.IGNORECASE)


@cache
def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in set_path(name).read_text("utf-8").splitlines()]


@cache
def answers(name: str) -> tuple[list[str], list[str]]:
    """The matching answers and the others, item by item; for statements, those said with Yes and with No."""
    if name in make_sets.STATEMENTS:
        said = {" Yes": [], " No": []}
        for row in rows(name):
            said[row["answer_matching_behavior"]].append(STATEMENT.fullmatch(row["question"])["statement"])
        return said[" Yes"], said[" No"]
    found = [
        (TWO_CHOICES.fullmatch(row["question"]), row["answer_matching_behavior"][2]) for row in rows(name)
    ]
    return [m[letter] for m, letter in found], [m["B" if letter == "A" else "A"] for m, letter in found]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def balanced(one: int, other: int, low: float = 0.45) -> bool:
    return one + other == 0 or low <= one / (one + other) <= 1 - low


def test_every_set_ships_and_no_other() -> None:
    assert {path.stem for path in set_path("control").parent.iterdir()} == SETS.keys()
    assert all(0 < set_path(name).stat().st_size < 250_000 for name in SETS)
    assert all(text and "\n" not in text for text in SETS.values())


@pytest.mark.parametrize(
    "name", ["", "Optimism", "optimism.jsonl", "../sets/optimism", "/etc/passwd", "a\0b"]
)
def test_an_unknown_set_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(InputError, match=r"not a set that ships") as refused:
        set_path(name)
    assert all(known in str(refused.value) for known in SETS)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_set_has_the_layout_and_the_size_that_it_claims(name: str) -> None:
    assert len(rows(name)) == (make_sets.CHOICES | make_sets.STATEMENTS | make_sets.PLAIN)[name] >= 300
    assert SETS[name].startswith(f"{len(rows(name))} ")
    statements = name in make_sets.STATEMENTS
    layout, labels = (STATEMENT, {" Yes", " No"}) if statements else (TWO_CHOICES, {" (A)", " (B)"})
    for row in rows(name):
        assert list(row) == ["question", "answer_matching_behavior", "answer_not_matching_behavior", "group"]
        assert layout.fullmatch(row["question"]), row
        assert {row["answer_matching_behavior"], row["answer_not_matching_behavior"]} == labels


@pytest.mark.parametrize("name", SHIPPED)
def test_texts_are_clean(name: str) -> None:
    for row in rows(name):
        assert row["question"].isascii()
        assert not re.search(r"[{}|]|  | [.,?!]|\b(\w+) \1\b", row["question"], re.IGNORECASE), row[
            "question"
        ]
    for text in (*answers(name)[0], *answers(name)[1]):
        assert text[0].isupper()
        assert text[-1] in ".?!"
        assert len(text.split()) <= 16


@pytest.mark.parametrize("name", sorted(SETS))
def test_no_item_stands_there_twice(name: str) -> None:
    shown = [(row["question"].casefold(), str(row.get("choices")).casefold()) for row in rows(name)]
    assert len(set(shown)) == len(shown)


@pytest.mark.parametrize("name", [*BEHAVIOURS, *PLAIN])
def test_no_item_is_another_one_with_its_answers_swapped(name: str) -> None:
    found = [TWO_CHOICES.fullmatch(row["question"]) for row in rows(name)]
    assert len({(m["situation"], frozenset((m["A"], m["B"]))) for m in found}) == len(found)


@pytest.mark.parametrize("name", SHIPPED)
def test_there_are_many_groups_of_like_size(name: str) -> None:
    sizes = Counter(row["group"] for row in rows(name))
    assert len(sizes) >= 25
    assert max(sizes.values()) - min(sizes.values()) <= 2


@pytest.mark.parametrize("name", SHIPPED)
def test_no_situation_stands_on_both_sides_of_a_split(name: str) -> None:
    """What was learnt from or chosen with is not asked again in other words."""
    items = read_items(set_path(name), "persona")
    assert [item.group for item in items] == [row["group"] for row in rows(name)]
    for seed in range(3):
        split = prepare(items, seed)
        groups = [{item.group for item in part} for part in (split.train, split.validation, split.test)]
        assert not groups[0] & groups[1]
        assert not groups[0] & groups[2]
        assert not groups[1] & groups[2]


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_no_answer_stands_on_both_sides_of_a_split(name: str) -> None:
    split = prepare(read_items(set_path(name), "persona"), 0)
    seen, asked = ({choice for item in part for choice in item.choices} for part in (split.train, split.test))
    assert not seen & asked


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_answers_are_worded_in_many_ways(name: str) -> None:
    matching, others = answers(name)
    assert len(set(matching)) >= 80
    assert len(set(others)) >= 80
    assert len(set(zip(matching, others, strict=True))) >= 240
    assert not set(matching) & set(others)


@pytest.mark.parametrize("name", [*LABELLED])
def test_each_label_matches_in_half_of_the_items_and_of_each_group(name: str) -> None:
    first = {" (A)", " Yes"}
    by_group = Counter((row["group"], row["answer_matching_behavior"] in first) for row in rows(name))
    assert sum(count for (_, is_first), count in by_group.items() if is_first) * 2 == len(rows(name))
    assert all(abs(by_group[row["group"], True] - by_group[row["group"], False]) <= 1 for row in rows(name))


@pytest.mark.parametrize("name", [*LABELLED])
def test_length_does_not_tell(name: str) -> None:
    matching, others = ([len(text.split()) for text in side] for side in answers(name))
    assert abs(np.mean(matching) / np.mean(others) - 1) < 0.05
    longer = sum(a > b for a, b in zip(matching, others, strict=True))
    shorter = sum(a < b for a, b in zip(matching, others, strict=True))
    if name in BEHAVIOURS:
        assert balanced(longer, shorter), (longer, shorter)


@pytest.mark.parametrize("name", [*LABELLED])
def test_first_words_do_not_tell(name: str) -> None:
    matching, others = (Counter(words(text)[0] for text in side) for side in answers(name))
    for word, count in (matching + others).items():
        if count > 0.02 * 2 * sum(matching.values()):
            assert balanced(matching[word], others[word], low=0.3), word


@pytest.mark.parametrize("name", [*LABELLED])
def test_negation_does_not_tell(name: str) -> None:
    matching, others = (sum(len(NEGATION.findall(text)) for text in side) for side in answers(name))
    assert balanced(matching, others), (matching, others)
    matching, others = (sum(len(NO.findall(text)) for text in side) for side in answers(name))
    assert balanced(matching, others, low=0.4), (matching, others)


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_no_single_word_tells(name: str) -> None:
    matching, others = (Counter(w for text in side for w in set(words(text))) for side in answers(name))
    for word in matching.keys() | others.keys():
        accuracy = 0.5 + abs(matching[word] - others[word]) / (2 * len(rows(name)))
        assert accuracy < 0.6, (word, matching[word], others[word])


@pytest.mark.parametrize("name", PLAIN)
def test_every_wording_of_a_plain_set_stands_first_as_often_as_second(name: str) -> None:
    """Also within each wording of the question, so that no letter goes with any of them."""
    templates = make_sets.read(make_sets.TEMPLATES / f"{name}.txt")
    seen = Counter((row["question"].split()[0], row["answer_matching_behavior"]) for row in rows(name))
    assert len(seen) == 2 * len({word for word, _ in seen})
    for word in {word for word, _ in seen}:
        assert balanced(seen[word, " (A)"], seen[word, " (B)"]), word
    assert all(len(t.matching) == len(t.others) >= 3 for t in templates)
    letters = Counter(row["answer_matching_behavior"] for row in rows(name))
    assert letters[" (A)"] == letters[" (B)"]


@pytest.mark.parametrize("name", PLAIN)
def test_answers_of_a_plain_set_are_of_one_length(name: str) -> None:
    matching, others = ([len(text.split()) for text in side] for side in answers(name))
    assert abs(np.mean(matching) / np.mean(others) - 1) < 0.05


def form(text: str) -> NDArray[np.float64]:
    """What an answer shows without being read: lengths, punctuation, its first letter."""
    counts = [len(text), len(text.split()), *(text.count(sign) for sign in ",.?!'-"), text.count(" I ")]
    return np.array([*counts, *(text[0] == letter for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")], np.float64)


def meaning(vocabulary: list[str]) -> Callable[[str], NDArray[np.float64]]:
    def features(text: str) -> NDArray[np.float64]:
        said = set(words(text))
        return np.array([word in said for word in vocabulary], np.float64)

    return features


def accuracy(name: str, features: Callable[[str], NDArray[np.float64]]) -> float:
    """How often a nearest-centroid classifier that has not seen an answer's group is right about it."""
    groups = np.array([row["group"] for row in rows(name)] * 2)
    y = np.repeat([1, -1], len(rows(name)))
    X = np.stack([features(text) for side in answers(name) for text in side])
    X = (X - X.mean(0)) / np.where(X.std(0) > 0, X.std(0), 1)
    right = 0
    for fold in range(5):
        held = np.isin(groups, sorted(set(groups))[fold::5])
        yes, no = (X[~held & (y == label)].mean(0) for label in (1, -1))
        scores = (X[held] - (yes + no) / 2) @ (yes - no)  # above 0: nearer to yes
        right += int((np.where(scores > 0, 1, -1) == y[held]).sum())
    return right / len(y)


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_form_does_not_tell_and_words_do(name: str) -> None:
    assert accuracy(name, form) <= 0.55
    common = Counter(w for side in answers(name) for text in side for w in set(words(text))).most_common(400)
    assert accuracy(name, meaning([word for word, _ in common])) > accuracy(name, form)


def test_the_control_set_has_one_answer_of_four() -> None:
    assert len(rows("control")) == 120
    assert SETS["control"].startswith("120 ")
    for row in rows("control"):
        assert list(row) == ["question", "choices", "answer"]
        assert row["question"].endswith("?")
        assert len({choice.casefold() for choice in row["choices"]}) == len(row["choices"]) == 4
        assert all(choice.strip() == choice != "" for choice in row["choices"])
        assert row["answer"] in range(4)
    assert set(Counter(row["answer"] for row in rows("control")).values()) == {30}
    assert len({row["question"].casefold() for row in rows("control")}) == 120


def test_the_longest_choice_is_no_hint_in_the_control_set() -> None:
    score = 0.0
    for row in rows("control"):
        longest = [
            i for i, choice in enumerate(row["choices"]) if len(choice) == max(map(len, row["choices"]))
        ]
        score += (row["answer"] in longest) / len(longest)
    assert score < 0.4 * 120


def test_the_files_are_what_their_templates_make() -> None:
    command = [sys.executable, make_sets.__file__, "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(make_sets, "OUT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["make_sets.py"])
    make_sets.main()
    monkeypatch.setattr(sys, "argv", ["make_sets.py", "--check"])
    return tmp_path


@pytest.mark.parametrize("name", SHIPPED)
def test_a_changed_or_missing_file_is_noticed(
    name: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make_sets.main() == 0
    path = elsewhere / f"{name}.jsonl"
    path.write_bytes(path.read_bytes().replace(b"(A)", b"(B)", 1).replace(b"Yes", b"No", 1))
    assert make_sets.main() == 1
    path.unlink()
    assert make_sets.main() == 1
    assert str(path) in capsys.readouterr().err


def test_a_template_with_too_few_fillers_is_refused() -> None:
    template = make_sets.Template("small", "Who is {who}?", {"who": ["Ana"]}, ["I am."], ["You are."])
    with pytest.raises(SystemExit, match="small: 1 items can be made, expected 2"):
        list(make_sets.choice_items(template, 2, make_sets.random.Random(0)))
