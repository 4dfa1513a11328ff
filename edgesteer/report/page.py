"""One self-contained HTML file: the frame that every page of ours shares. No network, no script but what is passed.

In:  a title, parts of HTML that are already escaped. Out: a document as text. Light and dark follow the reader's
system; it prints in black on white.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from edgesteer.report.cells import visible
from edgesteer.report.html import asset

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1f; --paper: #fdfdfc; --line: #d9d9d4; --dim: #66666c;
  --warm: 208 96 20; --cold: 30 90 190; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8ea; --paper: #17181b; --line: #3a3b40; --dim: #a0a0a8;
  --warm: 240 140 60; --cold: 90 150 245; } }
@media print { :root { --ink: #000; --paper: #fff; --line: #999; --dim: #333; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1.5rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { max-width: 46rem; } .dim { color: var(--dim); }
.wide { overflow-x: auto; margin-bottom: 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--dim); padding-bottom: .4rem; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th[scope=row], td.text { text-align: left; } td.text { white-space: normal; }
.heat td { min-width: 3.4rem; border: 1px solid var(--paper); }
.heat td.best { outline: 3px solid var(--ink); outline-offset: -3px; font-weight: 700; }
blockquote { margin: .5rem 0; padding-left: 1rem; border-left: 3px solid var(--line); white-space: pre-wrap; }
"""


def document(title: str, parts: Iterable[str], style: str = "", script: str = "") -> str:
    """The whole file. title: text; parts: HTML."""
    told = escape(visible(title))
    behind = f"<script>{script}</script>" if script else ""
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{told}</title>\n'
        f"<style>{asset('chart.css')}{_STYLE}{style}</style>\n</head>\n<body>\n<h1>{told}</h1>\n"
        + "\n".join(parts)
        + f"\n{behind}</body>\n</html>\n"
    )


def text(value: str) -> str:
    """Text of a person or a model for HTML: escaped, isolated from its surroundings' direction, and with control
    characters spelled out."""
    kept = "\n".join(visible(line) for line in value.split("\n"))
    return f"<bdi>{escape(kept)}</bdi>"


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table of HTML cells; each row's first cell is its head."""
    columns = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "\n".join(
        f'<tr><th scope="row">{first}</th>'
        + "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="wide"><table class="{kind}"><caption>{caption}</caption>\n<thead><tr>{columns}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def tint(share: float) -> str:
    """A background for a signed share -1..1: warm above zero, cold below, clear at it."""
    color = "--warm" if share > 0 else "--cold"
    return f"background: rgb(var({color}) / {min(1.0, abs(share)):.2f})"
