"""A scan on a terminal and on a page: all numbers, within the width, and no text becomes markup."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from edgesteer.evaluate.scan.result import Scan
from edgesteer.report.cells import cells
from edgesteer.report.scan import page, render_scan
from edgesteer.text import visible
from tests.report.html_pages import NASTY, self_contained

SGR = re.compile(r"\x1b\[[0-9;]*m")


def a_scan(blocks: int = 28, sizes: int = 4, trait: str | None = "Talk.", **changes: Any) -> Scan:
    rng = np.random.default_rng(blocks * sizes)
    kl, gain = rng.exponential(0.3, (blocks, sizes)), rng.normal(0, 1, (blocks, sizes))
    values: dict[str, Any] = {
        "name": "pirate",
        "model": "small.gguf",
        "trait": trait,
        "unit": "share",
        "sizes": tuple(0.05 * 2**j for j in range(sizes)),
        "blocks": tuple(range(1, blocks + 1)),
        "streams": tuple(rng.exponential(50, blocks).tolist()),
        "strengths": rng.exponential(1, (blocks, sizes)),
        "kl": kl,
        "gain": None if trait is None else gain,
        "low": None if trait is None else gain - 0.5,
        "high": None if trait is None else gain + 0.5,
        "closed": (),
        "overflowed": 0,
        "noise": 0.003,
        "questions": tuple(f"Why is {i}?" for i in range(6)),
        "max_tokens": 12,
        "tokens": (72, 0 if trait is None else 70),
        "gated": True,
        "scope": "response",
    }
    return Scan(**{**values, **changes})


@pytest.mark.parametrize("width", [1, 40, 72, 80, 200])
@pytest.mark.parametrize(("blocks", "sizes"), [(1, 1), (28, 4), (126, 16)])
@pytest.mark.parametrize("trait", [None, "Talk like a pirate."])
def test_no_line_exceeds_the_width(width: int, blocks: int, sizes: int, trait: str | None) -> None:
    shown = a_scan(blocks, sizes, trait)
    if shown.gain is not None:
        shown = a_scan(blocks, sizes, trait, gain=shown.gain * 300)
    plain = render_scan(shown, width=width, color=False)
    assert max(map(cells, plain.splitlines())) <= max(40, width)
    colored = SGR.sub("", render_scan(shown, width=width, color=True))
    assert [line.rstrip() for line in colored.splitlines()] == plain.splitlines()
    assert not SGR.search(plain)


def test_no_color_is_the_default_under_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert not SGR.search(render_scan(a_scan()))


def rows_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if re.match(r" +\d+ ", line)]


def test_every_block_has_its_numbers_and_its_marks() -> None:
    shown = a_scan()
    rows = rows_of(render_scan(shown, width=80, color=False))
    assert shown.low is not None
    assert len(rows) == 28
    for i, row in enumerate(rows):
        assert len(row.split()) == 9
        assert row.count("*") == (shown.low[i] > 0).sum()


def test_what_was_not_measured_is_a_dot_and_is_explained() -> None:
    shown = a_scan(3, 2)
    for array in (shown.kl, shown.gain, shown.low, shown.high):
        assert array is not None
        array[1] = np.nan
    shown = a_scan(
        3, 2, kl=shown.kl, gain=shown.gain, low=shown.low, high=shown.high, closed=(2,), overflowed=2
    )
    text = " ".join(render_scan(shown, width=80, color=False).split())
    assert rows_of(render_scan(shown, width=80))[1].split() == ["2", ".", ".", ".", "."]
    assert "block 2" in text
    assert "smaller norms" in text
    assert self_contained(page(shown)).texts["h1"] == ["Steerability scan: pirate"]


def rendered(shown: Scan) -> str:
    return " ".join(render_scan(shown, width=200, color=False).split())


def test_the_verdict_counts_and_names_the_useful_blocks() -> None:
    none = np.full((28, 4), -1.0)
    few = none.copy()
    few[[4, 5, 6, 20]] = 1.0
    assert "No block" in rendered(a_scan(low=none))
    assert "Only 4 of 28 blocks" in rendered(a_scan(low=few, gain=few))
    assert "blocks 5-7, 21" in rendered(a_scan(low=few, gain=few))
    many = rendered(a_scan(low=-none, gain=-none))
    assert "28 of 28 blocks" in many
    assert "Only" not in many


def test_one_block_and_few_questions_are_remarked_on() -> None:
    one = rendered(a_scan(1, 4, low=np.ones((1, 4)), gain=np.ones((1, 4)), questions=("Why?",)))
    assert "nothing to compare" in one
    assert "few questions" in one
    assert "1 question," in one


def test_without_a_trait_it_says_how_to_get_it() -> None:
    shown = rendered(a_scan(trait=None))
    assert "--trait" in shown
    assert "Trait:" not in shown


def test_another_scope_of_the_bundle_is_remarked_on() -> None:
    assert "conversation" in rendered(a_scan(scope="conversation"))
    assert "as the bundle says" not in rendered(a_scan())


@pytest.mark.parametrize("nasty", NASTY)
def test_texts_are_shown_and_drive_nothing(nasty: str) -> None:
    shown = a_scan(2, 2, trait=nasty or "x", name=nasty, model=nasty, questions=(nasty, "Why?"))
    html = self_contained(page(shown))
    assert [tag for tag, _ in html.tags if tag in ("script", "img", "image", "use")] == []
    assert html.texts["h1"] == [visible(f"Steerability scan: {nasty}")]
    plain = render_scan(shown, width=60, color=False)
    assert max(map(cells, plain.splitlines())) <= 60
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", plain)


def test_the_page_has_a_map_for_each_measure_and_all_numbers() -> None:
    both, one = self_contained(page(a_scan())), self_contained(page(a_scan(trait=None)))
    assert (len(both.named("svg")), len(one.named("svg"))) == (2, 1)
    assert len(both.texts["details"]) == 1
    assert len(re.findall(r"<tr>", page(a_scan(trait=None)))) == 1 + 28


def paragraphs(shown: Scan) -> str:
    return " ".join(self_contained(page(shown)).texts["p"])


def test_terminal_and_page_name_the_model_and_the_page_the_colours() -> None:
    assert "small.gguf" in rendered(a_scan())
    assert "small.gguf" in paragraphs(a_scan())
    assert "blue: less." in paragraphs(a_scan())
    assert "blue" not in paragraphs(a_scan(trait=None))  # KL has no sign


def test_what_may_be_rounding_is_left_out_of_the_ranking_and_reported() -> None:
    ones, kl = np.ones((3, 2)), np.array([[0.1, 0.2], [0.1, 0.5], [0.2, 0.29]])
    some = a_scan(3, 2, gain=ones, low=ones, high=ones, kl=kl, noise=0.1)
    assert some.unclear == 5
    for text in (rendered(some), paragraphs(some)):
        assert "5 cells that gain the trait" in text
        assert "1 of 3 blocks gains the trait alone: block 2" in text
    assert "Left out" not in rendered(a_scan(3, 2, gain=ones, low=ones, high=ones, kl=kl, noise=0.0))
    assert "No block clearly moves" in rendered(a_scan(3, 2, trait=None, kl=kl, noise=1.0))


def test_the_warning_about_few_questions_stands_before_the_ranking() -> None:
    ones = np.ones((28, 4))
    for text in (rendered, paragraphs):
        few = text(a_scan(gain=ones, low=ones, questions=("Why?",)))
        assert few.index("few questions") < few.index("28 of 28")


def test_a_column_has_one_number_format() -> None:
    ones = np.ones((3, 1))
    gain = np.array([[0.0004], [-12.34567], [0.5]])
    shown = a_scan(3, 1, gain=gain, low=ones, high=ones, kl=np.array([[2e-5], [0.02], [7.0]]), noise=0.0)
    rows = [line.split() for line in rows_of(render_scan(shown, width=80, color=False))]
    for cells_of in zip(*rows, strict=True):
        assert len({len(cell.rstrip("*").partition(".")[2]) for cell in cells_of}) == 1
    small = a_scan(3, 1, gain=ones, low=ones, high=ones, strengths=np.array([[0.00021], [30.0], [1.0]]))
    assert "0.000210" in page(small)
    assert "30.000000" in page(small)
