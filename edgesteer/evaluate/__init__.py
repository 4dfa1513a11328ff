"""Trait and coherence: how well steering does what its prompt does, and at what cost."""

from edgesteer.evaluate.chat import Chat, Reply
from edgesteer.evaluate.headtohead import Row, Table, head_to_head, held_out_questions

__all__ = ["Chat", "Reply", "Row", "Table", "head_to_head", "held_out_questions"]
