"""
The fields of an event but its body: method, path, query, headers, the caller's address.

Knows widgets for `EventTexts`, and the two headers that follow the session. Knows nothing of sessions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as ipw

from pdkernel.event import ENVIRONMENT_HEADER, EXTERNAL_USER_HEADER
from pdkernel.widgets.event_texts import EventTexts
from pdkernel.widgets.parts import DESCRIPTION, WIDE, field, set_value

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")


class EventFields:
    """
    The event's fields.

    Args:
        edited: Called after the person changed something.
    """

    def __init__(self, edited: Callable[[object], None]) -> None:
        self.method = ipw.Dropdown(
            options=_methods(""),
            value="",
            description="method",
            tooltip="The HTTP method",
            style=DESCRIPTION,
            layout={"width": "240px"},
        )
        self.path = ipw.Text(
            description="path",
            tooltip="The path of the request",
            style={"description_width": "50px"},
            layout=field(480),
        )
        self.query = _lines("query", "page: 2", "Parameters of the query, one `name: value` a line", rows=2)
        self.headers = _lines("headers", "content-type: application/json", "Headers, one `name: value` a line", rows=5)
        self.client_ip = ipw.Text(
            description="client_ip",
            placeholder="optional",
            tooltip="The caller's address; may stay empty",
            style=DESCRIPTION,
            layout=field(380),
        )
        for each in self._all:
            each.observe(edited, "value")
        self.identity = {name: _read_only(name) for name in (ENVIRONMENT_HEADER, EXTERNAL_USER_HEADER)}
        self.view = ipw.VBox(
            [
                ipw.HBox([self.method, self.path], layout={"flex_flow": "row wrap"}),
                self.query,
                self.headers,
                *self.identity.values(),
                self.client_ip,
            ]
        )

    @property
    def texts(self) -> EventTexts:
        """What stands in the fields."""
        return EventTexts(*(each.value for each in self._all))

    def fill(self, texts: EventTexts) -> None:
        """Put *texts* into the fields."""
        if texts.method not in dict(self.method.options).values():
            self.method.options = _methods(texts.method)
        for each, text in zip(
            self._all, (texts.method, texts.path, texts.query, texts.headers, texts.client_ip), strict=True
        ):
            set_value(each, text)

    def show_identity(self, external_user_id: str | None, environment: str) -> None:
        """Show the two headers as the session sets them."""
        set_value(self.identity[ENVIRONMENT_HEADER], environment)
        set_value(self.identity[EXTERNAL_USER_HEADER], external_user_id or "")

    @property
    def _all(self) -> tuple[Any, ...]:
        """The fields, in the order of `EventTexts`."""
        return (self.method, self.path, self.query, self.headers, self.client_ip)


def _methods(extra: str) -> list[tuple[str, str]]:
    more = [] if not extra or extra in METHODS else [(extra, extra)]
    return [("(none)", ""), *((method, method) for method in METHODS), *more]


def _lines(name: str, example: str, tooltip: str, *, rows: int) -> Any:
    return ipw.Textarea(
        description=name, placeholder=example, tooltip=tooltip, rows=rows, style=DESCRIPTION, layout=dict(WIDE)
    )


def _read_only(header: str) -> Any:
    return ipw.Text(
        description=header,
        disabled=True,
        placeholder="no external user is picked",
        tooltip=f"The header {header}, as picked with %pduser",
        style={"description_width": "170px"},
        layout=field(480),
    )
