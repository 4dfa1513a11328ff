"""Pictures of what steering did: values in, text out. Nothing here runs a model or imports llama_cpp.

cells          text as terminal cells: escapes, widths, line breaks
palette        numbers as signed intensity levels, colours and marks
terminal       a map as text for a terminal, with or without colour
heat           a map as a grid of blocks and tokens
"""

from edgesteer.report.terminal import render, show, wants_color

__all__ = ["render", "show", "wants_color"]
