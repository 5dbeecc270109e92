"""A message as HTML."""

from __future__ import annotations

from pdkernel.render.markup import Html, tag


def render_message_html(text: str) -> Html:
    """Render *text* as a block that keeps line breaks and spaces."""
    return tag("div", text, style="white-space:pre-wrap;margin:2px 0", class_="pd-view pd-note")
