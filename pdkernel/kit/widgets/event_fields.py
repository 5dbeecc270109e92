"""The fields of an event except its body: method, path, query, headers, client address."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as ipw

from pdkernel.event import ENVIRONMENT_HEADER, EXTERNAL_USER_HEADER
from pdkernel.kit.widgets.components import (
    DESCRIPTION_STYLE,
    FIELD_LEFT_MARGIN,
    WIDE_LAYOUT,
    build_field_layout,
    build_field_row,
    format_message_html,
    on_enter,
    set_value,
)
from pdkernel.kit.widgets.event_field_text import (
    EventFieldTexts,
    find_lost_headers,
    find_masked_headers,
    find_uneditable_keys,
)
from pdkernel.model import JSON

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")


class EventFields:
    """
    The event's fields.

    Args:
        edited: Called after the user edited a field.
        entered: Called after Enter in a field of one line.
    """

    def __init__(self, edited: Callable[[object], None], entered: Callable[[], None]) -> None:
        self.method = ipw.Dropdown(
            options=_methods(""),
            value="",
            description="method",
            tooltip="The HTTP method",
            style=DESCRIPTION_STYLE,
            layout={"width": "240px"},
        )
        self.path = ipw.Text(
            description="path",
            tooltip="The path of the request",
            style={"description_width": "40px"},
            layout=build_field_layout(490, min_width_px=180),
        )
        self.query = _lines("query", "page: 2", "Parameters of the query, one `name: value` per line", rows=2)
        self.headers = _lines(
            "headers", "content-type: application/json", "Headers, one `name: value` per line", rows=5
        )
        self.client_ip = ipw.Text(
            description="client_ip",
            placeholder="optional",
            tooltip="The caller's address; optional",
            style=DESCRIPTION_STYLE,
            layout=build_field_layout(380),
        )
        for each in self._all:
            each.observe(edited, "value")
        on_enter(self.path, entered)
        on_enter(self.client_ip, entered)
        self.identity = ipw.HTML(layout={"margin": f"2px 2px 2px {FIELD_LEFT_MARGIN}"})
        self.view = ipw.VBox(
            [
                build_field_row(self.method, self.path),
                self.query,
                self.headers,
                self.identity,
                self.client_ip,
            ]
        )

    @property
    def field_texts(self) -> EventFieldTexts:
        """The texts of the fields."""
        return EventFieldTexts(*(each.value for each in self._all))

    def set_texts(self, texts: EventFieldTexts) -> None:
        """Set the texts of the fields."""
        if texts.method not in dict(self.method.options).values():
            self.method.options = _methods(texts.method)
        for each, text in zip(
            self._all, (texts.method, texts.path, texts.query, texts.headers, texts.client_ip), strict=True
        ):
            set_value(each, text)

    def show_identity(self, external_user_id: str | None, environment: str) -> None:
        """Show the two headers that the session sets, as text: a disabled field would be hard to read."""
        headers = {ENVIRONMENT_HEADER: environment}
        if external_user_id is not None:
            headers[EXTERNAL_USER_HEADER] = external_user_id
        no_user = "" if external_user_id is not None else f"No {EXTERNAL_USER_HEADER}: no external user is picked. "
        lines = "".join(f"<code>{html.escape(f'{name}: {value}')}</code><br>" for name, value in headers.items())
        note = format_message_html(f"{no_user}Sent with the headers above; %pduser sets them.")
        set_value(self.identity, f'<div style="line-height: 1.5">{lines}{note}</div>')

    @property
    def _all(self) -> tuple[Any, ...]:
        """The fields, in the order of `EventFieldTexts`."""
        return (self.method, self.path, self.query, self.headers, self.client_ip)


def _methods(extra: str) -> list[tuple[str, str]]:
    more = [] if not extra or extra in METHODS else [(extra, extra)]
    return [("(none)", ""), *((method, method) for method in METHODS), *more]


def _lines(name: str, example: str, tooltip: str, *, rows: int) -> Any:
    return ipw.Textarea(
        description=name,
        placeholder=example,
        tooltip=tooltip,
        rows=rows,
        style=DESCRIPTION_STYLE,
        layout=dict(WIDE_LAYOUT),
    )


def build_notes_html(data: Mapping[str, JSON]) -> str:
    """Notes about the parts of the event *data* that the fields hide or do not show."""
    notes = []
    if masked := find_lost_headers(data):
        notes.append(
            format_message_html(
                f"{', '.join(masked)}: the value was masked when this event was saved, and steps get ***. "
                "If a step reads the header, write a value.",
                kind="warn",
            )
        )
    if hidden := find_masked_headers(data):
        notes.append(
            format_message_html(f"{', '.join(hidden)}: the value is hidden here and saved as ***; steps get the value.")
        )
    if kept := find_uneditable_keys(data):
        notes.append(format_message_html(f"Other keys of the event, kept unchanged: {', '.join(kept)}."))
    return "".join(notes)
