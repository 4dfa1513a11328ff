"""Trait and coherence: how well steering does what its prompt does, and at what cost."""

from edgesteer.evaluate.chat import Chat, Reply
from edgesteer.evaluate.dose import Dose, Point, strength_at
from edgesteer.evaluate.headtohead import head_to_head, held_out_questions
from edgesteer.evaluate.scoring import Scores, score
from edgesteer.evaluate.table import Row, Table

__all__ = [
    "Chat",
    "Dose",
    "Point",
    "Reply",
    "Row",
    "Scores",
    "Table",
    "head_to_head",
    "held_out_questions",
    "score",
    "strength_at",
]
