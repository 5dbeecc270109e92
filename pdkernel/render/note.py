"""
A message of ours, as HTML.

Knows that a message may be several lines and hold anything. The text form is the message itself.
"""

from __future__ import annotations

from pdkernel.render.markup import Html, tag


def render_message_html(text: str) -> Html:
    """*text* as a quiet block; its lines and blanks are kept."""
    return tag("div", text, style="white-space:pre-wrap;margin:2px 0", class_="pd-view pd-note")
