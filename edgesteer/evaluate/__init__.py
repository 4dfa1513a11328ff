"""Trait and coherence: how well steering does what its prompt does, and at what cost."""

from edgesteer.generate.chat import Chat, Reply
from edgesteer.evaluate.comparison import Comparison, Method, Suite, compare, read_suite
from edgesteer.evaluate.cost import Cost, costs
from edgesteer.evaluate.dose import Dose, Point, strength_at
from edgesteer.evaluate.headtohead import head_to_head, held_out_questions
from edgesteer.generate.scoring import Scores, score
from edgesteer.evaluate.table import Row, Table
from edgesteer.evaluate.ways import Way

__all__ = [
    "Chat",
    "Comparison",
    "Cost",
    "Dose",
    "Method",
    "Point",
    "Reply",
    "Row",
    "Scores",
    "Suite",
    "Table",
    "Way",
    "compare",
    "costs",
    "head_to_head",
    "held_out_questions",
    "read_suite",
    "score",
    "strength_at",
]
