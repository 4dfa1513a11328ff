"""Prompts through a chat template, replies, and their log-probabilities."""

from edgesteer.generate.chat import REPEAT_PENALTY, Chat, Reply, Tokens
from edgesteer.generate.questions import (
    Question,
    judge_questions,
    read_questions,
    strength_questions,
    training_questions,
)
from edgesteer.generate.scoring import ScoredTokens, Scores, score

__all__ = [
    "REPEAT_PENALTY",
    "Chat",
    "Question",
    "Reply",
    "ScoredTokens",
    "Scores",
    "Tokens",
    "judge_questions",
    "read_questions",
    "score",
    "strength_questions",
    "training_questions",
]
