"""
The data that starts a workflow: exactly what `steps.trigger.event` holds.

Knows the platform's header names and what is masked when an event is shown or saved.
Knows nothing of shapes, files' places or HTTP servers.
"""

from __future__ import annotations

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

from pdkernel.errors import EventError
from pdkernel.model import JSON

ENVIRONMENT_HEADER = "x-pd-environment"
EXTERNAL_USER_HEADER = "x-pd-external-user-id"
EVENT_KEYS = ("method", "path", "query", "headers", "body", "client_ip", "url")
MASK = "***"
_MASKED_HEADER = re.compile(
    r"(authorization|proxy-authorization|cookie|set-cookie|x-api-key|api-key|x-auth-token|.*-signature(-\d+)?|.*signature.*|.*-token|x-.*-secret)\Z"
)

_AUTH_SCHEME = re.compile(r"(basic|bearer|digest|token) +", re.IGNORECASE)


@functools.lru_cache(maxsize=1000)
def is_masked_header(name: str) -> bool:
    """Whether the value of header *name* is hidden in what is shown and saved."""
    return _MASKED_HEADER.match(name.lower()) is not None


@dataclass(frozen=True, repr=False)
class Event:
    """
    An event.

    Attributes:
        data: An object with any of `method, path, query, headers, body, client_ip, url`; `{}` is an event.
        is_http: Whether it is a request. What a source or a schedule gives a workflow has keys of its own, and no headers
            that could name an external user.
    """

    data: Mapping[str, JSON] = field(default_factory=dict)
    is_http: bool = True

    @classmethod
    def parse(cls, text: str | bytes, *, label: str = "the event", is_http: bool = True) -> Self:
        """
        Read an event from JSON text.

        Raises:
            EventError: Not JSON (with line and column), or not an object of that kind.
        """
        return cls.from_json(parse_json(text, label=label), label=label, is_http=is_http)

    @classmethod
    def from_json(cls, value: JSON, *, label: str = "the event", is_http: bool = True) -> Self:
        """
        Take *value* as an event.

        Args:
            value: An object.
            label: What it is called in messages.
            is_http: Whether it is a request; what a source or a schedule emits has keys of its own.

        Raises:
            EventError: It is not an object, or has keys that no event has.
        """
        if not isinstance(value, dict):
            raise EventError(
                f"{label} is not an event: it is {_describe_json_type(value)}, and an event is an object with any of "
                f"{', '.join(EVENT_KEYS)}.",
                fix="For a bare payload use --body, which wraps it as a POST.",
            )
        unknown = [key for key in value if key not in EVENT_KEYS]
        if is_http and unknown and not any(key in value for key in EVENT_KEYS):
            raise EventError(
                f"{label} is not an event: it has {', '.join(map(repr, unknown[:5]))}, and an event is an object "
                f"with any of {', '.join(EVENT_KEYS)}.",
                fix="For a bare payload use --body, which wraps it as a POST.",
            )
        headers = value.get("headers")
        if is_http and headers is not None and not isinstance(headers, dict):
            raise EventError(
                f"{label}: headers is {_describe_json_type(headers)}, and must be an object of name and value."
            )
        return cls(value, is_http=is_http)

    @classmethod
    def from_body(cls, body: JSON) -> Self:
        """Wrap a bare payload as a JSON POST."""
        return cls(
            {
                "method": "POST",
                "path": "/",
                "query": {},
                "headers": {"content-type": "application/json"},
                "body": body,
            }
        )

    @classmethod
    def from_schedule(cls, schedule: Mapping[str, JSON], now: datetime) -> Self:
        """
        What a schedule hands over at the moment *now*.

        Args:
            schedule: Its settings: `cron` or `interval_seconds`, and `timezone`, an IANA name; each may be missing.
            now: With its time zone.

        Raises:
            EventError: There is no such time zone.
        """
        zone = str(schedule.get("timezone") or "UTC")
        try:
            there = now.astimezone(ZoneInfo(zone))
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise EventError(f"The schedule's time zone is {zone!r}, which does not exist.") from None
        # parity[schedule-event]: of the two time zones only these fields have been seen
        return cls(
            {
                **{name: schedule[name] for name in ("cron", "interval_seconds") if schedule.get(name) is not None},
                "timestamp": int(now.timestamp()),
                "timezone_configured": _iso8601(there),
                "timezone_utc": _iso8601(now.astimezone(UTC)),
            },
            is_http=False,
        )

    @property
    def headers(self) -> Mapping[str, Any]:
        """Header name to value, as written."""
        headers = self.data.get("headers")
        return headers if isinstance(headers, dict) else {}

    def header(self, name: str) -> str | None:
        """The value of header *name*, whatever its case, or None."""
        for key, value in self.headers.items():
            if key.lower() == name.lower():
                return str(value)
        return None

    @property
    def external_user_id(self) -> str | None:
        """The external user that the event names, or None. A blank header is none."""
        value = (self.header(EXTERNAL_USER_HEADER) or "").strip()
        return value or None

    @property
    def environment(self) -> str | None:
        """The environment that the event names, or None. A blank header is none."""
        value = (self.header(ENVIRONMENT_HEADER) or "").strip()
        return value or None

    def with_identity(self, external_user_id: str | None, environment: str | None) -> Self:
        """
        The event with both `x-pd-*` headers rewritten to match.

        None leaves that header as it is. An event that is no request stays as it is.
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

    def without_external_user(self) -> Self:
        """The event without a header that names an external user."""
        headers = {name: value for name, value in self.headers.items() if name.lower() != EXTERNAL_USER_HEADER}
        return self if len(headers) == len(self.headers) else replace(self, data={**self.data, "headers": headers})

    def with_masked_headers(self) -> Self:
        """The event as it may be shown and saved: values of secret-bearing headers are `***`."""
        masked = self._masked_headers
        if not masked:
            return self
        headers = {name: MASK if name in masked else value for name, value in self.headers.items()}
        return replace(self, data={**self.data, "headers": headers})

    def header_secrets(self) -> dict[str, str]:
        """Header name to the secret in its value: `Bearer` and its like are none, and neither is a mask."""
        held = {name.lower(): str(self.headers[name]) for name in self._masked_headers}
        secrets = {name: _AUTH_SCHEME.sub("", value) for name, value in held.items()}
        return {name: value for name, value in secrets.items() if value.strip() not in ("", MASK)}

    @functools.cached_property
    def _masked_headers(self) -> list[str]:
        return [name for name in self.headers if is_masked_header(name)]

    def summary(self) -> str:
        """The event in a line, with no value of a header."""
        method, path = self.data.get("method"), self.data.get("path")
        request = " ".join(str(part) for part in (method, path) if part) or "no request line"
        body = self.data.get("body")
        return f"{request}, {len(self.headers)} headers, {'no body' if body is None else f'body is {_describe_json_type(body)}'}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.summary()})"

    def digest(self) -> str:
        """A hash of the event's content, for telling events apart."""
        return hashlib.sha256(json.dumps(self.data, sort_keys=True).encode()).hexdigest()[:16]


