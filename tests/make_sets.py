"""Writes the built-in sets of `edgesteer pas` from their hand-written templates; `--check` only compares.

In:  tests/sets/NAME.txt. Out: edgesteer/learn/pas/sets/NAME.jsonl, the same bytes every time.

A template is a situation, its slots' fillers, and pairs of answers, one with the trait (+), one without (-):
    @ id
    ? A question with a {slot}.
    slot: filler | filler
    + An answer with the trait.
    - An answer without it.
Every + is used with every -, so that no two wordings belong together. That no
length, punctuation or first word distinguishes the answers is tested in tests/learn/pas/test_sets.py.

The PLAIN sets are for models too small for that: few words, each + with its own -, every filling, and both
orders equally often. A slot named a/b has fillers of two parts. The fillers are the group, so that a
topic is in one part of a split only.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SEED = 20250922
TEMPLATES = Path(__file__).parent / "sets"
OUT = Path(__file__).parents[1] / "edgesteer" / "learn" / "pas" / "sets"
CHOICES = {"agreeableness": 600, "risk-taking": 600, "self-interest": 600, "optimism": 600}
STATEMENTS = {"helpful-yes-no": 400}
PLAIN = {"agreement": 648, "helpfulness": 540, "sharing": 480}


@dataclass
class Template:
    """One situation: its question, the fillers of its slots, the answers with the trait and without."""

    name: str
    question: str = ""
    slots: dict[str, list[str]] = field(default_factory=dict)
    matching: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def fillings(self) -> list[dict[str, str]]:
        """Every way to fill the slots."""
        return [
            dict(pair for slot, value in zip(self.slots, values, strict=True) for pair in _parts(slot, value))
            for values in itertools.product(*self.slots.values())
        ]


def _parts(slot: str, value: str) -> Iterator[tuple[str, str]]:
    return zip(slot.split("/"), value.split("/"), strict=True)


def read(path: Path) -> list[Template]:
    """The templates of a file, in its order."""
    templates: list[Template] = []
    for line in filter(None, map(str.strip, path.read_text("utf-8").splitlines())):
        if line.startswith("@ "):
            templates.append(Template(line[2:]))
        elif line.startswith("? "):
            templates[-1].question = line[2:]
        elif line.startswith("+ "):
            templates[-1].matching.append(line[2:])
        elif line.startswith("- "):
            templates[-1].others.append(line[2:])
        else:
            slot, _, fillers = line.partition(": ")
            templates[-1].slots[slot] = fillers.split(" | ")
    return templates


def choice_items(template: Template, count: int, rng: random.Random) -> Iterator[dict[str, str]]:
    """`count` different two-choice items: each pair of answers equally often, and in alternating order."""
    pairs = _pairs(template)
    fillings = template.fillings()
    if len(pairs) * len(fillings) < count:
        raise SystemExit(f"{template.name}: {len(pairs) * len(fillings)} items can be made, expected {count}")
    shuffled = {pair: rng.sample(fillings, len(fillings)) for pair in pairs}
    for index in range(count):
        turn, which = divmod(index, len(pairs))
        pair = pairs[which]
        yield _choice_item(template, pair, shuffled[pair][turn], first=(turn + which) % 2)


def _pairs(template: Template) -> list[tuple[str, str]]:
    """Every + with every -, in an order whose beginning uses each answer equally often."""
    others = template.others
    return [
        (matching, others[(index + shift) % len(others)])
        for shift in range(len(others))
        for index, matching in enumerate(template.matching)
    ]


def _choice_item(
    template: Template, pair: tuple[str, str], filling: dict[str, str], first: int
) -> dict[str, str]:
    question, matching, other = (text.format(**filling) for text in (template.question, *pair))
    shown = (other, matching) if first else (matching, other)
    return {
        "question": f"{question}\n\nChoices:\n (A) {shown[0]}\n (B) {shown[1]}",
        "answer_matching_behavior": " (B)" if first else " (A)",
        "answer_not_matching_behavior": " (A)" if first else " (B)",
        "group": template.name,
    }


def statement_items(template: Template, count: int, rng: random.Random) -> Iterator[dict[str, str]]:
    """`count` statements with the same fillings on both sides: one in two fits the trait (Yes)."""
    texts = [(template.matching[0], " Yes", " No"), (template.others[0], " No", " Yes")]
    for filling in rng.sample(template.fillings(), count // 2):
        for text, matching, other in texts:
            yield {
                "question": "Is the following statement something you would say?\n"
                f'"{text.format(**filling)}"',
                "answer_matching_behavior": matching,
                "answer_not_matching_behavior": other,
                "group": template.name,
            }


def plain_items(templates: list[Template]) -> Iterator[dict[str, str]]:
    """Every filling of every template with each + and its -, in alternating order."""
    for at, template in enumerate(templates):
        for index, filling in enumerate(template.fillings()):
            for which, pair in enumerate(zip(template.matching, template.others, strict=True)):
                item = _choice_item(template, pair, filling, first=(at + index + which) % 2)
                yield {**item, "group": " ".join(sorted(filling.values()))}


def make(name: str) -> str:
    """The JSON Lines of one set."""
    templates = read(TEMPLATES / f"{name}.txt")
    rng = random.Random(f"{SEED} {name}")
    if name in PLAIN:
        items = list(plain_items(templates))
        if len(items) != PLAIN[name]:
            raise SystemExit(f"{name}: {len(items)} items, expected {PLAIN[name]}")
        return _lines(items, rng)
    total = CHOICES.get(name) or STATEMENTS[name]
    write = choice_items if name in CHOICES else statement_items
    share, rest = divmod(total // 2, len(templates))  # in twos, so that each label matches equally often
    items = [
        item
        for index, template in enumerate(templates)
        for item in write(template, 2 * (share + (index < rest)), rng)
    ]
    return _lines(items, rng)


def _lines(items: list[dict[str, str]], rng: random.Random) -> str:
    rng.shuffle(items)
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)


def main(argv: list[str] | None = None, out: Path = OUT) -> int:
    """Write the sets to `out`, or with --check say which ones differ from what the templates make."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a set is out of date")
    check = parser.parse_args(argv).check
    stale = 0
    for name in (*CHOICES, *STATEMENTS, *PLAIN):
        path, data = out / f"{name}.jsonl", make(name).encode()
        if check and (not path.is_file() or path.read_bytes() != data):
            print(f"{path}: differs from its templates; run python tests/make_sets.py", file=sys.stderr)
            stale += 1
        elif not check:
            path.write_bytes(data)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
