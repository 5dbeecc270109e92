"""
Events: the data that starts a workflow, exactly as in `steps.trigger.event`.

The module also parses JSON that a person has typed, and masks secret headers.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Self, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from pdkernel.common.encode import decode_large
from pdkernel.common.safe_files import BYTE_ORDER_MARK
from pdkernel.common.secret_patterns import is_masked_header
from pdkernel.errors import EventError, format_count
from pdkernel.model import JSON

ENVIRONMENT_HEADER = "x-pd-environment"
EXTERNAL_USER_HEADER = "x-pd-external-user-id"
EVENT_KEYS = ("method", "path", "query", "headers", "body", "client_ip", "url")
MASK = "***"
JSON_POST: Mapping[str, JSON] = {
    "method": "POST",
    "path": "/",
    "query": {},
    "headers": {"content-type": "application/json"},
}
"""The event of a POST without a body that announces JSON."""
_AUTH_SCHEME = re.compile(r"\s*(?:(?:basic|bearer|digest|token) +)?", re.IGNORECASE)


@dataclass(frozen=True, repr=False)
class Event:
    """
    An event that starts a workflow.

    Attributes:
        data: An object with any of `method, path, query, headers, body, client_ip, url`; `{}` is a valid event.
        is_http: Whether the event is an HTTP request. Events of a source or a schedule have other keys, and no headers that
            name an external user.
    """

    data: Mapping[str, JSON] = field(default_factory=dict)
    is_http: bool = True

    @classmethod
    def parse(cls, text: str | bytes, *, label: str = "the event", is_http: bool = True) -> Self:
        """
        Parse an event from JSON text.

        Raises:
            EventError: The text is not JSON (with line and column), or not an event.
        """
        return cls.from_value(parse_json(text, label=label), label=label, is_http=is_http)

    @classmethod
    def from_value(cls, value: JSON, *, label: str = "the event", is_http: bool = True) -> Self:
        """
        Create an event from *value*.

        Args:
            value: An object.
            label: The name of the event in error messages.
            is_http: Whether the event is an HTTP request; events of a source or a schedule have other keys.

        Raises:
            EventError: *value* is not an object, or has none of the event keys.
        """
        if not isinstance(value, dict):
            raise EventError(
                f"{label} is not an event: it is {_describe_json_type(value)}. An event is an object with any of "
                f"{', '.join(EVENT_KEYS)}.",
                fix="If this is a payload, pass it with --body, which wraps it as a POST.",
            )
        unknown = [key for key in value if key not in EVENT_KEYS]
        if is_http and unknown and not any(key in value for key in EVENT_KEYS):
            raise EventError(
                f"{label} is not an event: it has {', '.join(map(repr, unknown[:5]))}. An event is an object "
                f"with any of {', '.join(EVENT_KEYS)}.",
                fix="If this is a payload, pass it with --body, which wraps it as a POST.",
            )
        headers = value.get("headers")
        if is_http and headers is not None and not isinstance(headers, dict):
            raise EventError(
                f"{label} is not an event: its headers are {_describe_json_type(headers)}, but must be an object."
            )
        return cls(value, is_http=is_http)

    @classmethod
    def from_body(cls, body: JSON) -> Self:
        """Wrap the payload *body* as a JSON POST."""
        return cls({**copy.deepcopy(JSON_POST), "body": body})

    @classmethod
    def from_schedule(cls, schedule: Mapping[str, JSON], now: datetime) -> Self:
        """
        Build the event that a schedule emits at *now*.

        Args:
            schedule: Settings of the schedule: `cron` or `interval_seconds`, and `timezone` (an IANA name); all optional.
            now: An aware time.

        Raises:
            EventError: The time zone does not exist.
        """
        zone = str(schedule.get("timezone") or "UTC")
        try:
            local = now.astimezone(ZoneInfo(zone))
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise EventError(
                f"The schedule's time zone {zone!r} does not exist.",
                fix="Use an IANA name, such as Europe/Berlin.",
            ) from None
        # parity[schedule-event]: only these fields of the two time zones have been observed
        return cls(
            {
                **{name: schedule[name] for name in ("cron", "interval_seconds") if schedule.get(name) is not None},
                "timestamp": int(now.timestamp()),
                "timezone_configured": _iso8601(local),
                "timezone_utc": _iso8601(now.astimezone(UTC)),
            },
            is_http=False,
        )

    @property
    def headers(self) -> Mapping[str, Any]:
        """The header values by name, with names and values as in the event."""
        headers = self.data.get("headers")
        return headers if isinstance(headers, dict) else {}

    def header(self, name: str) -> str | None:
        """Return the value of header *name* (case-insensitive), or None."""
        for key, value in self.headers.items():
            if key.lower() == name.lower():
                return str(value)
        return None

    @property
    def external_user_id(self) -> str | None:
        """The external user that the `x-pd-external-user-id` header names; None if it is missing or blank."""
        value = (self.header(EXTERNAL_USER_HEADER) or "").strip()
        return value or None

    @property
    def environment(self) -> str | None:
        """The environment that the `x-pd-environment` header names; None if it is missing or blank."""
        value = (self.header(ENVIRONMENT_HEADER) or "").strip()
        return value or None

    def with_identity(self, external_user_id: str | None, environment: str | None) -> Self:
        """
        Return the event with both `x-pd-*` headers set to the arguments.

        None leaves a header unchanged. An event that is not an HTTP request is returned unchanged.
        """
        if not self.is_http:
            return self
        headers = dict(self.headers)
        for name, value in ((ENVIRONMENT_HEADER, environment), (EXTERNAL_USER_HEADER, external_user_id)):
            if value is None:
                continue
            for key in [key for key in headers if key.lower() == name]:
                del headers[key]
            headers[name] = value
        if headers == dict(self.headers):
            return self
        return replace(self, data={**self.data, "headers": headers})

    def with_inherited_identity(self, external_user_id: str | None, environment: str) -> Self:
        """
        Return the event of a run that has the external user and the environment of another run.

        Each `x-pd-*` header that the event has is rewritten to match; without an external user, that header is removed.
        """
        named = {ENVIRONMENT_HEADER: environment, EXTERNAL_USER_HEADER: external_user_id}
        given = {name.lower() for name in self.headers} & set(named)
        if not given:
            return self
        headers = {name: value for name, value in self.headers.items() if name.lower() not in named}
        headers |= {name: value for name, value in named.items() if name in given and value is not None}
        return replace(self, data={**self.data, "headers": headers})

    def without_external_user(self) -> Self:
        """Return the event without the header that names an external user."""
        headers = {name: value for name, value in self.headers.items() if name.lower() != EXTERNAL_USER_HEADER}
        return self if len(headers) == len(self.headers) else replace(self, data={**self.data, "headers": headers})

    def with_masked_headers(self) -> Self:
        """Return the event for display and storage: values of secret headers are `***`."""
        masked = self._masked_headers
        if not masked:
            return self
        headers = {name: MASK if name in masked else value for name, value in self.headers.items()}
        return replace(self, data={**self.data, "headers": headers})

    def header_secrets(self) -> dict[str, str]:
        """Return the values of secret headers by name, without the scheme (`Bearer`); values that are masked already are left out."""
        values = {name.lower(): str(self.headers[name]) for name in self._masked_headers}
        # a token is long, so it is not searched
        secrets = {name: _AUTH_SCHEME.sub("", value, count=1) for name, value in values.items()}
        return {name: value for name, value in secrets.items() if value.strip() not in ("", MASK)}

    @functools.cached_property
    def _masked_headers(self) -> list[str]:
        return [name for name in self.headers if is_masked_header(name)]

    def summary(self) -> str:
        """Describe the event in one line, without header values."""
        method, path = self.data.get("method"), self.data.get("path")
        request = " ".join(str(part) for part in (method, path) if part) or "no request line"
        body = self.data.get("body")
        return f"{request}, {format_count(len(self.headers), 'header')}, {'no body' if body is None else f'body is {_describe_json_type(body)}'}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.summary()})"

    def digest(self) -> str:
        """Return 16 hex digits of a hash of the event's data."""
        return hashlib.sha256(json.dumps(self.data, sort_keys=True).encode()).hexdigest()[:16]


