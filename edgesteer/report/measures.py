"""How measures are shown: their names, units and what they see; and Estimates as text, cells and bars."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgesteer.evaluate.intervals import Estimate
from edgesteer.report.charts import Bar
from edgesteer.report.html import Cell

# What each figure measures, and what it misses.
_SEES = {
    "trait": "How much likelier the trait's prompt makes each token, in nats. Includes whatever that prompt "
    "brings, also its topic and length; does not show whether a person would notice.",
    "coherence": "How surprising each token is to the unsteered model, prompted or not, whichever expects it "
    "more, in nats; lower is more coherent. Does not show whether a reply is true or relevant; rewards "
    "loops.",
    "nll0": "The same without any prompt: it also penalizes the trait itself, so compare it at equal trait.",
    "distinct2": "Different pairs of tokens over all pairs: 1 repeats nothing. Shows the loops that "
    "coherence rewards; does not show repetition in other words.",
    "relevance": "How much likelier the prompted, unsteered model makes a reply after its own question than "
    "after others, in nats per token: 0 if every reply is the same. Does not show whether it is right.",
    "question matched": "The share of replies that are likelier after their own question than after the "
    "others of a group of about five.",
    "judge": "Probability of the trait, by a classifier of sentence embeddings that was trained on sampled "
    "prompted and plain replies to other questions. Sees whatever separates those, also a length or topic.",
    "judge: alignment": "How strongly a language model sees the trait, 0 to 100. Judges differ: compare only "
    "figures of the same one.",
    "judge: coherence": "How coherent a language model finds the reply, 0 to 100.",
    "judge: harmonic": "The harmonic mean of a language model's scores for concept, instruction and fluency, "
    "0 to 2.",
    "counts": "Matches of a word list or expression. Counts words, not meaning: a style without its stock "
    "words scores 0.",
    "sentiment": "VADER's word list, -1 to 1. Misses irony and moods without their words; English only.",
}
_UNITS = {
    "trait": "nats per token, higher is more of the trait",
    "coherence": "nats per token, lower is more coherent",
    "distinct2": "share of pairs, 1 repeats nothing",
    "sentiment": "-1 to 1",
    "relevance": "nats per token, 0 if every reply is the same",
    "judge": "probability of the trait",
    "judge: alignment": "0 to 100, higher is more of the trait",
    "judge: coherence": "0 to 100, higher is more coherent",
    "judge: harmonic": "0 to 2",
}


def explained(keys: Sequence[str]) -> list[tuple[str, str]]:
    """(name, what it sees and misses) of the measures with these keys; what is none of them is a count."""
    shown = {key if key in _SEES else "counts" for key in keys}
    return [(title_of(key), meaning) for key, meaning in _SEES.items() if key in shown]


def title_of(key: str) -> str:
    """How a measure is called."""
    return "distinct-2" if key == "distinct2" else key


def unit_of(key: str) -> str:
    """The unit of a measure."""
    return _UNITS.get(key, "matches" if key.endswith("100 words") else "share of replies")


def interval(one: Estimate, digits: int = 2, sign: str = "", factor: float = 1, unit: str = "") -> str:
    """An estimate on a line: "0.50 [0.40, 0.60]"; a dot for what has no value, no brackets without interval.

    sign: "+" also marks what is above 0. factor: what it is multiplied by, such as 100 for percent.
    """
    value, low, high = (number(each, digits, sign, factor) for each in (one.value, one.low, one.high))
    shown = value if value == "." else f"{value}{unit}"
    return shown if low == "." else f"{shown} [{low}, {high}]"


def cell(one: Estimate, digits: int = 2, sign: str = "", factor: float = 1) -> Cell:
    """The same in a table of a page, with the interval in small type; empty for what has no value."""
    if not math.isfinite(one.value):
        return Cell("")
    value, low, high = (number(each, digits, sign, factor) for each in (one.value, one.low, one.high))
    return Cell(value, note="" if low == "." else f"{low} to {high}")


def bar(name: str, one: Estimate, factor: float = 1) -> Bar:
    """The same as a bar of a chart."""
    note = interval(one, factor=factor) if math.isfinite(one.value) else ""
    return Bar(name, factor * one.value, factor * one.low, factor * one.high, note)


def strength(value: float | None) -> str:
    """A strength with three digits; empty if nothing steers."""
    return "" if value is None or not math.isfinite(value) else f"{value:.3g}"


def number(value: float, digits: int = 2, sign: str = "", factor: float = 1) -> str:
    """A number alone; a dot for what has no value."""
    return f"{factor * value:{sign}.{digits}f}" if math.isfinite(value) else "."
