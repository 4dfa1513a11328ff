"""Ways to ask, compared in full: what the head-to-head measures, single tokens, curves over strength, costs.

In:  a Chat, a Suite, the trait's sentence, bundles with strengths.
Out: a Comparison: the head-to-head's Table, and beside each row its Method; its JSON.

Beyond the head-to-head's replies this decodes what `curves` asks at other strengths, and what `cost` times.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from edgesteer.bundle import Bundle, ModelInfo
from edgesteer.generate.chat import Chat
from edgesteer.evaluate.comparison.curves import Curves
from edgesteer.evaluate.comparison.suite_file import Suite
from edgesteer.evaluate.cost import Cost, costs, kv_bytes_per_token
from edgesteer.evaluate.dose import Point
from edgesteer.evaluate.headtohead import N_CALIBRATION, head_to_head
from edgesteer.generate.progress import portion
from edgesteer.generate.scoring import Spoken
from edgesteer.evaluate.table import Row, Table, plain_values
from edgesteer.evaluate.ways import PROMPT, UNSTEERED, Way, prompts_of
from edgesteer.steering_map import join_pieces

Progress = Callable[[str, float], None]

MAX_TOKENS = 64

_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Method:
    """What a Table's row leaves out of one way to ask.

    kind: as in Way. prompt_bytes: of the sentence in UTF-8, where the way needs it at each question; else 0.
    curve: the way at several strengths, ascending, on the comparison's `curve_questions` and the first
        `curve_tokens` of each reply; for one that steers nothing the only point, at strength 0.
    pieces: of each reply the text of each token in Scores.spoken.
    """

    name: str
    kind: str
    cost: Cost
    prompt_bytes: int
    curve: tuple[Point, ...]
    pieces: tuple[tuple[str, ...], ...] = dataclasses.field(repr=False)

    @property
    def steers(self) -> bool:
        """Whether a bundle acts."""
        return self.kind not in (UNSTEERED, PROMPT)


@dataclass(frozen=True, slots=True)
class Comparison:
    """methods: in the order of the table's rows. curve_questions: indices of the questions behind every curve;
    curve_tokens: of how many first tokens of their replies it is at most.
    sentence_tokens: of the trait's sentence by itself. kv_bytes_per_token: as in `cost`.
    """

    suite: str
    model: ModelInfo
    table: Table
    methods: tuple[Method, ...]
    curve_questions: tuple[int, ...]
    curve_tokens: int
    sentence_tokens: int
    kv_bytes_per_token: float | None

    def __iter__(self) -> Iterator[tuple[Row, Method]]:
        return zip(self.table.rows, self.methods, strict=True)

    def to_json(self, timing: bool = True) -> dict[str, Any]:
        """The table's JSON; each row with its kind, cost, curve and `tokens`: of each reply [text, trait, coherence].

        timing: False leaves the clock's word out, and the rest is the same in every run.
        """
        out = {"suite": self.suite, "model": dataclasses.asdict(self.model), **self.table.to_json(timing)}
        for key in ("curve_questions", "curve_tokens", "sentence_tokens", "kv_bytes_per_token"):
            out[key] = plain_values(getattr(self, key))
        for told, (row, method) in zip(out["rows"], self, strict=True):
            told |= plain_values(dataclasses.asdict(method))
            told["tokens"] = [*map(_tokens, told.pop("pieces"), row.scores.spoken)]
            if not timing:
                del told["cost"]["first_token_seconds"], told["cost"]["token_seconds"]
        return out


def compare(
    chat: Chat,
    suite: Suite,
    trait: str,
    bundles: Sequence[tuple[Bundle, float]],
    *,
    at_prompt_coherence: bool = False,
    timing: bool = True,
    progress: Progress = lambda stage, fraction: None,
) -> Comparison:
    """Ask the suite's questions unsteered, with the trait as system prompt, and under each (bundle, strength).

    at_prompt_coherence: find the strengths instead, as `head_to_head` does. The suite's own trait is not read:
    whose counts is the caller's decision. Raises what `head_to_head` raises.
    """
    max_tokens = suite.max_tokens or MAX_TOKENS
    curves = Curves(chat, suite, trait, max_tokens)
    first = _share(len(suite.questions), curves.n_replies / 2, len(bundles), at_prompt_coherence)
    table = head_to_head(
        chat,
        trait,
        [(name, *pair) for name, pair in zip(labels(bundles), bundles, strict=True)],
        questions=suite.questions,
        max_tokens=max_tokens,
        counts=suite.counts,
        with_sentiment=suite.sentiment,
        at_prompt_coherence=at_prompt_coherence,
        timing=False,
        progress=lambda stage, part: progress(stage if part < 1 else "cost", first * part),
    )
    ways = _ways(chat, table, [bundle for bundle, _ in bundles])
    spent = costs(chat, ways, timing=timing)
    methods = []
    for i, (way, cost, row) in enumerate(zip(ways, spent, table.rows, strict=True)):
        tell = portion(lambda part: progress("curve", first + (1 - first) * part), i, 1, len(ways))
        methods.append(_method(chat, trait, way, cost, row, curves.of(way, row, table.rows[0], tell)))
    progress("done", 1.0)
    return Comparison(
        suite=suite.name,
        model=chat.llm.model_info,
        table=_timed(table, spent),
        methods=tuple(methods),
        curve_questions=tuple(curves.chosen),
        curve_tokens=curves.n_tokens,
        sentence_tokens=len(chat.llm.tokenize(trait.encode(), add_bos=False)),
        kv_bytes_per_token=kv_bytes_per_token(chat.llm),
    )


def labels(bundles: Sequence[tuple[Bundle, float]]) -> list[str]:
    """A name for each that no other has: the bundle's, then with its strength, then with a number."""
    often = Counter([UNSTEERED, PROMPT, *(bundle.name for bundle, _ in bundles)])
    taken, out = {UNSTEERED, PROMPT}, []
    for bundle, strength in bundles:
        name = bundle.name if often[bundle.name] == 1 else f"{bundle.name} {strength:g}"
        rest = (f"{name} ({i})" for i in count(2))
        out.append(name if name not in taken else next(other for other in rest if other not in taken))
        taken.add(out[-1])
    return out


