"""The suite of six traits on the real model: `make suite`, about three hours on two slow cores.

For each trait learns A-PSR+KL (trained in Torch) and, in closed form from the same replies, A-PSR, A-Const,
S-Const and S-PSR. Measures them on held-out questions at the default strength and at others, to compare them
at the prompt's coherence; an embedding model judges. Writes docs/suite.json and the tables in
docs/results.md; a trait that docs/suite.json holds with a judge's verdict is not measured again.
"""

from __future__ import annotations

import contextlib
import json
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from edgesteer import SteeredLlama
from edgesteer.bundle import save
from edgesteer.evaluate import Row
from edgesteer.evaluate.embedding import Embedder
from edgesteer.evaluate.intervals import Estimate
from edgesteer.evaluate.matched import LEVELS, Matched
from edgesteer.learn import Comparison, LearnSummary, Recipe, learn
from edgesteer_models import resolve

ROOT = Path(__file__).resolve().parents[1]
WAYS = ("unsteered", "prompt", "A-Const", "S-Const", "S-PSR", "A-PSR", "A-PSR+KL")
OWN = "A-PSR+KL"
MARK, END = "<!-- written by `make suite` -->\n", "<!-- end -->\n"
JUDGED = ("relevance", "judge")
KEPT = (
    "strength",
    "trait",
    "coherence",
    "nll0",
    "distinct2",
    "words",
    "sentiment",
    "context_tokens",
    "empty",
)


@dataclass(frozen=True, slots=True)
class Trait:
    """sentence: the system prompt. measure: a name in `text_measures.WORDS` (matches per 100 words),
    "sentiment" (VADER's mean compound) or "words" (a reply's length). sign: -1 if the trait makes it less."""

    name: str
    sentence: str
    measure: str
    sign: int = 1

    @property
    def counts(self) -> tuple[str, ...]:
        return () if self.measure in ("sentiment", "words") else (self.measure,)

    @property
    def estimate(self) -> str:
        """The measure's name in Row.estimates."""
        return f"{self.measure} per 100 words" if self.counts else self.measure

    def of(self, measured: Row | Matched) -> float:
        """The trait's own measure, signed so that more is more of the trait."""
        return self.sign * measured.estimates[self.estimate].value


# Six of different kinds, fixed before anything was tuned on them.
TRAITS = (
    Trait("pirate", "You are a pirate. You always talk like a pirate, arr matey!", "pirate"),
    Trait(
        "cheerful",
        "You are extremely cheerful and happy. You answer everything with joy and enthusiasm!",
        "sentiment",
    ),
    Trait(
        "gloomy", "You are gloomy and sad. You see everything in a dark and hopeless way.", "sentiment", -1
    ),
    Trait(
        "sea", "You always talk about the ocean and the sea in every answer, whatever the question is.", "sea"
    ),
    Trait(
        "shakespeare",
        "You speak like William Shakespeare, in old Elizabethan English with thee, thou and hath.",
        "shakespeare",
    ),
    Trait(
        "short",
        "You answer in as few words as possible. Your answers are never longer than five words.",
        "words",
        -1,
    ),
)


def measured(trait: Trait, folder: Path | None, threads: int) -> dict[str, Any]:
    """Learn the trait in all ways and compare them."""
    from edgesteer_converters.train import trainer  # imports Torch

    path = resolve("smollm2-135m-instruct")
    llm = SteeredLlama(path, n_ctx=16 * 208, n_seq_max=16, n_threads=threads, n_threads_batch=threads)
    with (
        contextlib.closing(llm),
        Embedder(resolve("minilm"), n_threads=threads) as embedder,
        tqdm(total=1.0, desc=trait.name, file=sys.stderr) as bar,
    ):
        bundle, summary = learn(
            llm,
            trait.sentence,
            Recipe(effort="thorough"),
            name=trait.name,
            license="Apache-2.0",
            comparison=Comparison(WAYS[2:], trait.counts, True, LEVELS, embedder),
            trainer=trainer(path, n_threads=threads),
            progress=lambda stage, part: bar.set_postfix_str(f"{stage} {part:.0%}"),
        )
    if folder is not None:
        save(bundle, folder / f"{trait.name}.steer", force=True)
    return to_json(trait, summary)


def to_json(trait: Trait, summary: LearnSummary) -> dict[str, Any]:
    assert summary.table is not None
    ways = {row.name: _way(trait, row) for row in summary.table.rows}
    judge = summary.table.judge
    return {
        "sentence": trait.sentence,
        "measure": trait.measure,
        "kept": summary.kept,
        "dropped": summary.dropped,
        "seconds": {k: round(v) for k, v in summary.seconds.items()},
        "forecast": None if summary.forecast is None else round(summary.forecast.similarity, 2),
        "trained": {key: summary.trained[key] for key in ("kl_before", "kl_after")},
        "judge": None if judge is None or judge.auc is None else round(judge.auc.value, 2),
        "ways": {name: ways[name] for name in WAYS},
        "questions": len(summary.table.questions),
    }


def _way(trait: Trait, row: Row) -> dict[str, Any]:
    plain = {key: getattr(row, key) for key in KEPT}
    return {
        **{k: round(v, 3) if isinstance(v, float) else v for k, v in plain.items()},
        **_figures(trait, row),
        **({} if row.matched is None else {"matched": _matched(trait, row.matched)}),
    }


def _figures(trait: Trait, measured: Row | Matched) -> dict[str, Any]:
    known = {name: measured.estimates[name].value for name in JUDGED if name in measured.estimates}
    names = [name for name in ("trait", *JUDGED) if name in measured.minus_prompt]
    return {
        "own": round(trait.of(measured), 3),
        **{name: round(value, 3) for name, value in known.items()},
        **{f"{name}_minus_prompt": _interval(measured.minus_prompt[name]) for name in names},
    }


