"""The Chat of tests/generate."""

from tests.generate.conftest import chat

__all__ = ["chat"]
