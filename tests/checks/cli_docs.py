"""docs/cli.md is the commands' own help text. Checks that it is up to date; `--write` makes it so.

    COMMANDS of edgesteer.cli -> each command's --help at a fixed width -> one page of Markdown

Also holds every command of that table to showing an example.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from edgesteer.cli import COMMANDS, HIDDEN, main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
WIDTH = 100
HEAD = """\
# The command line

<!-- Generated from the commands' help texts. Change those, then run `make fix`. -->

Data goes to stdout, progress and logs to stderr. Exit code 0: done; 1: refused or failed, with one clear
line; 2: wrong usage; 130: interrupted.
"""


def commands(group: click.Group, name: str) -> Iterator[tuple[str, click.Command, click.Context]]:
    """(full name, command, context) of the group and everything below it that is not hidden."""
    context = click.Context(group, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH)
    context.help_option_names = ["-h", "--help"]
    yield name, group, context
    for child in group.list_commands(context):
        command = group.get_command(context, child)
        if command is None or command.hidden:
            continue
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {child}")
        else:
            below = click.Context(command, info_name=f"{name} {child}", terminal_width=WIDTH)
            below.help_option_names = context.help_option_names
            yield f"{name} {child}", command, below


def page() -> str:
    """The whole of docs/cli.md."""
    sections = [HEAD]
    for name, command, context in commands(main, "edgesteer"):
        help_text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
        sections.append(f"## {name}\n\n```text\n{help_text}\n```\n")
    return "\n".join(sections)


def table_complaints() -> list[str]:
    """Complaints about commands that COMMANDS lists but that are missing or have no example."""
    context = click.Context(main)
    complaints = []
    for name in COMMANDS:
        command = main.get_command(context, name)
        if command is None:
            complaints.append(f"edgesteer/cli/{name}.py: has no command for `edgesteer {name}`")
        elif name not in HIDDEN and "Example" not in (command.help or "") + (command.epilog or ""):
            complaints.append(f"edgesteer/cli/{name}.py: help has no Example")
    return complaints


def check(write: bool) -> int:
    complaints = table_complaints()
    wanted = page()
    if write:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(wanted, "utf-8")
    elif not PAGE.exists() or PAGE.read_text("utf-8") != wanted:
        complaints.append("docs/cli.md: differs from the commands' help; run `make fix`")
    for line in complaints:
        print(line, file=sys.stderr)
    print(f"help text: {len(complaints)} complaint(s)" if complaints else "help text: up to date")
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(check("--write" in sys.argv[1:]))