def _matched(trait: Trait, at: Matched) -> dict[str, Any]:
    """The figures at the prompt's coherence, on the same questions."""
    return {
        "strength": round(at.strength, 3),
        "limited": at.limited,
        "capped": round(at.capped, 3),
        **{name: round(at.estimates[name].value, 3) for name in ("trait", "coherence", "distinct2")},
        **_figures(trait, at),
        "own_minus_prompt": _interval(at.minus_prompt[trait.estimate], trait.sign),
    }


def _interval(difference: Estimate, sign: int = 1) -> list[float]:
    return sorted(round(sign * x, 3) for x in (difference.low, difference.high))


# (one way, another, measure): in how many traits is the first at least as good as the other?
CLAIMS = (
    (OWN, "prompt", "judge"),
    (OWN, "prompt", "own"),
    (OWN, "prompt", "trait"),
    ("A-PSR", "prompt", "judge"),
    ("A-PSR", "prompt", "own"),
    (OWN, "A-PSR", "judge"),
    ("S-PSR", "S-Const", "judge"),
    ("S-PSR", "S-Const", "trait"),
)


def reached(results: dict[str, Any], one: str, other: str, measure: str) -> tuple[list[str], int]:
    """The traits where `one` is at least `other` by `measure` at the prompt's coherence, and the number of
    traits where both were measured."""
    at = {name: (_at(t["ways"], one), _at(t["ways"], other)) for name, t in results.items()}
    both = {name: (a, b) for name, (a, b) in at.items() if a and b and measure in a and measure in b}
    return [name for name, (a, b) in both.items() if a[measure] >= b[measure]], len(both)


def _at(ways: dict[str, Any], way: str) -> dict[str, Any] | None:
    """The way's figures at the prompt's coherence; None if they were not measured."""
    row = ways.get(way)
    return row if row is None or way in ("prompt", "unsteered") else row.get("matched")


def tables(results: dict[str, Any]) -> str:
    """The suite's part of docs/results.md, between its two marks."""
    lines: list[str] = []
    for name, one in results.items():
        lines += ["", f"### {name}", "", f"> {one['sentence']}", ""]
        head = ("strength", "trait", "coherence", "relevance", "judge", f"own ({one['measure']})")
        lines += [f"| | {' | '.join(head)} | at | trait | judge | own |"]
        lines += ["|---" * 11 + "|"]
        lines += [_line(way, row) for way, row in one["ways"].items()]
        lines += ["", textwrap.fill(f"{_kept(one)} {_trained(one)}".strip(), 110)]
    lines += ["", "### Who reaches whom", "", "| | by | traits |", "|---|---|---|"]
    for one, other, measure in CLAIMS:
        names, n = reached(results, one, other, measure)
        if n == 0:
            continue
        lines.append(
            f"| {one} at least {other} | {measure} | {len(names)} of {n}: {', '.join(names) or 'none'} |"
        )
    return "\n".join([*lines, "", ""])


def with_tables(page: str, results: dict[str, Any]) -> str:
    """The page with the suite's tables between its two marks."""
    head, _, rest = page.partition(MARK)
    _, _, tail = rest.partition(END)
    return f"{head}{MARK}{tables(results)}{END}{tail}"


def _kept(one: dict[str, Any]) -> str:
    dropped = ", ".join(f"{n} {reason}" for reason, n in one["dropped"].items())
    return f"{one['kept']} replies kept; dropped: {dropped or 'none'}."


def _trained(one: dict[str, Any]) -> str:
    """How far training came, and how well the judge knows the trait."""
    if "judge" not in one:
        return one.get("note", "")
    trained = one["trained"]
    return (
        f"KL {trained['kl_before']:.3f} to {trained['kl_after']:.3f} nats. Forecast {one['forecast']:.2f}. "
        f"The judge's AUC is {one['judge']:.2f}."
    )


def _line(way: str, row: dict[str, Any]) -> str:
    strength = "" if row["strength"] is None else f"{row['strength']:g}"
    values = [row["trait"], row["coherence"], row.get("relevance"), row.get("judge"), row["own"]]
    left = f"| {way} | {strength} | {' | '.join(map(_number, values))} |"
    if (at := row.get("matched")) is None:
        return f"{left} | | | |"
    strength = f"{'≥' if at['limited'] else ''}{at['strength']:g}"
    return f"{left} {strength} | {' | '.join(map(_number, (at['trait'], at.get('judge'), at['own'])))} |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


@click.command()
@click.argument("names", nargs=-1, type=click.Choice([t.name for t in TRAITS]))
@click.option(
    "--bundles", type=click.Path(path_type=Path, file_okay=False, exists=True), help="Save them there."
)
@click.option("-t", "--threads", default=2, show_default=True)
@click.option("--again", is_flag=True, help="Measure again what docs/suite.json holds.")
def main(names: tuple[str, ...], bundles: Path | None, threads: int, again: bool) -> None:
    """Learn and compare the suite's traits, or those NAMES."""
    path = ROOT / "docs" / "suite.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for trait in TRAITS:
        known = "judge" in results.get(trait.name, {}) and not again
        if known or (names and trait.name not in names):
            continue
        results[trait.name] = measured(trait, bundles, threads)
        results = {t.name: results[t.name] for t in TRAITS if t.name in results}
        path.write_text(json.dumps(results, indent=1) + "\n")
        page = ROOT / "docs" / "results.md"
        page.write_text(with_tables(page.read_text("utf-8"), results), "utf-8")


if __name__ == "__main__":
    main()
