"""README.md, CHANGELOG.md and docs/*.md hold true: what they name exists. Run by `make check`.

    links                  the file exists, and the heading if one is named
    ```python              compiles; its imports from edgesteer, methods and keywords exist
    ```sh, `$ ...`, `...`  `edgesteer COMMAND` parses with its options and arguments; `make TARGET` exists
    `--option`             some command has it
    shape                  lines of at most 110 columns, a README of at most 150; a page says whom it is for

Neither prose nor figures are checked; figures have tests of their own. The log and the changelog may name
options that were removed. Generated pages are checked only for links and width.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from edgesteer.cli import COMMANDS, HIDDEN, main
from edgesteer.errors import MissingExtra

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]+)\)")
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
SHELL = {"sh", "bash", "shell"}
COLUMNS, README_LINES = 110, 150
GENERATED = frozenset({"cli.md", "architectures.md"})
PAST = frozenset({"log.md", "CHANGELOG.md"})


def check_page(path: Path) -> Iterator[str]:
    """Complaints about what one Markdown page names."""
    text = path.read_text("utf-8")
    prose = FENCE.sub("", text)
    yield from _links(path, prose)
    if path.name in GENERATED:
        return
    for language, body in FENCE.findall(text):
        if language == "python":
            yield from _python(body)
        elif language in SHELL:
            yield from _shell(body)
        elif language == "console":
            yield from _shell("\n".join(line[2:] for line in body.splitlines() if line.startswith("$ ")))
    if path.name not in PAST:
        for span in SPAN.findall(prose):
            yield from _span(" ".join(span.split()))


def check_shape(path: Path) -> Iterator[str]:
    """Complaints about lines that are too long, and about too many of them in the README."""
    lines = path.read_text("utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if len(line) > COLUMNS:
            yield f"line {number} has {len(line)} columns, expected at most {COLUMNS}"
    if path.name == "README.md" and len(lines) > README_LINES:
        yield f"{len(lines)} lines, expected at most {README_LINES}"


def check_opening(path: Path) -> Iterator[str]:
    """Complaint about a page of docs/ that does not say whom it is for."""
    lines = path.read_text("utf-8").splitlines()
    opening = next((line for line in lines if line and not line.startswith("#")), "")
    if path.name not in GENERATED and not opening.startswith("This page is for"):
        yield "does not open with 'This page is for ...'"


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


# ---- Python ----------------------------------------------------------------------------------------------


def _python(body: str) -> Iterator[str]:
    try:
        tree = ast.parse(body)
    except SyntaxError as error:
        yield f"Python example does not parse: {error.msg}: {(error.text or '').strip()}"
        return
    known: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0].startswith("edgesteer"):
            try:
                module = importlib.import_module(node.module or "")
            except MissingExtra:  # checked again by `make test`, where Torch is installed
                continue
            for alias in node.names:
                if hasattr(module, alias.name):
                    known[alias.asname or alias.name] = getattr(module, alias.name)
                else:
                    yield f"Python example imports {alias.name} from {node.module}, which has no such name"
    instances = {
        target.id: known[node.value.func.id]
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name) and inspect.isclass(known.get(node.value.func.id))
        for target in node.targets if isinstance(target, ast.Name)
    }  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = instances.get(node.value.id)
            if owner is not None and not _has(owner, node.attr):
                yield f"Python example uses {node.value.id}.{node.attr}, which {owner.__name__} does not have"
        elif isinstance(node, ast.Call):
            yield from _keywords(node, known, instances)


def _has(owner: type, name: str) -> bool:
    """Whether the class has the attribute, or declares it for its instances."""
    return hasattr(owner, name) or any(
        name in vars(base).get("__annotations__", {}) for base in owner.__mro__
    )


def _keywords(call: ast.Call, known: dict[str, Any], instances: dict[str, type]) -> Iterator[str]:
    function: Callable[..., Any] | None = None
    if isinstance(call.func, ast.Name):
        function = known.get(call.func.id)
    elif isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
        owner = instances.get(call.func.value.id, known.get(call.func.value.id))
        function = getattr(owner, call.func.attr, None)
    if not callable(function):
        return
    parameters = inspect.signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for keyword in call.keywords:
        if keyword.arg is not None and keyword.arg not in parameters:
            yield f"Python example calls {ast.unparse(call.func)} with {keyword.arg}=, which it does not take"


# ---- the command line ------------------------------------------------------------------------------------


def _shell(body: str) -> Iterator[str]:
    for line in body.replace("\\\n", " ").splitlines():
        try:
            words = list(_split(line))
        except ValueError:
            continue  # a line of a here-document, not a command
        for command in _commands(words):
            yield from _command_line(command)


def _split(line: str) -> Iterator[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|<>&;")
    lexer.whitespace_split = True
    return iter(lexer)


def _commands(words: list[str]) -> Iterator[list[str]]:
    """The commands of a line, without redirections."""
    command: list[str] = []
    rest = iter([*words, ";"])
    for word in rest:
        if word and set(word) <= set("<>"):
            next(rest)  # the file
        elif word and set(word) <= set("|&;"):
            yield command
            command = []
        else:
            command.append(word)


def _span(text: str) -> Iterator[str]:
    """Inline code: a command with what follows it, or an option of some command."""
    try:
        words = shlex.split(text)
    except ValueError:
        return
    if words[:1] == ["make"]:
        yield from _command_line(words)
    elif words[:1] == ["edgesteer"] and len(words) > 1:
        yield from _command(words[1:], whole=False)
    elif words and re.match(r"--[a-z]", words[0]) and words[0].split("=")[0] not in _every_option():
        yield f"`{text}`: no command has this option"


def _command_line(words: list[str]) -> Iterator[str]:
    if words[:1] == ["make"]:
        yield from (f"`make {word}`: no such target" for word in words[1:] if not _is_target(word))
    elif words[:1] == ["edgesteer"]:
        yield from _command(words[1:], whole=True)


def _is_target(word: str) -> bool:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    return "=" in word or re.search(rf"^{re.escape(word)}:", makefile, re.MULTILINE) is not None


def _resolve(words: list[str]) -> tuple[str, click.Command | None, list[str]]:
    """The full name of the command, itself or None, and the words that are left."""
    command: click.Command | None = main
    name = "edgesteer"
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name = f"{name} {words[0]}"
        command, words = command.get_command(click.Context(command), words[0]), words[1:]
    return name, command, words


def _command(words: list[str], whole: bool) -> Iterator[str]:
    """whole: what is required must be there too."""
    name, command, words = _resolve(words)
    if command is None:
        yield f"`{name}`: no such command"
        return
    if isinstance(command, click.Group) or {"-h", "--help"} & set(words):
        return
    context = click.Context(command, info_name=name, **main.context_settings)
    try:
        values, extra, _ = command.make_parser(context).parse_args(list(words))
    except click.UsageError as error:
        if whole or isinstance(error, click.NoSuchOption):
            yield f"`{name}`: {error.format_message()}"
        return
    if extra:
        yield f"`{name}`: takes no argument {extra[0]!r}"
    for parameter in command.params:
        value = values.get(parameter.name or "")
        if whole and parameter.required and value in (None, (), []):
            yield f"`{name}`: lacks {parameter.human_readable_name}"
        if isinstance(parameter.type, click.Choice):
            yield from (
                f"`{name} {parameter.opts[0]} {one}`: expected one of {', '.join(parameter.type.choices)}"
                for one in (value if isinstance(value, (list, tuple)) else [value])
                if isinstance(one, str) and one not in parameter.type.choices
            )


def _every_option() -> set[str]:
    options = {"--help", "--version"}
    groups: list[click.Group] = [main]
    while groups:
        group = groups.pop()
        for name in group.list_commands(click.Context(group)):
            command = group.get_command(click.Context(group), name)
            if isinstance(command, click.Group):
                groups.append(command)
            for parameter in command.params if command else ():
                options.update([*parameter.opts, *parameter.secondary_opts])
    return options


# ---- everything ------------------------------------------------------------------------------------------


def check(root: Path = ROOT) -> list[str]:
    """Complaints about every page of the project."""
    pages = [root / "README.md", root / "CHANGELOG.md", *sorted((root / "docs").glob("*.md"))]
    missing = [f"{page.relative_to(root)}: missing" for page in pages if not page.exists()]
    if missing:
        return missing
    complaints = [
        f"{page.relative_to(root)}: {text}"
        for page in pages
        for text in dict.fromkeys([*check_shape(page), *check_page(page)])
    ]
    complaints += [f"docs/{page.name}: {text}" for page in pages[2:] for text in check_opening(page)]
    readme = pages[0].read_text("utf-8")
    complaints += [
        f"README.md: does not link to docs/{page.name}"
        for page in pages[2:]
        if f"](docs/{page.name}" not in readme
    ]
    written = "".join(page.read_text("utf-8") for page in pages if page.name not in GENERATED | PAST)
    return complaints + [
        f"README and docs: do not mention `edgesteer {name}`"
        for name in COMMANDS
        if name not in HIDDEN and not re.search(rf"edgesteer {name}\b", written)
    ]


def run() -> int:
    complaints = check()
    for line in complaints:
        print(line, file=sys.stderr)
    print(f"README and docs: {len(complaints)} complaint(s)" if complaints else "README and docs: hold true")
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(run())
