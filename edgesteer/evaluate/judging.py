"""Judges in a head-to-head: a TraitJudge that is trained for it, or an LLMJudge.

In:  what judges, and the replies of each way to ask. Out: values for each reply, the trait at a coherence,
     and a Judging that says who has judged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

import numpy as np

from edgesteer.errors import InputError
from edgesteer.evaluate.judge import MIN_QUESTIONS, Embeds, TraitJudge
from edgesteer.evaluate.table import Answers, Judging
from edgesteer.generate import Chat, judge_questions
from edgesteer.generate.progress import Done, no_progress, spread

if TYPE_CHECKING:
    from edgesteer.evaluate.llm_judge import AtCoherence, LLMJudge, Ratings

N_TRAINING = 48
"""Questions that a TraitJudge is trained on, at most."""

PER_QUESTION = 2
"""Replies to each of them, of each kind."""

_NAME = "judge"
_PREFIX = "judge: "


@runtime_checkable
class Rater(Protocol):
    """Judges replies to questions that it was not trained on."""

    @property
    def judging(self) -> Judging: ...

    def rate(
        self, questions: Sequence[str], replies: Sequence[str], progress: Done = no_progress
    ) -> dict[str, tuple[float, ...]]:
        """Values by measure, one for each reply; NaN where there is none."""
        ...

    def at_coherence(self, curve: Sequence[Answers], prompted: Answers) -> dict[str, AtCoherence]:
        """The trait at a judged coherence. curve: the unsteered answers, then a bundle's at its strengths."""
        ...


Judge: TypeAlias = "Embeds | LLMJudge | Rater"


def rater(
    judge: Judge,
    chat: Chat,
    trait: str,
    questions: Sequence[str],
    max_tokens: int,
    progress: Done,
) -> Rater:
    """What judges replies to these questions.

    judge: an embedder, with which a TraitJudge is trained on built-in questions that are not among these; a
        language model, which first has to judge one short reply; or a Rater, which is taken as it is.
    Raises InputError for fewer than MIN_QUESTIONS different questions, or a language model that cannot judge.
    """
    check_questions(questions)
    if isinstance(judge, Rater):
        return judge
    from edgesteer.evaluate.llm_judge import LLMJudge

    if isinstance(judge, LLMJudge):
        judge.check()
        return _ByModel(judge, trait)
    trained = TraitJudge.sampled(
        judge,
        chat,
        trait,
        questions_apart(questions),
        per_question=PER_QUESTION,
        max_tokens=max_tokens,
        progress=progress,
    )
    return _ByClassifier(trained)


def training_replies(judge: Judge) -> int:
    """How many replies `rater` takes at most."""
    return 2 * PER_QUESTION * N_TRAINING if hasattr(judge, "embed") else 0


def check_questions(questions: Sequence[str]) -> None:
    """Raises InputError for too few questions to judge."""
    if (n := len(set(questions))) < MIN_QUESTIONS:
        raise InputError(f"judge: {n} questions, expected at least {MIN_QUESTIONS}; give more questions")


def questions_apart(judged: Sequence[str]) -> list[str]:
    """At most N_TRAINING built-in questions for judges, none of them in `judged`; too few: InputError."""
    taken = {question.strip().casefold() for question in judged}
    left = [question for question in judge_questions() if question.casefold() not in taken]
    if len(left) < MIN_QUESTIONS:
        raise InputError(
            f"judge: {len(left)} built-in questions are not among those asked, expected at least "
            f"{MIN_QUESTIONS} to train it on; ask others"
        )
    return [left[i] for i in spread(len(left), N_TRAINING)]


@dataclass(frozen=True, slots=True)
class _ByClassifier:
    judge: TraitJudge

    @property
    def judging(self) -> Judging:
        one = self.judge
        return Judging("trait judge", one.summary, one.abstains, one.accuracy, one.auc, one.questions)

    def rate(
        self, questions: Sequence[str], replies: Sequence[str], progress: Done = no_progress
    ) -> dict[str, tuple[float, ...]]:
        scores = self.judge.score(replies)
        return {} if scores is None else {_NAME: tuple(scores.tolist())}

    def at_coherence(self, curve: Sequence[Answers], prompted: Answers) -> dict[str, AtCoherence]:
        return {}


@dataclass(frozen=True, slots=True)
class _ByModel:
    judge: LLMJudge
    trait: str

    @property
    def judging(self) -> Judging:
        name, url = self.judge.model or "", self.judge.endpoint.url
        cost = dataclasses.replace(self.judge.cost)
        return Judging(name, f"judged by {name} at {url.partition('://')[2]}", url=url, cost=cost)

    def rate(
        self, questions: Sequence[str], replies: Sequence[str], progress: Done = no_progress
    ) -> dict[str, tuple[float, ...]]:
        ratings = self.judge.rate(self.trait, questions, replies, progress)
        return {_PREFIX + name: tuple(scores.tolist()) for name, scores in ratings.scores.items()}

    def at_coherence(self, curve: Sequence[Answers], prompted: Answers) -> dict[str, AtCoherence]:
        from edgesteer.evaluate.llm_judge import C80, at_coherence

        points = [(answers.strength or 0.0, _ratings(answers)) for answers in curve]
        prompt = _ratings(prompted)
        return {
            "TA@Cp": at_coherence(points, prompt),
            "TA@C80": at_coherence(points, prompt, C80),
        }


def _ratings(answers: Answers) -> Ratings:
    from edgesteer.evaluate.llm_judge import Ratings

    scores: Mapping[str, np.ndarray] = {
        name.removeprefix(_PREFIX): np.array(values, np.float64)
        for name, values in answers.further.items()
        if name.startswith(_PREFIX)
    }
    unjudged = sum(int(np.isnan(values).sum()) for values in scores.values())
    return Ratings(scores, unjudged, sum(not reply.strip() for reply in answers.replies))
