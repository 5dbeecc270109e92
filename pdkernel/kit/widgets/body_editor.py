"""
The fields of an event: the texts of its fields and back, without loss, and the editor of its body.

A field that was not edited keeps its value: a number stays a number, a masked header keeps its value, and keys without a
field are kept. The editor takes JSON, text or no body, and shows errors while typing. A large body is kept whole and
shown in part, because a browser cannot edit megabytes in a text field.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import ipywidgets as ipw

from pdkernel.common.secret_patterns import is_masked_header, redact_url
from pdkernel.errors import EventError
from pdkernel.event import ENVIRONMENT_HEADER, EVENT_KEYS, EXTERNAL_USER_HEADER, MASK, parse_json
from pdkernel.kit.widgets.components import (
    DESCRIPTION_STYLE,
    FIELD_MARGIN,
    HIDDEN_NAME_STYLE,
    build_field_row,
    create_message,
    set_value,
    set_visible,
    show_message,
)
from pdkernel.model import JSON

EDITABLE_KEYS = ("method", "path", "query", "headers", "body", "client_ip")


@dataclass(frozen=True)
class EventFieldTexts:
    """The texts of the form's fields; an empty text means that the key is missing."""

    method: str = ""
    path: str = ""
    query: str = ""
    headers: str = ""
    client_ip: str = ""


