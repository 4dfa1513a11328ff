"""The model card: a manifest in people's words."""

from __future__ import annotations

from typing import Any

import pytest

from edgesteer.bundle.card import words


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"no trait": 8, "repetitive": 1}, "no trait 8, repetitive 1"),
        (
            [{"strength": 1.35, "trait": 0.3106}, {"strength": 1.62}],
            "strength 1.35, trait 0.3106; strength 1.62",
        ),
        ({}, "none"),
        ([], "none"),
        (None, "none"),
        (True, "yes"),
        (False, "no"),
        (1, "1"),
        (0.1 + 0.2, "0.3"),
        ("as it is", "as it is"),
    ],
)
def test_values_are_told_without_a_programs_signs(value: Any, text: str) -> None:
    assert words(value) == text
