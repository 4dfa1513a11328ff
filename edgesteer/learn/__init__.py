"""Learning on the quantized model itself, through llama.cpp: from one sentence to a steering bundle."""

from edgesteer.learn.questions import Question, built_in, read_questions
from edgesteer.learn.recipe import METHODS, LearnSummary, learn

__all__ = ["METHODS", "LearnSummary", "Question", "built_in", "learn", "read_questions"]
