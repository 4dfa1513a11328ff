"""Prompts through a chat template, replies, and their log-probabilities: what learning and evaluation stand on."""

from edgesteer.generate.chat import Chat, Reply
from edgesteer.generate.questions import Question, built_in, read_questions
from edgesteer.generate.scoring import Scores, score

__all__ = ["Chat", "Question", "Reply", "Scores", "built_in", "read_questions", "score"]