def parse_json(text: str | bytes, *, label: str = "the text") -> JSON:
    """
    Read JSON as a person typed it.

    Raises:
        EventError: Not JSON; carries the line and column.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        text = text.removeprefix("\ufeff")
        # a hook costs time, and next to no text needs it
        return cast(
            "JSON", (_overflow_checking_decoder if _LARGE_NUMBER.search(text) else _strict_decoder).decode(text)
        )
    except _NotJSONError as fault:
        read = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        word, why = fault.args
        where = read.find(word)
        line, column = read.count("\n", 0, where) + 1, where - read.rfind("\n", 0, where)
        shown = word if len(word) <= _SHOWN else f"{word[:_SHOWN]}..."
        raise EventError(
            f"{label} is not JSON: {shown} {why} at line {line}, column {column}.",
            fix="Write null, or a number of at most "
            f"{sys.get_int_max_str_digits():,} digits: put a longer one between quotation marks.",
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


_LARGE_NUMBER = re.compile(r"[eE]\+?[0-9]{3}|[0-9]{309}")
_SHOWN = 40
"""Characters of a refused number that an error shows."""


class _NotJSONError(ValueError):
    """A word that is not a value here, and why as the end of a sentence."""


def _refuse_constant(word: str) -> JSON:
    raise _NotJSONError(word, "is no JSON value")


def _float(word: str) -> float:
    number = float(word)
    if math.isinf(number):  # a number in JSON, and Infinity in every language that reads it
        raise _NotJSONError(word, "is no JSON value")
    return number


def _int(word: str) -> int:
    try:
        return int(word)
    except ValueError:  # more digits than Python converts (sys.get_int_max_str_digits)
        raise _NotJSONError(word, "is too long") from None


_strict_decoder = json.JSONDecoder(parse_constant=_refuse_constant)
_overflow_checking_decoder = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_float, parse_int=_int)


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
