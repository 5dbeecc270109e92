"""
What an execution did, step by step.

Knows executions. `text` and `html` draw the same view (`view`), while it runs and after.
"""

from __future__ import annotations

from pdkernel.render.timeline.as_html import html
from pdkernel.render.timeline.as_text import text

__all__ = ["html", "text"]
