"""
What an execution did, step by step.

Knows executions. `text` and `html` draw the same view (`view`), while it runs and after.
"""

from __future__ import annotations

from pdkernel.render.timeline.as_html import render_html
from pdkernel.render.timeline.as_text import render_text
from pdkernel.render.timeline.view_model import StepKind

__all__ = ["StepKind", "render_html", "render_text"]
