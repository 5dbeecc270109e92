"""
What an execution did, step by step.

Knows executions. `text` and `html` draw the same view (`view`), while it runs and after.
"""

from __future__ import annotations

from pdkernel.render.timeline.as_html import html
from pdkernel.render.timeline.as_text import text
from pdkernel.render.timeline.view import Kind

__all__ = ["Kind", "html", "text"]
