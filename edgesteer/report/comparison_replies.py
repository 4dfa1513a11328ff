"""The replies of a comparison side by side, each token in the colour of its own trait score.

In:  an evaluate.Comparison, a label for each way. Out: HTML parts, and the styles of colours and of what is hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from edgesteer.report.cells import visible
from edgesteer.report.page import text, tint
from edgesteer.report.palette import LEVELS, Scale, number

if TYPE_CHECKING:
    from edgesteer.evaluate import Comparison
    from edgesteer.generate.scoring import Spoken

# Full colour would drown the letters on it.
_MOST = 0.8


def level_styles(n_ways: int) -> str:
    """A class for each level, so that a page of many thousand tokens stays small; a rule for each box that hides."""
    levels = "".join(
        f".p{n} {{ {tint(_MOST * n / LEVELS)} }} .n{n} {{ {tint(-_MOST * n / LEVELS)} }}\n"
        for n in range(1, LEVELS + 1)
    )
    return levels + "".join(
        f"body:has(#way{i}:not(:checked)) .way{i} {{ display: none; }}\n" for i in range(n_ways)
    )


def replies(comparison: Comparison, labels: Sequence[str]) -> Iterator[str]:
    """A section a question, in it a reply a way."""
    scale = Scale.of_numbers(
        [score for row in comparison.table.rows for one in row.scores.spoken for score in one.trait]
    )
    yield (
        '<p class="dim">Each token in the colour of its own trait score, whoever said it: warm where the trait\'s '
        "prompt makes it likelier, blue where less likely, both to the unsteered model. Full colour: "
        f"{escape(number(scale.limit))} nats and more. Point at a token for its numbers, or walk along a reply with "
        "the arrow keys.</p>"
    )
    boxes = "".join(
        f'<label><input type="checkbox" id="way{i}" checked> {text(name)}</label> '
        for i, name in enumerate(labels)
    )
    yield f'<fieldset class="ways"><legend>Shown</legend>{boxes}</fieldset>'
    for i, question in enumerate(comparison.table.questions):
        shown = "".join(_reply(comparison, i, way, name, scale) for way, name in enumerate(labels))
        yield f'<section class="asked"><h3>{i + 1}. {text(question)}</h3>{shown}</section>'
    yield '<p id="told" aria-live="polite">&nbsp;</p>'


def _reply(comparison: Comparison, i: int, way: int, name: str, scale: Scale) -> str:
    row, method = comparison.table.rows[way], comparison.methods[way]
    spoken, pieces = row.scores.spoken[i], method.pieces[i]
    if spoken.tokens:
        figures = f"trait {row.scores.trait[i]:.2f}, coherence {row.scores.coherence[i]:.2f}"
        said = "".join(_tokens(spoken, pieces, scale))
    else:
        figures, said = "", '<em class="dim">nothing</em>'
    return (
        f'<div class="reply way{way}"><div class="by">{text(name)}<small>{figures}</small></div>'
        f'<div class="tokens" tabindex="0" role="group" aria-label="{escape(visible(name))}">{said}</div></div>\n'
    )


def _tokens(spoken: Spoken, pieces: Sequence[str], scale: Scale) -> Iterator[str]:
    for piece, trait, coherence in zip(pieces, spoken.trait, spoken.coherence, strict=True):
        level = scale.level(trait)
        kind = f' class="{"p" if level > 0 else "n"}{abs(level)}"' if level else ""
        ending = "<br>" if piece.endswith("\n") else ""
        yield f'<span{kind} data-t="{trait:+.2f}" data-c="{coherence:.2f}">{escape(visible(piece))}</span>{ending}'
