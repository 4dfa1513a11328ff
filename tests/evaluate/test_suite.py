"""The suite of six traits: each is measured by something that exists, and the page is made of what was
found."""

from __future__ import annotations

import json

import pytest

from edgesteer.evaluate import read_suite, text_measures
from tests import suite
from tests.suite import TRAITS, Trait


def test_six_traits_of_different_kinds() -> None:
    assert len({t.name for t in TRAITS}) == len({t.sentence for t in TRAITS}) == 6
    assert {t.measure for t in TRAITS} > {"sentiment", "words"}
    assert all(set(t.counts) <= text_measures.WORDS.keys() for t in TRAITS)
    assert all(abs(t.sign) == 1 for t in TRAITS)


@pytest.mark.parametrize("trait", TRAITS, ids=lambda t: t.name)
def test_a_trait_is_counted_by_its_own_words(trait: Trait) -> None:
    """What the sentence asks for scores above what it does not."""
    examples = {
        "pirate": "Arr, matey, hoist the sail!",
        "sea": "The ocean and its waves.",
        "shakespeare": "Thou hast spoken.",
    }
    if trait.counts:
        (name,) = trait.counts
        hit, miss = (
            text_measures.count(name, [text]).per_100_words
            for text in (examples[trait.name], "Boil some water.")
        )
        assert hit > 10 > miss == 0


def test_the_suite_that_ships_is_the_first_traits() -> None:
    assert read_suite("pirate").trait == TRAITS[0].sentence


def test_the_page_is_made_of_what_was_found() -> None:
    row = {
        "strength": 1.25,
        "trait": 0.3,
        "coherence": 0.7,
        "distinct2": 0.9,
        "own": 2.0,
        "trait_minus_prompt": [-0.1, 0.2],
    }
    found = {
        "pirate": {
            "sentence": "You are a pirate.",
            "measure": "pirate",
            "kept": 40,
            "dropped": {},
            "forecast": 0.7,
            "trained": {"kl_before": 0.3, "kl_after": 0.03},
            "judge": 0.87,
            "ways": {
                "prompt": {**row, "strength": None, "judge": 0.5, "relevance": 1.2},
                "A-PSR": {
                    **row,
                    "trait": 0.1,
                    "matched": {**row, "limited": True, "trait": 0.35, "judge": 0.6},
                },
                "S-PSR": {**row, "matched": {**row, "limited": False, "trait": 0.35}},
                "S-Const": {**row, "matched": {**row, "limited": False, "trait": 0.4}},
            },
        },
        "sea": {
            "sentence": "You are at sea.",
            "measure": "sea",
            "kept": 3,
            "dropped": {"no trait": 1},
            "ways": {"prompt": {**row, "own": 3.0, "strength": None}, "A-PSR": row},
        },
    }
    page = suite.tables(json.loads(json.dumps(found)))
    assert "| A-PSR | 1.25 | 0.10 | 0.70 |  |  | 2.00 | ≥1.25 | 0.35 | 0.60 | 2.00 |" in page
    assert "| prompt |  | 0.30 | 0.70 | 1.20 | 0.50 | 2.00 | | | | |" in page
    assert "| A-PSR | 1.25 | 0.30 | 0.70 |  |  | 2.00 | | | | |" in page  # measured at one strength alone
    assert "KL 0.300 to 0.030 nats. Forecast 0.70. The judge's AUC is 0.87." in page
    assert "| A-PSR at least prompt | judge | 1 of 1: pirate |" in page  # of the sea there is no curve
    assert "| A-PSR at least prompt | own | 1 of 1: pirate |" in page
    assert "| S-PSR at least S-Const | trait | 0 of 1: none |" in page
    assert "S-PSR at least S-Const | judge" not in page  # not judged
    assert "A-PSR+KL at least" not in page  # not measured
