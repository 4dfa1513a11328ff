"""HTML from the Jinja templates in `templates/`, and the filters that they use.

`page.html.jinja` is the frame of every page, `macros.html.jinja` has the table. Texts of people and models
are untrusted: whatever a template prints is made printable, then escaped.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from edgesteer.report.cells import is_right_to_left, visible
from edgesteer.report.palette import number


class Cell(NamedTuple):
    """A cell of an HTML table: its text, a note in small type below, a CSS class and an inline style."""

    text: str
    note: str = ""
    kind: str = ""
    style: str = ""


def render(template: str, **values: Any) -> str:
    """The text of `templates/TEMPLATE.html.jinja` with these values."""
    return environment().get_template(f"{template}.html.jinja").render(values)


@cache
def environment() -> Environment:
    """Jinja with autoescape, in which an undefined value is an error."""
    jinja = Environment(
        loader=PackageLoader("edgesteer.report"),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    jinja.filters.update(cell=_cell, number=number, text=_text, tint=tint, visible=visible)
    jinja.globals["asset"] = asset
    return jinja


def _printable(value: Any) -> Any:
    """Text with control characters made visible and line breaks kept; other values unchanged."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return "\n".join(map(visible, value.split("\n")))


def _text(value: str) -> str:
    """Printable text, in <bdi> if it runs right to left, so that the text around it is not reordered."""
    printable: str = _printable(value)
    return Markup("<bdi>{}</bdi>").format(printable) if is_right_to_left(printable) else printable


def _cell(value: str | Cell) -> Cell:
    return value if isinstance(value, Cell) else Cell(value)


def tint(share: float) -> str:
    """The CSS background of a share -1..1: warm above zero, cold below."""
    color = "--warm" if share > 0 else "--cold"
    return f"background: rgb(var({color}) / {min(1.0, abs(share)):.2f})"


@cache
def asset(name: str) -> Markup:
    """A style sheet or script of this folder, to be embedded unescaped."""
    return Markup(resources.files("edgesteer.report").joinpath(name).read_text("utf-8"))
