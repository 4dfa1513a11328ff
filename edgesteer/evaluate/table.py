"""The result of a head-to-head: a row for each way to ask, with intervals and differences to the prompt."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from edgesteer.evaluate import text_measures
from edgesteer.evaluate.intervals import Estimate, Sample, difference, estimate
from edgesteer.evaluate.matched import Matched, matched
from edgesteer.generate.scoring import Scores

if TYPE_CHECKING:
    from edgesteer.evaluate.llm_judge import AtCoherence, JudgeCost
    from edgesteer.evaluate.snapshot import SnapshotCost

MEASURES = ("trait", "coherence", "nll0", "distinct2")

_IN_CARD = ("trait", "coherence", "relevance", "judge", "judge: alignment", "judge: coherence")


@dataclass(frozen=True, slots=True)
class Answers:
    """The replies of one way to ask, and their measures.

    strength: None if nothing steers. sources: as in Row.
    context_tokens: by how much its prompts are longer than plain ones. sentiments: of each reply, or None.
    further: values of measures that only some tables have, one for each reply; NaN where there is none.
    """

    name: str
    strength: float | None
    context_tokens: float
    replies: tuple[str, ...]
    scores: Scores
    sentiments: tuple[float, ...] | None = None
    first_token_seconds: float | None = None
    sources: tuple[tuple[str, float], ...] = ()
    further: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """Means over the replies of one way to ask; see `measures` for each.

    Empty replies (without any token, not even an end) cannot be scored: they count in `empty`, in `words` as
    0, and in `counts` as replies without a match.

    strength: its bundle's; of several bundles, the number that multiplies their given strengths.
    sources: name and strength of each bundle that was in force.
    sentiment: mean of VADER's compound scores, or None.
    estimates: each measure with its 95 % interval over the questions; also "relevance" (nats per token) and
        "question matched" (share of the replies) as in `relevance`, what a judge gives, and for each count
        "NAME per 100 words" and "NAME in replies". minus_prompt: the same, as difference to the prompted
        row, paired by question.
    by_reply: relevance and the judge's values for each reply, by their names in estimates.
    matched: both at the prompt's coherence; None if the row was measured at a single strength.
    judged: "TA@Cp" and "TA@C80", as a language model has judged; empty without one, or at a single strength.
    first_token_seconds: median from a prompt to the first token; None if not measured. Ignored when rows are
        compared for equality.
    """

    name: str
    strength: float | None
    trait: float
    coherence: float
    nll0: float
    distinct2: float
    words: float
    sentiment: float | None
    counts: Mapping[str, text_measures.Count]
    empty: int
    context_tokens: float
    estimates: Mapping[str, Estimate]
    minus_prompt: Mapping[str, Estimate]
    matched: Matched | None
    judged: Mapping[str, AtCoherence]
    sources: tuple[tuple[str, float], ...]
    replies: tuple[str, ...] = dataclasses.field(repr=False)
    scores: Scores = dataclasses.field(repr=False)
    by_reply: Mapping[str, tuple[float, ...]] = dataclasses.field(repr=False)
    first_token_seconds: float | None = dataclasses.field(compare=False)


@dataclass(frozen=True, slots=True)
class Judging:
    """Who has judged a table's replies.

    name: of the kind of judge, or of the model. summary: one line for people.
    abstains: whether it has given no values. accuracy, auc: of a TraitJudge on held-out questions, of which
        there were `questions`.
    url, cost: of a language model. Cost is ignored in comparisons, since earlier scores cost nothing.
    """

    name: str
    summary: str
    abstains: bool = False
    accuracy: Estimate | None = None
    auc: Estimate | None = None
    questions: int | None = None
    url: str | None = None
    cost: JudgeCost | None = dataclasses.field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Table:
    """A row for each way to ask, and the questions.

    chance: the share of questions that would be matched if all replies were the same; None if relevance could
        not be measured. judge: None without one.
    snapshot: what the prompt costs if its KV is kept; None without controls. Ignored in comparisons.
    """

    trait: str
    questions: tuple[str, ...]
    max_tokens: int
    rows: tuple[Row, ...]
    chance: float | None = None
    judge: Judging | None = None
    snapshot: SnapshotCost | None = dataclasses.field(default=None, compare=False)

    def to_json(self, timing: bool = True) -> dict[str, Any]:
        """Plain values, without single tokens; NaN and infinity become None.

        timing: False leaves times and the judge's cost out; all the rest is the same in every run.
        """
        out: dict[str, Any] = plain_values(dataclasses.asdict(self))
        for row in out["rows"]:
            del row["scores"]["by_token"]
            if not timing:
                del row["first_token_seconds"]
        if out["judge"] and not timing:
            del out["judge"]["cost"]
        if out["snapshot"] and not timing:
            del out["snapshot"]["first_token_seconds"], out["snapshot"]["token_seconds"]
        return out

    def for_manifest(self, name: str) -> dict[str, Any]:
        """What the manifest of the row's bundle says as `evaluation.replies`.

        Raises ValueError if there is no row of that name.
        """
        row = named(self.rows, name)
        ways = {"unsteered": self.rows[0], "prompt": self.rows[1], "steered": row}
        figures = {
            way: {key: one.estimates[key].for_manifest() for key in _IN_CARD if key in one.estimates}
            for way, one in ways.items()
        }
        judge = {} if self.judge is None else {"judge": self.judge.summary}
        return {"questions": len(self.questions), "strength": row.strength, **judge, **figures}


def rows_of(
    answers: Sequence[Answers],
    counts: Sequence[str],
    prompt: int,
    unsteered: int = 0,
    others: Sequence[Sequence[Answers]] = (),
    judged: Sequence[Mapping[str, AtCoherence]] = (),
) -> tuple[Row, ...]:
    """The rows of `answers`; answers[prompt] is what the others are compared with.

    others: for each, the answers of the same bundle at other strengths. If there are any, `matched` is
        computed from their curve, which begins with answers[unsteered].
    judged: for each, Row.judged.
    """
    samples = [_samples(each, counts) for each in answers]
    rows = []
    for each, own, more, ratings in zip(
        answers, samples, others or [()] * len(answers), judged or [{}] * len(answers), strict=True
    ):
        curve = [(0.0, samples[unsteered]), (each.strength or 0.0, own)]
        curve += [(other.strength or 0.0, _samples(other, counts)) for other in more]
        at = matched(curve, samples[prompt]) if more else None
        rows.append(_row(each, own, samples[prompt], counts, at, ratings))
    return tuple(rows)


def _row(
    answers: Answers,
    own: Mapping[str, Sample],
    prompted: Mapping[str, Sample],
    counts: Sequence[str],
    at: Matched | None,
    judged: Mapping[str, AtCoherence],
) -> Row:
    estimates = {key: estimate(sample) for key, sample in own.items()}
    means = {key: estimates[key].value for key in (*MEASURES, "words")}
    return Row(
        name=answers.name,
        strength=answers.strength,
        **means,
        sentiment=estimates["sentiment"].value if "sentiment" in estimates else None,
        counts={name: text_measures.count(name, answers.replies) for name in counts},
        empty=answers.scores.empty,
        context_tokens=answers.context_tokens,
        estimates=estimates,
        minus_prompt={key: difference(sample, prompted[key]) for key, sample in own.items()},
        matched=at,
        judged=judged,
        sources=answers.sources,
        replies=answers.replies,
        scores=answers.scores,
        by_reply=answers.further,
        first_token_seconds=answers.first_token_seconds,
    )


def _samples(answers: Answers, counts: Sequence[str]) -> dict[str, Sample]:
    """The sample of each measure, by its name in Row.estimates."""
    words = [text_measures.words(text) for text in answers.replies]
    out = {name: Sample.mean(getattr(answers.scores, name)) for name in MEASURES}
    out["words"] = Sample.mean(words)
    out |= {name: Sample.mean(values) for name, values in answers.further.items()}
    if answers.sentiments is not None:
        out["sentiment"] = Sample.mean(answers.sentiments)
    for name in counts:
        hits = [text_measures.hits(name, text) for text in answers.replies]
        out[f"{name} per 100 words"] = Sample.ratio([100 * n for n in hits], words)
        out[f"{name} in replies"] = Sample.mean([float(n > 0) for n in hits])
    return out


class _Named(Protocol):
    @property
    def name(self) -> str: ...


_R = TypeVar("_R", bound=_Named)


def named(rows: Sequence[_R], name: str) -> _R:
    """The row of this name. Raises ValueError if there is none."""
    row = next((row for row in rows if row.name == name), None)
    if row is None:
        raise ValueError(f"row {name!r}: expected one of {', '.join(row.name for row in rows)}")
    return row


def plain_values(value: Any) -> Any:
    """The value as JSON can hold it: lists for tuples, None for a number that is not finite."""
    if isinstance(value, dict):
        return {key: plain_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_values(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
