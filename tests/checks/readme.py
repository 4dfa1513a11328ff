"""README.md and docs/*.md hold true: what they name exists. Run by `make check`.

    links to files      the file is there, and the heading if one is named
    ```python           compiles, and what it imports from edgesteer is there
    ```sh, `$ ...`      `edgesteer COMMAND --option` and `make TARGET` exist

Prose is not judged, and figures are not: those have tests of their own.
"""

import ast
import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from edgesteer.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]+)\)")
SHELL = {"sh", "bash", "shell", "console"}


def check_page(path: Path) -> Iterator[str]:
    """Complaints about one Markdown page."""
    text = path.read_text("utf-8")
    yield from _links(path, FENCE.sub("", text))
    for language, body in FENCE.findall(text):
        if language == "python":
            yield from _python(body)
        elif language in SHELL:
            yield from _shell(body)


def _links(page: Path, text: str) -> Iterator[str]:
    for target in LINK.findall(text):
        name, _, anchor = target.partition("#")
        file = page if not name else page.parent / name
        if not file.exists():
            yield f"links to {name}, which is not there"
        elif anchor and file.suffix == ".md" and anchor not in _anchors(file):
            yield f"links to #{anchor} of {file.name}, which has no such heading"


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def _python(body: str) -> Iterator[str]:
    try:
        tree = ast.parse(body)
    except SyntaxError as error:
        yield f"Python example does not parse: {error.msg}: {(error.text or '').strip()}"
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0].startswith("edgesteer"):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                if not hasattr(module, alias.name):
                    yield f"Python example imports {alias.name} from {node.module}, which has no such name"


def _shell(body: str) -> Iterator[str]:
    for line in body.replace("\\\n", " ").splitlines():
        try:
            words = shlex.split(line.removeprefix("$ "), comments=True)
        except ValueError:
            continue  # a line of output, not a command
        if words[:1] == ["make"]:
            yield from (f"`make {word}`: no such target" for word in words[1:] if not _is_target(word))
        elif words[:1] == ["edgesteer"]:
            yield from _command(words[1:])


def _is_target(word: str) -> bool:
    return (
        "=" in word
        or re.search(rf"^{re.escape(word)}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        is not None
    )


def _command(words: list[str]) -> Iterator[str]:
    command: click.Command | None = main
    said = ["edgesteer"]
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        said.append(words[0])
        command = command.get_command(click.Context(command), words.pop(0))
    if command is None:
        yield f"`{' '.join(said)}`: no such command"
        return
    known = {
        option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    known |= {"-h", "--help"}
    for word in words:
        option = word.split("=")[0]
        if re.match(r"--?[a-z]", option) and option not in known:
            yield f"`{' '.join(said)} {option}`: no such option"


def check(root: Path = ROOT) -> list[str]:
    """Complaints about every page of the project."""
    pages = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    found = [
        f"{page.relative_to(root)}: {text}" for page in pages if page.exists() for text in check_page(page)
    ]
    if not pages[0].exists():
        return [*found, "README.md: missing"]
    readme = pages[0].read_text("utf-8")
    unmentioned = [name for name in COMMANDS if name != "demo" and f"edgesteer {name}" not in readme]
    return found + [f"README.md: does not mention `edgesteer {name}`" for name in unmentioned]


def run() -> int:
    found = check()
    for line in found:
        print(line, file=sys.stderr)
    print(f"README and docs: {len(found)} complaint(s)" if found else "README and docs: hold true")
    return bool(found)


if __name__ == "__main__":
    sys.exit(run())
