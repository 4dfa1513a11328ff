"""Tables, maps, charts and pages: values in, text out. Nothing here runs a model or imports llama_cpp.

cells        text as terminal cells: widths, line breaks, tables
palette      numbers as signed intensity levels, colours and marks
svg, charts  SVG primitives; lines, bars, radar and heat maps
html         Jinja templates with autoescape
"""

from edgesteer.report.plan_tables import render_interference, render_norms
from edgesteer.report.terminal import render, show, wants_color

__all__ = ["render", "render_interference", "render_norms", "show", "wants_color"]
