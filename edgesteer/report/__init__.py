"""Pictures of what steering did: values in, text out. Nothing here runs a model or imports llama_cpp.

cells          text as terminal cells: escapes, widths, line breaks
palette        numbers as signed intensity levels, colours and marks
terminal       a map as text for a terminal, with or without colour
heat           a map as a grid of blocks and tokens
interference   what bundles do to one another, as a table of blocks
"""

from edgesteer.report.interference import render_interference
from edgesteer.report.terminal import render, show, wants_color

__all__ = ["render", "render_interference", "show", "wants_color"]
