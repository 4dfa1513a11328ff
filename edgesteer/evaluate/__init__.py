"""Measure how much of a trait steering gives, compared with the trait's prompt, and at what cost."""

from edgesteer.evaluate.comparison import Comparison, Method, compare
from edgesteer.evaluate.cost import Cost, costs
from edgesteer.evaluate.dose import Dose, Point
from edgesteer.evaluate.head_to_head import head_to_head, held_out_questions
from edgesteer.evaluate.suite_file import Suite, read_suite
from edgesteer.evaluate.table import Row, Table
from edgesteer.evaluate.way import Sources, Way, labels

__all__ = [
    "Comparison",
    "Cost",
    "Dose",
    "Method",
    "Point",
    "Row",
    "Sources",
    "Suite",
    "Table",
    "Way",
    "compare",
    "costs",
    "head_to_head",
    "held_out_questions",
    "labels",
    "read_suite",
]
