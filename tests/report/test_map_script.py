"""The page's own script, driven by the keyboard alone in a headless Chromium, where there is one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from edgesteer.report.map_page import Run, page
from edgesteer.text import visible
from tests.report.html_pages import NASTY
from tests.report.test_map_page import a_map

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to drive the page with")

# Presses keys on the focused element, and notes the text that is then shown.
_DRIVER = """
window.onerror = (message) => { document.title = "ERROR " + message; };
const states = [], tokens = document.getElementById("tokens"), slider = document.getElementById("strength");
const note = (what) => states.push([what, document.getElementById("readout").textContent,
  [...tokens.querySelectorAll("span.here")].map((span) => span.textContent),
  [...tokens.querySelectorAll("span")].map((span) => span.textContent),
  document.getElementById("label").textContent]);
const press = (key) => { document.activeElement.dispatchEvent(
  new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true })); note(key); };
note("start");
tokens.focus();
for (const key of KEYS) press(key);
slider.focus();
slider.value = "1";
slider.dispatchEvent(new Event("input", { bubbles: true }));
note(document.activeElement.id);
tokens.focus();
press("End");
document.getElementById("heat").focus();
for (const key of CELLS) press(key);
const out = document.createElement("pre");
out.id = "out";
out.textContent = JSON.stringify(states);
document.body.append(out);
"""
CELLS = ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowDown", "ArrowDown", "Home", "End", "Tab"]
KEYS = ["ArrowRight", "ArrowRight", "End", "ArrowRight", "ArrowLeft", "Home", "ArrowLeft", "x"]
WORDS = ("one", "two", "three")


def driven(html: str, folder: Path) -> list[list[Any]]:
    """The state of the page after each key."""
    script = _DRIVER.replace("KEYS", json.dumps(KEYS)).replace("CELLS", json.dumps(CELLS))
    file = folder / "map.html"
    file.write_text(html.replace("</body>", f"<script>{script}</script></body>"), "utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
               "--disable-background-networking", "--disable-component-update",
               f"--user-data-dir={folder / 'profile'}"]  # fmt: skip
    done = subprocess.run(
        [str(CHROMIUM), *options, "--dump-dom", file.as_uri()],
        capture_output=True, text=True, encoding="utf-8", timeout=120, check=True,
    )  # fmt: skip
    out = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)
    assert out, done.stdout[-2000:]
    assert "<title>ERROR" not in done.stdout
    states: list[list[Any]] = json.loads(unescape(out[1]))
    return states


def test_the_keyboard_walks_along_the_tokens_and_changes_the_strength(tmp_path: Path) -> None:
    runs = [Run("pirate 1", a_map(WORDS)), Run("pirate <2>", a_map(tuple(NASTY), seed=1))]
    start, *states = driven(page("m", "p", runs), tmp_path)
    n = len(KEYS)
    keys, (slid, end), cells = states[:n], states[n : n + 2], states[n + 2 :]
    assert start[2:] == [[], list(WORDS), "pirate 1"]
    assert [key[2] for key in keys] == [[WORDS[i]] for i in (0, 1, 2, 2, 1, 0, 0, 0)]
    for key in keys:
        assert f'"{key[2][0]}"' in key[1]
    assert slid[0] == "strength"  # it is what has the focus
    assert slid[2:] == [[], [visible(piece) for piece in NASTY], "pirate <2>"]
    assert end[2] == [visible(NASTY[-1])]
    last = len(NASTY) - 1
    walked = [(last, 2), (last, 3), (last - 1, 3), (last - 1, 4), (last - 1, 4), (0, 4), (last, 4), (last, 4)]
    for cell, (token, block) in zip(cells, walked, strict=True):
        assert cell[2] == [visible(NASTY[token])]
        value = float(f"{runs[1].map.coefficients[token, block - 2]:.3g}")
        assert f"Block {block}: {value:g}." in cell[1]
