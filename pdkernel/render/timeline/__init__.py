"""
View of an execution, step by step, during and after the run.

`as_text` and `as_html` render the same `view_model`.
"""

from __future__ import annotations

from pdkernel.render.timeline.as_html import render_html
from pdkernel.render.timeline.as_text import render_text
from pdkernel.render.timeline.view_model import TimelineContext

__all__ = ["TimelineContext", "render_html", "render_text"]
