"""The checker of README and docs finds what is not there, and passes what is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import suite
from tests.checks import readme

CONSTANT = "from edgesteer import SteeredLlama, SteeringPlan\nllm = SteeredLlama('m.gguf')\n"


@pytest.mark.parametrize(
    "text",
    [
        "[gone](docs/nowhere.md)",
        "# Here\n[gone](#there)",
        "```python\nif\n```",
        "```python\nfrom edgesteer import NoSuchName\n```",
        f"```python\n{CONSTANT}llm.no_such_method()\n```",
        f"```python\n{CONSTANT}llm.steer('a.steer', power=2)\n```",
        f"```python\n{CONSTANT}SteeringPlan.of(things=[])\n```",
        "```sh\nmake nothing\n```",
        "```sh\nedgesteer nothing\n```",
        "```console\n$ edgesteer models list --nothing\n```",
        "```sh\nedgesteer inspect x \\\n  --nothing\n```",
        "```sh\necho hello | edgesteer run model.gguf --nothing\n```",
        "```sh\nedgesteer learn model.gguf -o a.steer\n```",  # without what is required
        "```sh\nedgesteer run model.gguf another.gguf\n```",
        "```sh\nedgesteer run model.gguf --scope elsewhere\n```",
        "```sh\nedgesteer run model.gguf -p\n```",
        "A span with `edgesteer nothing` in it.",
        "A span with `edgesteer run --nothing` in it.",
        "A span with `--no-such-option` in it.",
        "A span with `make nothing` in it.",
    ],
)
def test_a_page_that_names_what_is_not_there_is_found(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    assert list(readme.check_page(page))


def test_a_page_that_names_what_is_there_passes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One heading\n[it](#one-heading) [self](page.md) [web](https://example.org/x)\n"
        "`edgesteer run`, `edgesteer map MODEL --html x.html`, `--steer FILE[:STRENGTH]`, `make test`, "
        "`f(x)`\n"
        f"```python\n{CONSTANT}llm.steer('a.steer', strength=2)\nllm.create_completion('x')\n```\n"
        "```sh\nmake test PYTEST_ARGS=-x\nedgesteer models list --json  # all of them\nls --nothing\n"
        "printf 'a: b' | edgesteer run m.gguf --steer a.steer:1.5 < prompt.txt > reply.txt\n```\n"
        "```console\n$ edgesteer doctor m.gguf\nedgesteer said --nothing\n```\n"
    )
    assert list(readme.check_page(page)) == []


def test_long_lines_long_readmes_and_pages_without_an_opening_are_found(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("x" * 110 + "\n" + "\n" * 149)
    assert list(readme.check_shape(page)) == []
    page.write_text("x" * 111 + "\n" + "\n" * 150)
    assert len(list(readme.check_shape(page))) == 2
    page.write_text("# Title\n\nThis page is for readers.\n")
    assert list(readme.check_opening(page)) == []
    page.write_text("# Title\n\nIt begins somewhere.\n")
    assert list(readme.check_opening(page))


def test_the_results_page_shows_what_the_suite_measured() -> None:
    docs = readme.ROOT / "docs"
    page = (docs / "results.md").read_text("utf-8")
    assert suite.with_tables(page, json.loads((docs / "suite.json").read_text("utf-8"))) == page
