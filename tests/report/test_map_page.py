"""The map's page: self-contained, small, whatever the texts; and its numbers are the map's."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgesteer.report.cells import visible
from edgesteer.report.map_page import Run, page
from edgesteer.steering_map import SteeringMap
from tests.report.html_pages import self_contained

NASTY = ("</script><script>alert(1)</script>", "<b>", "&amp;", "\x1b[2J", "\u202eevil", "שלום", "end\n", "")


def a_map(pieces: tuple[str, ...], blocks: int = 3, seed: int = 0, n_prompt: int = 1) -> SteeringMap:
    values = np.random.default_rng(seed).normal(size=(len(pieces), blocks)).astype(np.float32)
    n = len(pieces)
    return SteeringMap(
        tuple(range(n)), pieces, tuple(range(n)), n_prompt, tuple(range(2, blocks + 2)), values
    )


def told(html: str) -> dict:
    shown = self_contained(html)
    data = [text for text in shown.texts["script"] if text.startswith("{")]
    assert len(data) == 1
    return json.loads(data[0])


def test_the_page_holds_every_run_and_no_markup_of_the_texts() -> None:
    runs = [Run(f"pirate {i}", a_map(NASTY, seed=i)) for i in range(5)]
    html = page("Map of <i>", "prompt </script>", runs, first=2)
    data = told(html)
    assert data["layers"] == [2, 3, 4]
    assert data["first"] == 2
    for run, one in zip(data["runs"], runs, strict=True):
        assert run["pieces"] == [visible(piece) for piece in NASTY]
        assert run["prompt"] == 1
        assert run["breaks"] == [piece.endswith("\n") for piece in NASTY]
        assert np.allclose(run["rows"], one.map.coefficients.T, rtol=5e-3)
        assert np.allclose(run["totals"], one.map.totals, rtol=5e-3, atol=1e-6)
    assert "alert(1)</script>" not in html.replace("&lt;/script&gt;", "")


def test_the_first_run_is_there_without_a_script() -> None:
    shown = self_contained(
        page("m", "p", [Run("a", a_map(("one", "two"))), Run("b", a_map(("three",)))], first=0)
    )
    assert shown.texts["span"] == ["one", "two"]


def test_a_run_that_steers_nothing_has_zeros() -> None:
    none = SteeringMap((1, 2), ("a", "b"), (0, 1), 0, (), np.zeros((2, 0), dtype=np.float32))
    data = told(page("m", "p", [Run("0", none), Run("1", a_map(("a", "b")))]))
    assert data["runs"][0]["rows"] == [[0, 0]] * 3


def test_three_hundred_tokens_by_thirty_blocks_at_five_strengths_stay_below_a_megabyte() -> None:
    runs = [Run(str(i), a_map(tuple(f" word{j}" for j in range(300)), blocks=30, seed=i)) for i in range(5)]
    assert len(page("m", "p", runs).encode()) < 1_000_000


def test_one_run_has_no_slider_and_none_is_refused() -> None:
    shown = self_contained(page("m", "p", [Run("1", a_map(("a",)))]))
    assert not shown.named("input")
    with pytest.raises(ValueError, match="no runs"):
        page("m", "p", [])


def test_an_empty_reply_is_shown() -> None:
    empty = SteeringMap((), (), (), 0, (1,), np.zeros((0, 1), dtype=np.float32))
    assert told(page("m", "", [Run("1", empty)]))["runs"][0]["pieces"] == []


def test_the_blocks_begin_at_the_first_token_that_any_run_steers():
    steered = np.zeros((4, 2), np.float32)
    steered[2:] = 1.0
    plain = SteeringMap((1, 2, 3, 4), tuple("abcd"), (0, 1, 2, 3), 3, (1, 2), np.zeros((4, 2), np.float32))
    acting = SteeringMap((1, 2, 3, 4), tuple("abcd"), (0, 1, 2, 3), 3, (1, 2), steered)
    assert '"from": 2' in page("t", "p", [Run("0", plain), Run("1", acting)])
    assert '"from": 0' in page("t", "p", [Run("0", plain)])
