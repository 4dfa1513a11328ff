"""Learning on the quantized model itself, through llama.cpp: from one sentence to a steering bundle."""

from edgesteer.learn.course import learn
from edgesteer.generate.questions import Question, built_in, read_questions
from edgesteer.learn.recipe import METHODS, Recipe
from edgesteer.learn.refining import Trainer
from edgesteer.learn.store import ReplyStore, write_replies
from edgesteer.learn.summary import LearnSummary

__all__ = [
    "METHODS",
    "LearnSummary",
    "Question",
    "Recipe",
    "ReplyStore",
    "Trainer",
    "built_in",
    "learn",
    "read_questions",
    "write_replies",
]
