"""
An event as the texts of a form, and back, losing nothing.

Knows how a method, a path, names with values and a client's address are written in fields, and that what a person
did not touch stays what it was: a number stays a number, a masked header keeps its value, keys that the form does not
show are kept. The body is `body`'s. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pdkernel.errors import EventError
from pdkernel.event import ENVIRONMENT_HEADER, EVENT_KEYS, EXTERNAL_USER_HEADER, MASK, is_masked_header
from pdkernel.model import JSON

STARTER_EVENT: Mapping[str, JSON] = {
    "method": "POST",
    "path": "/",
    "query": {},
    "headers": {"content-type": "application/json"},
}
"""What a form shows before there is an event."""

EDITABLE_KEYS = ("method", "path", "query", "headers", "body", "client_ip")


@dataclass(frozen=True)
class EventFieldTexts:
    """What stands in the form's fields; an empty text is a key that the event does not have."""

    method: str = ""
    path: str = ""
    query: str = ""
    headers: str = ""
    client_ip: str = ""


def remove_identity_headers(data: Mapping[str, JSON]) -> dict[str, JSON]:
    """The event without its `x-pd-*` headers, which follow the session; headers that were only those are dropped."""
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
    """Whether both are written alike; unlike `==`, which takes 1 for true. Quick where they share a big body."""
    return list(one) == list(other) and all(
        one[key] is other[key] or json.dumps(one[key]) == json.dumps(other[key]) for key in one
    )


def format_event_fields(data: Mapping[str, JSON]) -> EventFieldTexts:
    """The fields for an event without identity headers; values of secret-bearing headers show as `***`."""
    return EventFieldTexts(
        method=_format_value(data, "method"),
        path=_format_value(data, "path"),
        query=_pairs(data, "query"),
        headers=_pairs(data, "headers"),
        client_ip=_format_value(data, "client_ip"),
    )


def parse_event_fields(texts: EventFieldTexts, original: Mapping[str, JSON]) -> dict[str, JSON]:
    """
    The event that the fields say, without its body.

    Args:
        texts: What stands in the fields.
        original: The event that the fields were filled from; what was not touched is taken from it.

    Raises:
        EventError: A line is not `Name: value`, a name is there twice, or a header is the session's to set.
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
    """Keys of the event that the form does not show and keeps."""
    return [key for key in data if key not in EDITABLE_KEYS]


def find_lost_headers(data: Mapping[str, JSON]) -> list[str]:
    """Headers whose value was lost when the event was saved."""
    headers = data.get("headers")
    return [name for name, value in headers.items() if value == MASK] if isinstance(headers, dict) else []


def find_masked_headers(data: Mapping[str, JSON]) -> list[str]:
    """Headers whose value the form does not show, and steps get."""
    headers = data.get("headers")
    if not isinstance(headers, dict):
        return []
    return [name for name, value in headers.items() if is_masked_header(name) and value != MASK]


def replace_lone_surrogates(text: str) -> str:
    """*text* as it can be sent to a front end: halves of characters become question marks."""
    return text.encode("utf-8", "replace").decode()


def format_json(value: JSON, *, indent: int | None = None) -> str:
    """*value* as JSON text for people."""
    return replace_lone_surrogates(json.dumps(value, ensure_ascii=False, indent=indent))


def _is_identity(name: str) -> bool:
    return name.lower() in (ENVIRONMENT_HEADER, EXTERNAL_USER_HEADER)


def _copy_key(read: dict[str, JSON], base: Mapping[str, JSON], key: str) -> None:
    if key in base:
        read[key] = base[key]


def _in_order(data: Mapping[str, JSON], base: Mapping[str, JSON]) -> dict[str, JSON]:
    """*data* with the keys of *base* first and in their order, then an event's usual order."""
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
            raise EventError(f"{key}, line {number}: {name} is there already, in line {taken[same]}.", line=number)
        taken[same] = number
        read[name] = value
    return read


def _split(line: str, number: int, key: str, originals: Mapping[str, Any]) -> tuple[str, JSON]:
    """Name and value of an edited line; a name that was there before may hold colons."""
    known = [name for name in originals if line.startswith(f"{_name(name)}:")]
    if known:
        name = max(known, key=len)
        value = line[len(_name(name)) + 1 :].strip()
    else:
        # a name may start with a colon (HTTP/2), so the first character separates nothing
        end = line.find(":", 1)
        if end < 0:
            raise EventError(f"{key}, line {number}: write `name: value`.", line=number)
        name, value = line[:end].strip(), line[end + 1 :].strip()
    if key == "headers" and _is_identity(name):
        raise EventError(
            f"headers, line {number}: {name} follows the external user that is picked.",
            fix="Remove this line; pick another user with %pduser.",
            line=number,
        )
    return name, value
