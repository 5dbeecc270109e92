"""View of an endpoint's response: status, selected headers and body."""

from __future__ import annotations

from collections.abc import Mapping

from pdkernel.model import JSON
from pdkernel.render import formatting
from pdkernel.render.markup import (
    CONTAINER_STYLE,
    Html,
    code_block,
    escape_control_characters,
    join_lines,
    muted,
    pill,
    tag,
)


def render_text(status: int, reason: str, headers: Mapping[str, str], body: JSON, duration_ms: float) -> str:
    """Render the response as text."""
    lines = [f"{status} {reason}".rstrip() + f"  {formatting.format_duration(duration_ms)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    shown = _body(body)
    lines += ["", shown] if shown else []
    return escape_control_characters("\n".join(lines) + "\n")


def render_html(status: int, reason: str, headers: Mapping[str, str], body: JSON, duration_ms: float) -> str:
    """Render the response as HTML."""
    named = "\n".join(f"{name}: {value}" for name, value in headers.items())
    head = tag(
        "div",
        pill(f"{status} {reason}".rstrip(), "good" if status < 400 else "bad"),
        Html(" "),
        muted(formatting.format_duration(duration_ms)),
    )
    blocks = [code_block(each) for each in (named, _body(body)) if each]
    return tag("div", join_lines([head, *blocks]), style=CONTAINER_STYLE, class_="pd-view pd-answer")


def _body(body: JSON) -> str:
    if isinstance(body, str):
        return formatting.truncate_text(body, max_lines=200, max_characters=8000)
    return "" if body is None else formatting.format_json(body, max_lines=200, max_characters=8000)
