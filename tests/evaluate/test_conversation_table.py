"""The figures of scripted conversations, from replies and values alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgesteer.evaluate.conversation_table import (
    MEASURES,
    ConversationRow,
    ConversationTable,
    Talk,
    repeats,
    table_of,
)
from edgesteer.report.cells import cells
from edgesteer.report.conversations import lines

NAN = math.nan
EIGHT = "one two three four five six seven eight"


def talk(name: str, trait: list[list[float]], coherence: float = 1.0, notes: tuple[str, ...] = ()) -> Talk:
    """A reply for each value of the trait; replies are all the same."""
    values = {measure: np.zeros((len(trait), len(trait[0]))) for measure in MEASURES}
    values["trait"] = np.array(trait)
    values["coherence"] = np.where(np.isnan(values["trait"]), NAN, coherence)
    replies = tuple(tuple("Arr." for value in one if value == value) for one in trait)
    return Talk(name, None, (), replies, values, notes)


def table(*talks: Talk) -> ConversationTable:
    n, turns = talks[0].values["trait"].shape
    return table_of("Arr.", [str(i) for i in range(n)], turns, 64, 0.0, talks)


def rows(*talks: Talk) -> tuple[ConversationRow, ...]:
    return table(*talks).rows


def test_a_reply_repeats_an_earlier_one_of_the_same_words() -> None:
    assert repeats(["Aye  aye", "No", "aye aye", "AYE aye"]) == {
        "equal": [0, 0, 1, 1],
        "equal_before": [0, 0, 0, 1],
        "begins": [0, 0, 1, 1],
        "begins_before": [0, 0, 0, 1],
    }


def test_two_replies_begin_alike_if_eight_words_are_the_same() -> None:
    result = repeats([f"{EIGHT} nine", f"{EIGHT} ten", EIGHT, EIGHT.rsplit(" ", 1)[0]])
    assert result["begins"] == [0, 1, 1, 0]
    assert result["equal"] == [0, 0, 0, 0]


def test_empty_replies_repeat_nothing() -> None:
    assert not any(any(each) for each in repeats(["", " ", "", "Aye"]).values())
    assert repeats([]) == {"equal": [], "equal_before": [], "begins": [], "begins_before": []}


def test_the_trait_that_is_kept_is_the_last_turn_over_the_first() -> None:
    _, prompt, row = rows(
        talk("unsteered", [[-0.1, -0.1, 0.0], [0.0, 0.0, 0.0]]),
        talk("prompt", [[0.4, 0.3, 0.2], [0.4, 0.3, 0.2]]),
        talk("x", [[0.2, 0.2, 0.1], [0.4, 0.2, 0.2]]),
    )
    assert row.trait_kept.value == pytest.approx(0.5)
    assert row.of_prompt.value == pytest.approx(0.75)
    assert (prompt.trait_kept.value, prompt.of_prompt.value) == (pytest.approx(0.5), 1)
    assert row.trait_kept.low <= row.trait_kept.value <= row.trait_kept.high
    assert [each.value for each in row.turns["trait"]] == pytest.approx([0.3, 0.2, 0.15])
    assert row.over_turns["trait"].value == pytest.approx(1.3 / 6)
    assert row.minus_prompt["trait"][2].value == pytest.approx(-0.05)


def test_no_share_of_a_trait_that_was_not_there() -> None:
    row = rows(talk("unsteered", [[-0.1, 0.2]]), talk("prompt", [[0.4, 0.0]]))[0]
    assert math.isnan(row.trait_kept.value)
    assert math.isnan(row.of_prompt.value)


def test_a_share_of_what_may_be_nothing_has_no_interval() -> None:
    ways = [talk(name, [[0.1, 0.3], [-0.05, 0.3], [0.1, 0.3]]) for name in ("unsteered", "prompt")]
    row = rows(*ways)[0]
    assert row.trait_kept.value == pytest.approx(6.0)
    assert math.isnan(row.trait_kept.low)
    assert math.isnan(row.trait_kept.high)
    assert row.of_prompt.low == row.of_prompt.high == 1.0
    text = "\n".join(lines(table(*ways)))
    assert "600% " in text
    assert "A share has no interval where" in text


def test_a_conversation_that_ended_early_is_left_out_of_both_sides() -> None:
    _, _, row = rows(
        talk("unsteered", [[0.0, 0.0], [0.0, 0.0]]),
        talk("prompt", [[0.4, 0.4], [0.2, NAN]]),
        talk("x", [[0.1, NAN], [0.3, 0.3]], coherence=1.5),
    )
    assert row.minus_prompt["trait"][0].value == pytest.approx(-0.1)
    assert math.isnan(row.minus_prompt["trait"][1].value)  # none has both
    assert math.isnan(row.of_prompt.value)
    assert row.trait_kept.value == pytest.approx(1.0)  # the second alone
    assert row.over_turns_minus_prompt["coherence"].value == pytest.approx(0.5)
    assert row.n_replies == 3


@pytest.mark.parametrize("turns", [1, 3, 10, 20])
def test_the_report_fits_a_terminal_and_tells_what_ended_early(turns: int) -> None:
    ways = [
        talk("unsteered", [[-0.123] * turns] * 6),
        talk("prompt", [[0.1 + i] * turns for i in range(6)]),
        talk("a bundle with a name that is long", [[-12.3] * turns] * 6, 12.3, ("'0' ended before turn 9",)),
    ]
    out = list(lines(table(*ways)))
    assert max(map(cells, out)) <= 100
    text = "\n".join(out)
    assert "ended before turn 9." in text
    assert f"6 conversations of {turns} turn" in text
    assert f"0/{6 * turns}" in text
    assert "nan" not in text
    assert "12.30" in text
