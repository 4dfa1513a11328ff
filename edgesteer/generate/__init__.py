"""Prompts through a chat template, replies, and their log-probabilities."""

from edgesteer.generate.chat import REPEAT_PENALTY, Chat, Reply, Tokens
from edgesteer.generate.questions import Question, built_in, read_questions
from edgesteer.generate.scoring import ScoredTokens, Scores, score

__all__ = [
    "REPEAT_PENALTY",
    "Chat",
    "Question",
    "Reply",
    "ScoredTokens",
    "Scores",
    "Tokens",
    "built_in",
    "read_questions",
    "score",
]
