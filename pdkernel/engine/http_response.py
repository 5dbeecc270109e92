"""
The HTTP response to the caller of a run or an event source.

The endpoint sends an `HttpResponse`, and the record has its redacted form: both show the same response. The endpoint adds
only headers of the connection and for other origins.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pdkernel.common.redaction import Redactor
from pdkernel.egress.message import end_to_end_headers, strip_control_characters
from pdkernel.errors import EndUserError, PdkernelError
from pdkernel.execution import Response
from pdkernel.model import JSON

STATUSES_WITHOUT_BODY = frozenset({204, 205, 304})

HOST_WIDE_HEADERS = frozenset(
    {
        "activate-storage-access",
        "alt-svc",
        "clear-site-data",
        "expect-ct",
        "nel",
        "origin-agent-cluster",
        "public-key-pins",
        "public-key-pins-report-only",
        "report-to",
        "reporting-endpoints",
        "service-worker-allowed",
        "set-cookie",
        "set-login",
        "strict-transport-security",
        "use-as-dictionary",
    }
)
"""Headers of a response by which a browser changes what it does with other pages of the host, such as those of the server."""

_TEXT_TYPE = "text/plain; charset=utf-8"
_JSON_TYPE = "application/json; charset=utf-8"
_BYTES_TYPE = "application/octet-stream"
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_ENCODER = json.JSONEncoder(ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """
    A response as the caller receives it, without redaction.

    Attributes:
        status: The status, 200 or above.
        headers: Names and values in order. A name may occur several times. Names have the case that the step wrote.
        body: The body as JSON: bytes are `{"$base64": TEXT}`, and an empty body is None.
        content: The bytes of the body.
        media_type: The media type of the body if *headers* have no content type, or None.
    """

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: JSON
    content: bytes
    media_type: str | None

    def to_record(self, redactor: Redactor | None) -> Response:
        """
        Return the response, redacted unless *redactor* is None; the values of a repeated header are joined.

        The body implies *media_type*.
        """
        headers: dict[str, JSON] = {}
        for name, value in self.headers:
            key, text = name.decode(), value.decode("latin-1")
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
        redacted = redactor.redact_value(headers) if redactor else headers
        assert isinstance(redacted, dict)
        body = redactor.redact_value(self.body) if redactor else self.body
        return Response(self.status, {name: str(value) for name, value in redacted.items()}, body)


def build_text_response(status: int, text: str) -> HttpResponse:
    """Return a response with the plain text *text*."""
    return HttpResponse(status, (), text, text.encode("utf-8", "replace"), _TEXT_TYPE)


NO_RESPONSE = build_text_response(400, "No $.respond called in workflow")
"""The response of a workflow whose steps have not responded at its end (platform documentation)."""
NO_RESPONSE_BEFORE_PAUSE = build_text_response(400, "$.respond() not called for this invocation")
"""The response of a workflow that pauses before a step has responded (platform documentation of delays)."""


def build_response(raw: Mapping[str, Any]) -> HttpResponse:
    """
    Build the response that a step made.

    Args:
        raw: `{"status", "headers", "body"}`; the value of a header is a text, or a list for a repeated header.

    Returns:
        The response, or `NO_RESPONSE` if *raw* has an informational status or invalid base64.
    """
    status: int = raw["status"]
    try:
        body, content, media_type = _encode_body(raw["body"])
    except ValueError:
        return NO_RESPONSE
    if status < 200:
        return NO_RESPONSE
    if status in STATUSES_WITHOUT_BODY:
        body, content, media_type = None, b"", None
    headers = _encode_headers(raw["headers"])
    if any(name.lower() == b"content-type" for name, _ in headers):
        media_type = None
    return HttpResponse(status, headers, body, content, media_type)


def find_host_wide_headers(raw: Mapping[str, Any]) -> Sequence[str]:
    """Return the names of the headers of *raw*, as for `build_response`, that an endpoint sends at a host of its own only."""
    return [name for name in raw["headers"] if name.lower() in HOST_WIDE_HEADERS]


class CallerResponse:
    """
    The response of a run to its caller: the first one counts, and it is sent once.

    Args:
        given: The response of a continued run, or None.
        is_expected: Whether the caller gets the run's own response.
        is_sent: Whether no caller waits for the response.
        on_respond: Receives the response, or None.
    """

    def __init__(
        self,
        given: HttpResponse | None,
        *,
        is_expected: bool,
        is_sent: bool,
        on_respond: Callable[[HttpResponse], None] | None,
    ) -> None:
        self._response = given
        self._new: HttpResponse | None = None
        self._is_expected = is_expected
        self._is_sent = is_sent
        self._on_respond = on_respond

    def set(self, raw: Mapping[str, Any]) -> None:
        """Store the response of a step, unless there is one. The platform ignores later responses."""
        if self._response is None:
            self._response = self._new = build_response(raw)
            if raw.get("immediate"):
                self.send(self._response)

    def take_new(self) -> HttpResponse | None:
        """Return the response that a step made since the last call, or None."""
        new, self._new = self._new, None
        return new

    def send(self, default: HttpResponse) -> None:
        """Pass the response to the caller, once: the response of a step, or *default*."""
        if self._is_sent or not self._is_expected:
            return
        self._is_sent = True
        self._response = self._response or default
        if self._on_respond:
            self._on_respond(self._response)

    def settle(self, default: HttpResponse, redactor: Redactor) -> Response | None:
        """Return the redacted response of the run, which is *default* if no step has responded; None if the caller gets none."""
        if not self._is_expected:
            return None
        if self._response is None:
            self._response = default
            return default.to_record(None)  # has no value of a step; its text is already redacted
        # parity[redacted-response]: the caller of an endpoint gets the response as the step sent it; the record is redacted
        return self._response.to_record(redactor)


def build_refusal_response(refusal: PdkernelError, message: str) -> HttpResponse:
    """Return the response of a run that *refusal* refused before its first step; *message* is the redacted text of the error."""
    if not isinstance(refusal, EndUserError):
        return NO_RESPONSE
    # parity[error-status]: the platform does not document the status; 400 is not retried by its SDKs
    # only the first line: the other lines may name other users, and belong to the record's error
    return build_text_response(400, message.partition("\n")[0])


def _encode_headers(given: Mapping[str, str | list[str]]) -> tuple[tuple[bytes, bytes], ...]:
    """Encode headers without those of the connection and without invalid names; the last of equal names wins."""
    values = {name.lower(): (name, value if isinstance(value, list) else [value]) for name, value in given.items()}
    encoded = [
        (name.encode(), strip_control_characters(each.encode("latin-1", "replace")))
        for lower_name, (name, several) in values.items()
        if _HEADER_NAME.match(name) and lower_name != "content-length"
        for each in several
    ]
    return tuple(end_to_end_headers(encoded))


def _encode_body(body: JSON) -> tuple[JSON, bytes, str | None]:
    """
    Return *body* as its receiver decodes it, its bytes and its media type.

    Raises:
        ValueError: The base64 is invalid.
    """
    # parity[response-type]: the media type of a text is not documented; text/plain cannot be rendered as a page
    if body is None:
        return None, b"", None
    if isinstance(body, dict) and body.keys() == {"$base64"}:
        return body, base64.b64decode(str(body["$base64"]), validate=True), _BYTES_TYPE
    text = body if isinstance(body, str) else _ENCODER.encode(body)
    media_type = _TEXT_TYPE if isinstance(body, str) else _JSON_TYPE
    try:
        return body, text.encode(), media_type
    except UnicodeEncodeError:  # a lone surrogate is sent as a question mark
        content = text.encode("utf-8", "replace")
        return content.decode() if isinstance(body, str) else json.loads(content), content, media_type
