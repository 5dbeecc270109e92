"""
An event as the texts of form fields, and back, without loss.

A field that was not edited keeps its value: a number stays a number, a masked header keeps its value, and keys without a
field are kept. The body is in `body_editor`. All functions are pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pdkernel.common.secret_patterns import is_masked_header, redact_url
from pdkernel.errors import EventError
from pdkernel.event import ENVIRONMENT_HEADER, EVENT_KEYS, EXTERNAL_USER_HEADER, MASK
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
    """The event without `x-pd-*` headers, which the session sets; removes `headers` if no other header is left."""
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
    """Whether both are equal as JSON text, unlike `==`, where 1 equals true. Quick if both share a large body."""
    return list(one) == list(other) and all(
        one[key] is other[key] or json.dumps(one[key]) == json.dumps(other[key]) for key in one
    )


def format_event_fields(data: Mapping[str, JSON]) -> EventFieldTexts:
    """The field texts of an event without identity headers; values of secret headers become `***`."""
    return EventFieldTexts(
        method=_format_value(data, "method"),
        path=_format_value(data, "path"),
        query=_pairs(data, "query"),
        headers=_pairs(data, "headers"),
        client_ip=_format_value(data, "client_ip"),
    )


def describe_event_fields(data: Mapping[str, JSON]) -> list[tuple[str, str]]:
    """Names and values of the filled fields for a saved notebook: of query and body the keys only, since values may be secret."""
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
    The event of the fields, without its body.

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
    """Keys of the event without a field in the form."""
    return [key for key in data if key not in EDITABLE_KEYS]


def find_lost_headers(data: Mapping[str, JSON]) -> list[str]:
    """Headers whose saved value is the mask."""
    headers = data.get("headers")
    return [name for name, value in headers.items() if value == MASK] if isinstance(headers, dict) else []


def find_masked_headers(data: Mapping[str, JSON]) -> list[str]:
    """Headers whose value the form hides and steps get."""
    headers = data.get("headers")
    if not isinstance(headers, dict):
        return []
    return [name for name, value in headers.items() if is_masked_header(name) and value != MASK]


def replace_lone_surrogates(text: str) -> str:
    """*text* for a front end: lone surrogates become question marks."""
    return text.encode("utf-8", "replace").decode()


def format_json(value: JSON, *, indent: int | None = None) -> str:
    """*value* as readable JSON text."""
    return replace_lone_surrogates(json.dumps(value, ensure_ascii=False, indent=indent))


def _is_identity(name: str) -> bool:
    return name.lower() in (ENVIRONMENT_HEADER, EXTERNAL_USER_HEADER)


def _copy_key(read: dict[str, JSON], base: Mapping[str, JSON], key: str) -> None:
    if key in base:
        read[key] = base[key]


def _in_order(data: Mapping[str, JSON], base: Mapping[str, JSON]) -> dict[str, JSON]:
    """*data* with the keys of *base* first, in their order, then in the usual order of an event."""
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