def remove_identity_headers(data: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return the event without `x-pd-*` headers, which the session sets; removes `headers` if no other header is left."""
    headers = data.get("headers")
    if not isinstance(headers, dict):
        return dict(data)
    kept = {name: value for name, value in headers.items() if not _is_identity(name)}
    if len(kept) == len(headers):
        return dict(data)
    if not kept:
        return {key: value for key, value in data.items() if key != "headers"}
    return {**data, "headers": kept}


def is_same_event(one: Mapping[str, JSON], other: Mapping[str, JSON]) -> bool:
    """Return whether both are equal as JSON text, unlike `==`, where 1 equals true. Quick if both share a large body."""
    return list(one) == list(other) and all(
        one[key] is other[key] or json.dumps(one[key]) == json.dumps(other[key]) for key in one
    )


def format_event_fields(data: Mapping[str, JSON]) -> EventFieldTexts:
    """Return the field texts of an event without identity headers; values of secret headers become `***`."""
    return EventFieldTexts(
        method=_format_value(data, "method"),
        path=_format_value(data, "path"),
        query=_pairs(data, "query"),
        headers=_pairs(data, "headers"),
        client_ip=_format_value(data, "client_ip"),
    )


def describe_event_fields(data: Mapping[str, JSON]) -> list[tuple[str, str]]:
    """Return the names and values of the filled fields for a saved notebook: of query and body the keys only, since values may be secret."""
    texts = format_event_fields(data)
    query, body = data.get("query"), data.get("body")
    kind = "array" if isinstance(body, list) else "text" if isinstance(body, str) else "JSON"
    described = (
        ("method", texts.method),
        ("path", redact_url(texts.path)),
        ("query", ", ".join(query) if isinstance(query, dict) else ""),
        ("headers", texts.headers),
        (
            "body",
            f"object: {', '.join(body)}" if isinstance(body, dict) else kind if "body" in data else "",
        ),
    )
    return [(name, replace_lone_surrogates(value)) for name, value in described if value]


def parse_event_fields(texts: EventFieldTexts, original: Mapping[str, JSON]) -> dict[str, JSON]:
    """
    Return the event of the fields, without its body.

    Args:
        texts: The texts of the fields.
        original: The event that the fields were filled from; unedited fields keep its values.

    Raises:
        EventError: A line is not `Name: value`, a name occurs twice, or a header is set by the session.
    """
    filled = format_event_fields(original)
    read: dict[str, JSON] = {}
    for key in ("method", "path", "client_ip"):
        text = getattr(texts, key)
        if text == getattr(filled, key):
            _copy_key(read, original, key)
        elif text.strip():
            read[key] = text.strip()
    for key in ("query", "headers"):
        text = getattr(texts, key)
        if text == getattr(filled, key):
            _copy_key(read, original, key)
        elif text.strip():
            read[key] = _read_pairs(text, original, key)
    kept = {key: value for key, value in original.items() if key not in EDITABLE_KEYS}
    return _in_order({**read, **kept}, original)


def find_uneditable_keys(data: Mapping[str, JSON]) -> list[str]:
    """Return the keys of the event without a field in the form."""
    return [key for key in data if key not in EDITABLE_KEYS]


def find_lost_headers(data: Mapping[str, JSON]) -> list[str]:
    """Return the headers whose saved value is the mask."""
    headers = data.get("headers")
    return [name for name, value in headers.items() if value == MASK] if isinstance(headers, dict) else []


def find_masked_headers(data: Mapping[str, JSON]) -> list[str]:
    """Return the headers whose value the form hides and steps get."""
    headers = data.get("headers")
    if not isinstance(headers, dict):
        return []
    return [name for name, value in headers.items() if is_masked_header(name) and value != MASK]


def replace_lone_surrogates(text: str) -> str:
    """Return *text* for a front end: lone surrogates become question marks."""
    return text.encode("utf-8", "replace").decode()


def format_json(value: JSON, *, indent: int | None = None) -> str:
    """Return *value* as readable JSON text."""
    return replace_lone_surrogates(json.dumps(value, ensure_ascii=False, indent=indent))


def _is_identity(name: str) -> bool:
    return name.lower() in (ENVIRONMENT_HEADER, EXTERNAL_USER_HEADER)


def _copy_key(read: dict[str, JSON], base: Mapping[str, JSON], key: str) -> None:
    if key in base:
        read[key] = base[key]


def _in_order(data: Mapping[str, JSON], base: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return *data* with the keys of *base* first, in their order, then in the usual order of an event."""
    order = [*base, *(key for key in EVENT_KEYS if key not in base)]
    return {key: data[key] for key in order if key in data}


def _format_value(data: Mapping[str, JSON], key: str) -> str:
    if key not in data:
        return ""
    value = data[key]
    return replace_lone_surrogates(value) if isinstance(value, str) else format_json(value)


def _pairs(data: Mapping[str, JSON], key: str) -> str:
    if key not in data:
        return ""
    value = data[key]
    if not isinstance(value, dict):
        return format_json(value)
    return "\n".join(f"{_name(name)}: {_value(name, each, key)}" for name, each in value.items())


def _name(name: str) -> str:
    return replace_lone_surrogates(name).replace("\n", " ").replace("\r", " ")


def _value(name: str, value: JSON, key: str) -> str:
    if key == "headers" and is_masked_header(name):
        return MASK
    if isinstance(value, str) and value == value.strip() and value.isprintable():
        return value
    return format_json(value)


def _read_pairs(text: str, base: Mapping[str, JSON], key: str) -> dict[str, JSON]:
    before = base.get(key)
    originals: Mapping[str, Any] = before if isinstance(before, dict) else {}
    shown = {f"{_name(name)}: {_value(name, value, key)}": (name, value) for name, value in originals.items()}
    read: dict[str, JSON] = {}
    taken: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        name, value = shown.get(line) or _split(line, number, key, originals)
        same = name.lower() if key == "headers" else name
        if same in taken:
            raise EventError(f"{key}, line {number}: {name} is already in line {taken[same]}.", line=number)
        taken[same] = number
        read[name] = value
    return read


def _split(line: str, number: int, key: str, originals: Mapping[str, Any]) -> tuple[str, JSON]:
    """Name and value of an edited line; a name of the original event may contain colons."""
    known = [name for name in originals if line.startswith(f"{_name(name)}:")]
    if known:
        name = max(known, key=len)
        value = line[len(_name(name)) + 1 :].strip()
    else:
        # a name may start with a colon (HTTP/2), so the separator is not the first character
        end = line.find(":", 1)
        if end < 0:
            raise EventError(f"{key}, line {number}: write `name: value`.", line=number)
        name, value = line[:end].strip(), line[end + 1 :].strip()
    if key == "headers" and _is_identity(name):
        raise EventError(
            f"headers, line {number}: pdkernel sets {name} from the picked external user.",
            fix="Remove this line. To pick another user: %pduser",
            line=number,
        )
    return name, value


BodyKind = Literal["json", "text", "none"]

MAX_EDITABLE_CHARACTERS = 200_000
"""Largest body that can be edited, in characters; a larger body is shown in part."""
PREVIEW_CHARACTERS = 4_000
"""Number of characters shown of a larger body."""


class Absent:
    """No body, as opposed to the JSON value null."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = Absent()


@dataclass(frozen=True)
class BodyText:
    """The editor's text for a body; *total_characters* is the full length if only the start is shown, else None."""

    kind: BodyKind
    text: str
    total_characters: int | None = None


def format_body(value: JSON) -> BodyText:
    """Return the editor's text for *value*."""
    kind: BodyKind = "text" if isinstance(value, str) else "json"
    text = replace_lone_surrogates(value) if isinstance(value, str) else format_json(value, indent=2)
    if len(text) > MAX_EDITABLE_CHARACTERS:
        return BodyText(kind, f"{text[:PREVIEW_CHARACTERS]}\n…", len(text))
    return BodyText(kind, text)


def parse_body(kind: BodyKind, text: str) -> JSON | Absent:
    """
    Return the body for a typed text; `ABSENT` for a blank text.

    Raises:
        EventError: The text is not JSON; the error carries line and column.
    """
    if kind == "none" or not text.strip():
        return ABSENT
    return text if kind == "text" else parse_json(text, label="The body")


class BodyEditor:
    """
    The widgets for an event's body.

    Args:
        edited: Called after the user edited the body.
    """

    def __init__(self, edited: Callable[[], None]) -> None:
        self._edited = edited
        self._value: JSON | Absent = ABSENT
        self._shown = BodyText("json", "")
        self._replaced = False
        self._filling = False
        self._fault_text = ""
        self.kind = ipw.Dropdown(
            options=[("JSON", "json"), ("text", "text"), ("none", "none")],
            description="body",
            tooltip="The kind of the body: JSON, text (for example form-encoded), or none",
            style=DESCRIPTION_STYLE,
            layout={"width": "240px"},
        )
        self.text = ipw.Textarea(
            description="text of the body",
            placeholder='{"action": "opened"}',
            rows=12,
            tooltip="The body, which steps read as steps.trigger.event.body",
            style=HIDDEN_NAME_STYLE,
            layout={"width": "calc(100% - 120px)", "max_width": "888px", "margin": "2px 2px 2px 112px"},
        )
        self.text.add_class("pd-body")
        self.pretty_print_button = ipw.Button(
            description="Pretty-print", tooltip="Indent the JSON", layout={"width": "110px"}
        )
        self.replace_button = ipw.Button(
            description="Write another body", tooltip="Discard this body and write another", layout={"width": "160px"}
        )
        self._fault = create_message()
        self._size = create_message()
        self.kind.observe(self._changed, "value")
        self.text.observe(self._changed, "value")
        self.pretty_print_button.on_click(lambda _: self._indent())
        self.replace_button.on_click(lambda _: self._drop())
        below = ipw.VBox([self._size, self._fault], layout={"margin": FIELD_MARGIN})
        self.view = ipw.VBox(
            [build_field_row(self.kind, self.pretty_print_button, self.replace_button), self.text, below]
        )

    @property
    def is_modified(self) -> bool:
        """Whether the body was edited since `load`."""
        return self._replaced or (self.kind.value, self.text.value) != (self._shown.kind, self._shown.text)

    def load(self, value: JSON | Absent, *, empty_kind: BodyKind = "none") -> None:
        """Show *value* and keep it whole; without a body, select *empty_kind*."""
        self._replaced = False
        self._show(value, BodyText(empty_kind, "") if isinstance(value, Absent) else format_body(value))
        self._changed()

    def replace_value(self, value: JSON) -> None:
        """Replace the body with *value*, as an edit of the user."""
        self._replaced = True
        self._show(value, format_body(value))
        self._changed()

    @property
    def error_message(self) -> str:
        """The error message for the typed text, or an empty text."""
        return self._fault_text

    def read_body(self) -> JSON | Absent:
        """
        Return the body; an unedited body is exactly the loaded value.

        Raises:
            EventError: The text is not JSON; the error carries line and column.
        """
        if self.kind.value == "none":
            return ABSENT
        kind: BodyKind = self.kind.value
        if (kind, self.text.value) == (self._shown.kind, self._shown.text):
            return self._value
        if self._is_preview:  # the kind was changed: parse the whole body
            whole = (
                self._value
                if isinstance(self._value, str)
                else format_json(None if isinstance(self._value, Absent) else self._value)
            )
            return parse_body(kind, whole)
        return parse_body(kind, self.text.value)

    @property
    def _is_preview(self) -> bool:
        """Whether only the start of the body is in the text field."""
        return self._shown.total_characters is not None and self.text.value == self._shown.text

    def _changed(self, _: object = None) -> None:
        if self._filling:
            return
        self._show_state()
        self._edited()

    def _show_state(self) -> None:
        kind = self.kind.value
        fault = ""
        value: JSON | Absent = ABSENT
        try:
            value = self.read_body()
        except EventError as error:
            fault = error.message
        if not self._is_preview and len(self.text.value) > MAX_EDITABLE_CHARACTERS and not isinstance(value, Absent):
            self._replaced = True
            self._show(value, format_body(value))
        self._fault_text = fault
        show_message(self._fault, fault, kind="error")
        part = self._is_preview and kind != "none"
        size = self._shown.total_characters or 0
        show_message(
            self._size,
            f"The start of a body of {size:,} characters, too long to edit here. The whole body is sent and saved."
            if part
            else "",
        )
        self.text.disabled = part or kind == "none"
        set_visible(self.text, visible=kind != "none")
        set_visible(self.pretty_print_button, visible=kind == "json" and not part)
        set_visible(self.replace_button, visible=part)
        self.pretty_print_button.disabled = bool(fault) or not self.text.value.strip()

    def _drop(self) -> None:
        """Discard the body, to write another."""
        self._replaced = True
        self._show(ABSENT, BodyText(self.kind.value, ""))
        self._changed()

    def _show(self, value: JSON | Absent, shown: BodyText) -> None:
        self._value = value
        self._shown = shown
        self._filling = True
        try:
            set_value(self.kind, shown.kind)
            set_value(self.text, shown.text)
        finally:
            self._filling = False

    def _indent(self) -> None:
        try:
            value = parse_body("json", self.text.value)
        except EventError:
            return  # the error is shown below the field already
        if not isinstance(value, Absent):
            self.text.value = format_json(value, indent=2)
