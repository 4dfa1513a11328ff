"""The bench's report: it says what was measured and how, and its tables fit any terminal."""

from __future__ import annotations

from typing import Any

import pytest

from edgesteer.report.bench import MIN_WIDTH, charts, lines
from edgesteer.report.cells import cells


def a_table(rounds: int = 200, runs: int = 3, threads: int = 2, name: str = "Small <1>") -> dict[str, Any]:
    row = {"seconds": 0.01, "ratio": 1.01, "ratio_range": [1.0, 1.02]}
    return {
        "token": {"unsteered": row}, "prefill": {"unsteered": row}, "strength_change": {}, "load": {},
        "memory": {},
        "model": {"name": name}, "settings": {"rounds": rounds, "runs": runs, "n_threads": threads},
    }  # fmt: skip


def beside(replaces: bool) -> dict[str, Any]:
    row = {
        "context_tokens": 0.0, "kv_bytes": None, "artifact_bytes": 0, "first_token_seconds": 0.1,
        "first_token_ratio": 1.0, "token_seconds": None, "token_ratio": None,
    }  # fmt: skip
    prompt = {"trait": "Arr.", "trait_tokens": 3, "replaces_default": replaces, "ways": {"prompt": row}}
    return {"against": {"prompt": prompt}}


def text_of(table: dict[str, Any], width: int = 200) -> str:
    shown = list(lines(table, width))
    assert max(map(cells, shown)) <= width
    return " ".join(" ".join(shown).split())


@pytest.mark.parametrize("width", [MIN_WIDTH, 80, 200])
def test_ratios_are_explained_and_few_rounds_are_remarked_on(width: int) -> None:
    for rounds, runs, few in ((50, 2, False), (49, 2, True), (50, 1, True), (5, 1, True)):
        text = text_of(a_table(rounds, runs), width)
        assert "median over the rounds" in text
        assert ("scatter" in text) == few


def test_the_picture_says_of_what_it_is() -> None:
    title = next(charts(a_table(threads=1))).title
    assert all(part in title for part in ("Small <1>", "200 rounds", "3 runs", "1 thread"))
    long = next(charts(a_table(4096, 1000, 64, "x" * 500))).title
    assert len(long) < 84  # what fits 640 pixels


def test_a_prompt_that_replaces_the_templates_default_is_remarked_on() -> None:
    assert "replaces the template's default" in text_of(a_table() | beside(True))
    assert "replaces the template's default" not in text_of(a_table() | beside(False))
