"""Ways to ask, compared in full: single tokens, curves over strength, costs, beside what the head-to-head measures.

suite_file  what is asked, read from a file
curves      trait and coherence over strength
comparing   the door
"""

from edgesteer.evaluate.comparison.comparing import Comparison, Method, compare
from edgesteer.evaluate.comparison.suite_file import Suite, read_suite

__all__ = ["Comparison", "Method", "Suite", "compare", "read_suite"]