def _share(n_questions: int, n_curve: float, n_bundles: int, calibrated: bool) -> float:
    """The part of the work that the head-to-head is, by replies. A strength is found with some eight tries."""
    asked = n_questions * (2 + n_bundles) + N_CALIBRATION * (2 + 8 * n_bundles) * calibrated
    return asked / max(1, asked + n_curve * n_bundles)


def _ways(chat: Chat, table: Table, bundles: Sequence[Bundle]) -> list[Way]:
    """The table's rows as ways, with the strengths that were found."""
    plain, prompted = prompts_of(chat, table.questions, table.trait)
    unsteered, prompt, *steered = table.rows
    rest = zip(steered, bundles, strict=True)
    return [
        Way(unsteered.name, plain),
        Way(prompt.name, prompted),
        *(Way(row.name, plain, bundle, row.strength, row.dose) for row, bundle in rest),
    ]


def _method(chat: Chat, trait: str, way: Way, cost: Cost, row: Row, curve: tuple[Point, ...]) -> Method:
    prompt_bytes = len(trait.encode()) if way.kind == PROMPT else 0
    pieces = tuple(_pieces(chat, spoken) for spoken in row.scores.spoken)
    return Method(way.name, way.kind, cost, prompt_bytes, curve, pieces)


def _timed(table: Table, spent: Sequence[Cost]) -> Table:
    rows = zip(table.rows, spent, strict=True)
    return dataclasses.replace(
        table,
        rows=tuple(
            dataclasses.replace(row, first_token_seconds=cost.first_token_seconds) for row, cost in rows
        ),
    )


def _pieces(chat: Chat, spoken: Spoken) -> tuple[str, ...]:
    return tuple(join_pieces([chat.llm.detokenize([token], special=True) for token in spoken.tokens]))


def _tokens(pieces: Sequence[str], spoken: Spoken) -> list[list[Any]]:
    rounded = ([round(v, _DIGITS) for v in values] for values in (spoken.trait, spoken.coherence))
    return [list(told) for told in zip(pieces, *rounded, strict=True)]
