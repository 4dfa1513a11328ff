"""Sentiment by VADER: its sign and range, and what is said where it is missing."""

from __future__ import annotations

import sys

import pytest

from edgesteer.errors import MissingExtra
from edgesteer.evaluate import sentiment


def test_the_sign_is_the_mood() -> None:
    pytest.importorskip("vaderSentiment")
    glad, sad, none = sentiment.compound(["I love it, wonderful!", "I hate it, terrible.", ""])
    assert -1 <= sad < 0 < glad <= 1
    assert none == 0


def test_without_vader_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    with pytest.raises(MissingExtra, match=r"pip install 'edgesteer\[sentiment\]'") as caught:
        sentiment.compound(["x"])
    assert "\n" not in str(caught.value)
