"""View of the event that started a run, as HTML: its body first, because a person decides about that."""

from __future__ import annotations

from collections.abc import Mapping

from pdkernel.execution import RunTrigger
from pdkernel.language.shape import format_path
from pdkernel.model import JSON
from pdkernel.render import formatting
from pdkernel.render.json_views import FormatPath, render_part, render_views
from pdkernel.render.markup import Html, code_block, collapsible, join_lines, muted, tag

_EVENT = ("steps", "trigger", "event")
_REQUEST_KEYS = frozenset({"method", "path", "query", "headers", "client_ip", "url"})
"""Keys of an event that describe its HTTP request."""


def render_event(trigger: RunTrigger) -> str:
    """Render the event of a run: the body, or an event without a request, as a tree; below it the request, closed."""
    event = trigger.event
    if trigger.sealed:
        return tag("div", muted("The event is sealed: it is shown once the accounts of the run are known."))
    if not event:
        return tag("div", muted("The event is empty."))
    request = {key: value for key, value in event.items() if key in _REQUEST_KEYS}
    rest = {key: value for key, value in event.items() if key not in _REQUEST_KEYS and key != "body"}
    parts = []
    if "body" in event or not rest:
        parts.append(_render_value(event.get("body"), "body"))
    parts += [_render_value(value, key) for key, value in rest.items()]
    if request:
        summary = f"request: {_describe_request(request)}"
        parts.append(collapsible(muted(summary), render_views(request, _format_path())))
    return tag("div", join_lines(parts))


def _render_value(value: JSON, key: str) -> Html:
    name = render_part(key, (), _format_path(key))
    if isinstance(value, dict | list) and value:
        return tag("div", name, render_views(value, _format_path(key)), style="margin-bottom:6px")
    if value is None:
        return tag("div", name, Html(" "), muted("empty"), style="margin-bottom:6px")
    text = value if isinstance(value, str) else formatting.format_json(value, max_lines=200, max_characters=8000)
    shown = formatting.truncate_text(text, max_lines=200, max_characters=8000)
    return tag("div", name, code_block(shown), style="margin-bottom:6px")


def _describe_request(request: Mapping[str, JSON]) -> str:
    words = " ".join(str(request[key]) for key in ("method", "path") if request.get(key))
    return formatting.truncate_line(words or "without a method", 120)


def _format_path(*keys: str) -> FormatPath:
    """The function that formats a path below *keys* of the event."""
    return lambda path: format_path((*_EVENT, *keys, *path), "node")
