"""The full comparison: the head-to-head with scores of single tokens, curves over strength, and costs.

Besides the head-to-head's replies it decodes those of the curves at other strengths (replies that a row
already holds are not decoded again), and the ones that `cost` times.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edgesteer.bundle import ModelInfo
from edgesteer.errors import EdgesteerWarning, SteeringOverflow
from edgesteer.evaluate.cost import Cost, costs, kv_bytes_per_token
from edgesteer.evaluate.dose import Point
from edgesteer.evaluate.head_to_head import head_to_head, ways_of
from edgesteer.evaluate.judging import Judge, training_replies
from edgesteer.evaluate.suite_file import Suite
from edgesteer.evaluate.table import Row, Table, plain_values
from edgesteer.evaluate.way import PROMPT, UNSTEERED, Sources, Way, prompts_of
from edgesteer.generate import Chat, Scores, score
from edgesteer.generate.progress import Done, Progress, Stages, no_progress, spread
from edgesteer.generate.scoring import ScoredTokens
from edgesteer.steering_map import join_pieces

MAX_TOKENS = 64

# Chosen so that three curves take half as long as the replies that are shown.
N_CURVE, CURVE_TOKENS = 8, 32

# A curve's strengths if the suite names none, as multiples of the strength of the replies that are shown.
_TIMES = (0.5, 0.75, 1.25)
_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Method:
    """What a Table's row does not say about one way to ask.

    kind: as in Way. prompt_bytes: size of the sentence in UTF-8 if the way needs it in each prompt; else 0.
    curve: the way at several strengths, ascending, on the comparison's `curve_questions` and the first
        `curve_tokens` of each reply; a single point at strength 0 for a way that steers nothing.
    pieces: for each reply, the text of each token in Scores.by_token.
    """

    name: str
    kind: str
    cost: Cost
    prompt_bytes: int
    curve: tuple[Point, ...]
    pieces: tuple[tuple[str, ...], ...] = dataclasses.field(repr=False)

    @property
    def steers(self) -> bool:
        """Whether a bundle is in force."""
        return self.kind not in (UNSTEERED, PROMPT)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The table, and for each of its rows a Method, in the same order.

    curve_questions: indices of the questions that every curve is measured on. curve_tokens: how many tokens
        of each reply it uses at most.
    sentence_tokens: length of the trait's sentence. kv_bytes_per_token: as in `cost`.
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
        """The table's JSON; each row with its kind, cost, curve, and `tokens`: [text, trait, coherence] each.

        timing: False leaves the times out; all the rest is the same in every run.
        """
        out = {"suite": self.suite, "model": dataclasses.asdict(self.model), **self.table.to_json(timing)}
        for key in ("curve_questions", "curve_tokens", "sentence_tokens", "kv_bytes_per_token"):
            out[key] = plain_values(getattr(self, key))
        for entry, (row, method) in zip(out["rows"], self, strict=True):
            entry |= plain_values(dataclasses.asdict(method))
            entry["tokens"] = [*map(_tokens, entry.pop("pieces"), row.scores.by_token)]
            if not timing:
                del entry["cost"]["first_token_seconds"], entry["cost"]["token_seconds"]
        return out


def compare(
    chat: Chat,
    suite: Suite,
    trait: str,
    rows: Sequence[tuple[str, Sources]],
    *,
    judge: Judge | None = None,
    timing: bool = True,
    progress: Progress = no_progress,
) -> Comparison:
    """Ask the suite's questions unsteered, with the trait as system prompt, and in each row.

    The suite's own trait is ignored: the caller decides between it and the bundle's.

    rows: (name, sources), as in `head_to_head`.
    judge: as in `head_to_head`.
    Raises what `head_to_head` raises.
    """
    max_tokens = suite.max_tokens or MAX_TOKENS
    curves = Curves(chat, suite, trait, max_tokens)
    replies = len(suite.questions) * (2 + len(rows))
    replies += 0 if judge is None else training_replies(judge)
    in_curves = curves.n_replies / 2 * len(rows)
    stages = Stages(progress, replies + in_curves)
    inner = stages.nested(replies)
    table = head_to_head(
        chat,
        trait,
        rows,
        questions=suite.questions,
        max_tokens=max_tokens,
        counts=suite.counts,
        with_sentiment=suite.sentiment,
        judge=judge,
        timing=False,
        progress=lambda stage, part: inner(stage if part < 1 else "cost", part),
    )
    ways = ways_of(chat, table, rows)
    spent = costs(chat, ways, timing=timing)
    methods = []
    for way, cost, row in zip(ways, spent, table.rows, strict=True):
        curve = curves.of(way, row, table.rows[0], stages.enter("curve", in_curves / len(ways)))
        methods.append(_method(chat, trait, way, cost, row, curve))
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


def _method(chat: Chat, trait: str, way: Way, cost: Cost, row: Row, curve: tuple[Point, ...]) -> Method:
    prompt_bytes = len(trait.encode()) if way.kind == PROMPT else 0
    pieces = tuple(_pieces(chat, scored) for scored in row.scores.by_token)
    return Method(way.name, way.kind, cost, prompt_bytes, curve, pieces)


def _timed(table: Table, spent: Sequence[Cost]) -> Table:
    rows = zip(table.rows, spent, strict=True)
    return dataclasses.replace(
        table,
        rows=tuple(
            dataclasses.replace(row, first_token_seconds=cost.first_token_seconds) for row, cost in rows
        ),
    )


def _pieces(chat: Chat, scored: ScoredTokens) -> tuple[str, ...]:
    return tuple(join_pieces([chat.llm.detokenize([token], special=True) for token in scored.tokens]))


def _tokens(pieces: Sequence[str], scored: ScoredTokens) -> list[list[Any]]:
    rounded = ([round(v, _DIGITS) for v in values] for values in (scored.trait, scored.coherence))
    return [list(entry) for entry in zip(pieces, *rounded, strict=True)]


class Curves:
    """Measures ways at several strengths, all on the first tokens of replies to the same few questions."""

    def __init__(self, chat: Chat, suite: Suite, trait: str, max_tokens: int) -> None:
        self._chat, self._strengths, self.n_tokens = chat, suite.strengths, min(max_tokens, CURVE_TOKENS)
        self.chosen = spread(len(suite.questions), N_CURVE)
        self._prompts = prompts_of(chat, [suite.questions[i] for i in self.chosen], trait)

    @property
    def n_replies(self) -> int:
        """How many replies a bundle's curve takes at most."""
        return len(self.chosen) * len(self._strengths or _TIMES)

    def of(self, way: Way, row: Row, unsteered: Row, progress: Done) -> tuple[Point, ...]:
        """The way's curve, ascending by strength, including what its row and the unsteered row hold."""
        if not way.unit:
            return (self._known(0.0, row),)
        assert row.strength is not None
        known = {0.0: self._known(0.0, unsteered)}
        known.setdefault(row.strength, self._known(row.strength, row))
        wanted = self._strengths or _around(row.strength or way.range[1])
        missing = [strength for strength in wanted if strength not in known]
        for i, strength in enumerate(missing):
            progress(i / len(missing))
            known[strength] = self._measured(dataclasses.replace(way, strength=strength))
        return tuple(known[strength] for strength in sorted(known))

    def _known(self, strength: float, row: Row) -> Point:
        return self._point(strength, row.scores.of(self.chosen))

    def _measured(self, way: Way) -> Point:
        plain, prompted = self._prompts
        strength = way.strength or 0.0
        try:
            with warnings.catch_warnings():  # a curve leaves the evaluated range on purpose
                warnings.simplefilter("ignore", EdgesteerWarning)
                replies = dataclasses.replace(way, prompts=plain).replies(self._chat, self.n_tokens)
        except SteeringOverflow:
            return Point(strength, math.nan, math.inf, 0.0)
        return self._point(strength, score(self._chat, replies, plain, prompted))

    def _point(self, strength: float, scores: Scores) -> Point:
        cut = scores.first(self.n_tokens)
        return Point(strength, cut.mean("trait"), cut.mean("coherence"), cut.mean("distinct2"))


def _around(strength: float) -> list[float]:
    return [round(times * strength, _DIGITS) for times in _TIMES]