def parse_json(text: str | bytes, *, label: str = "the text") -> JSON:
    """
    Parse JSON that a person typed.

    Raises:
        EventError: The text is not JSON; the error carries line and column.
    """
    try:
        read = text.decode("utf-8-sig") if isinstance(text, bytes) else text.removeprefix(BYTE_ORDER_MARK)
        return decode_strict_json(read)
    except _NotJSONError as fault:
        word, why = fault.args
        where = next(token.start() for token in _TOKEN.finditer(read) if token[0] == word)
        line, column = read.count("\n", 0, where) + 1, where - read.rfind("\n", 0, where)
        shown = word if len(word) <= _SHOWN else f"{word[:_SHOWN]}..."
        raise EventError(
            f"{label} is not JSON: {shown} {why} at line {line}, column {column}.",
            fix="Write null, or a number of at most "
            f"{sys.get_int_max_str_digits():,} digits. Put a longer number in quotes.",
            line=line,
            column=column,
        ) from None
    except UnicodeDecodeError as fault:
        raise EventError(f"{label} is not JSON: it is not UTF-8 text (byte {fault.start + 1}).") from None
    except json.JSONDecodeError as fault:
        raise EventError(
            f"{label} is not JSON: {fault.msg} at line {fault.lineno}, column {fault.colno}.",
            line=fault.lineno,
            column=fault.colno,
        ) from None
    except RecursionError:
        raise EventError(f"{label} is nested too deeply.") from None


def decode_strict_json(text: str) -> JSON:
    """
    Decode JSON without the values that only Python accepts: NaN, Infinity, and a number that becomes Infinity.

    Raises:
        ValueError: *text* is not JSON, or holds an integer of more digits than Python converts.
        RecursionError: *text* is nested too deeply.
    """
    try:
        return cast("JSON", decode_large(msgspec.json.decode, text))
    except (msgspec.DecodeError, UnicodeError):  # a lone surrogate, which is valid, or an error without line and column
        return cast("JSON", decode_large(_DECODER.decode, text))


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|-?[A-Za-z]+')
"""A text, a number or a word of JSON: a refused word may also be in a text."""
_SHOWN = 40
"""Maximum number of characters of a refused number in an error message."""


class _NotJSONError(ValueError):
    """A token that is not a JSON value, and the reason as the end of a sentence."""


def _refuse_constant(word: str) -> JSON:
    raise _NotJSONError(word, "is not a JSON value")


def _float(word: str) -> float:
    number = float(word)
    if math.isinf(number):  # valid JSON, but every language reads it as Infinity
        raise _NotJSONError(word, "is not a JSON value")
    return number


def _int(word: str) -> int:
    try:
        return int(word)
    except ValueError:  # more digits than Python converts (sys.get_int_max_str_digits)
        raise _NotJSONError(word, "is too long") from None


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_float, parse_int=_int)


def _describe_json_type(value: JSON) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case _:
            return "an object"


def _iso8601(moment: datetime) -> dict[str, JSON]:
    return {"iso8601": {"timestamp": moment.isoformat(timespec="milliseconds"), "date": moment.date().isoformat()}}
