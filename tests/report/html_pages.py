"""A page as a strict reader sees it: every tag closed in order, nothing fetched, nothing run."""

from __future__ import annotations

from html.parser import HTMLParser

from edgesteer.text import visible

_VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
FETCHING = {"src", "href", "srcset", "action", "data", "poster", "background", "formaction"}

_NAMESPACE = "http://www.w3.org/2000/svg"  # names SVG; it is not fetched


# Texts that would break a page, or drive a terminal, that took them as they are.
NASTY = [
    "</script><script>alert(1)</script>",
    "</title></head><body onload=alert(1)>",
    '"><img src=x onerror=alert(1)>',
    "&lt;b&gt; &amp; &",
    "{{ 1 + 1 }}{% raw %}",
    "<!-- ",
    "]]>",
    "\x1b[2J\x07\x00",
    "\ud800 alone",
    "\u202eevil\u2066",
    "שלום עולם",
    "first\nsecond\r\nthird\u2028fourth",
    "茶" * 30,
    "",
]


class Page(HTMLParser):
    """tags: (name, attributes) in order; texts: the text inside each tag, "svg title" for tooltips."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == [], f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        tag = self._name(tag)
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        tag = self._name(tag)
        assert self._open.pop() == tag

    def _name(self, tag: str) -> str:
        return "svg title" if tag == "title" and "svg" in self._open else tag

    def handle_data(self, data: str) -> None:
        for tag in set(self._open):
            self.texts[tag][-1] += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def self_contained(html: str) -> Page:
    """The page, after checking that it opens without a network and has no foreign script."""
    page = Page(html)
    text = html.lower().replace(f'xmlns="{_NAMESPACE}"', "")
    for word in ("http://", "https://", "<script src", "@import", "url(", "javascript:"):
        assert word not in text, word
    for _, attributes in page.tags:
        assert not FETCHING & attributes.keys(), attributes
        assert not [name for name in attributes if name.startswith("on")], attributes
    assert html.startswith("<!DOCTYPE html>")
    assert html.endswith("</html>\n")
    assert ('<meta charset="utf-8">') in html
    assert len(page.named("title")) == len(page.named("h1")) == len(page.named("body")) == 1
    return page


def printable(text: str) -> str:
    """As a page shows it: line breaks kept, other control characters spelled out."""
    return "\n".join(map(visible, text.split("\n")))
