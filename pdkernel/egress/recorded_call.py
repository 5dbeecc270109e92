"""
Recorded calls without credentials: redaction before a call is stored, and the key that finds its answer again.

Files of recorded calls are in `recording`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from urllib.parse import parse_qsl, quote, urlsplit

from pdkernel.egress.body_search import NotSearchableError, boundary_of, check_archives, rewritten, without_coding
from pdkernel.egress.message import Headers
from pdkernel.egress.recording_placeholders import insert_placeholders, restore_placeholders
from pdkernel.redaction import Redactor
from pdkernel.redaction.secret_patterns import REDACTED, SecretPatternRedactor

LEFT_OUT_START = "{{left out: "
"""How the stored text begins in place of a body that cannot be searched for secrets."""
_KEPT_REQUEST_HEADERS = frozenset({"content-type", "accept"})
_DROPPED_RESPONSE_HEADERS = frozenset({"date", "server", "set-cookie", "content-length", "connection", "keep-alive"})


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A request without credentials; *key* finds its response in a recording."""

    key: str
    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class RecordedResponse:
    """A response without credentials and without headers of the connection."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


class CallRedactor:
    """Redacts calls: known secrets by the run's redactor, others by their names. Values that it redacted once are always redacted."""

    def __init__(self) -> None:
        self._pattern_redactor = SecretPatternRedactor()

    def redact_request(self, method: str, url: str, headers: Headers, body: bytes, redactor: Redactor) -> RecordedCall:
        """The redacted request. Its key does not depend on the account whose credentials the request carries."""
        sent = _decoded(headers)
        url = self._text(url, redactor)
        body = self._bytes(body, sent, redactor)
        kept = tuple((name, self._text(value, redactor)) for name, value in sent if name in _KEPT_REQUEST_HEADERS)
        return RecordedCall(
            key=_key(method, url, _value(kept, "content-type"), body), method=method, url=url, headers=kept, body=body
        )

    def redact_response(
        self,
        status: int,
        reason: bytes,
        headers: Headers,
        body: bytes,
        redactor: Redactor,
        *,
        length_only: bool = False,
    ) -> RecordedResponse:
        """The redacted response; *length_only* keeps `content-length` of a response without a body (to HEAD)."""
        received = _decoded(headers)
        dropped = _DROPPED_RESPONSE_HEADERS - ({"content-length"} if length_only else set())
        if body:
            dropped |= {"content-encoding"}
        return RecordedResponse(
            status=status,
            reason=self._text(reason.decode("latin-1"), redactor),
            headers=tuple((name, self._text(value, redactor)) for name, value in received if name not in dropped),
            body=self._bytes(body, received, redactor),
        )

    def _text(self, text: str, redactor: Redactor) -> str:
        return self._pattern_redactor.redact(insert_placeholders(text, redactor))

    def _bytes(self, body: bytes, headers: Sequence[tuple[str, str]], redactor: Redactor) -> bytes:
        if not body:
            return body
        content_type = _value(headers, "content-type")
        redact = partial(self._text, redactor=redactor)
        try:
            body = without_coding(body, _value(headers, "content-encoding"))
            check_archives(body, content_type, redact)
        except NotSearchableError as reason:
            return f"{LEFT_OUT_START}{reason}}}}}".encode()
        return rewritten(body, content_type, redact)


def restore_secrets(response: RecordedResponse, redactor: Redactor) -> RecordedResponse:
    """*response* with the secrets of the current run in place of the recording's placeholders."""
    body = rewritten(
        response.body, _value(response.headers, "content-type"), partial(restore_placeholders, redactor=redactor)
    )
    headers = tuple((name, restore_placeholders(value, redactor)) for name, value in response.headers)
    return replace(response, headers=headers, body=body)


def _key(method: str, url: str, content_type: str, body: bytes) -> str:
    """Hash of method, host and path, sorted query and normalised body; headers and credentials are not included."""
    parts = urlsplit(_normalize_placeholders(url))
    query = sorted(
        (name, value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
        if not name.lower().startswith("x-amz-")
    )
    digest = hashlib.sha256(_normalize_body(content_type, body)).hexdigest()
    text = json.dumps([method, parts.scheme, parts.netloc, parts.path, query, digest])
    return hashlib.sha256(text.encode()).hexdigest()


def _normalize_body(content_type: str, body: bytes) -> bytes:
    kind = content_type.partition(";")[0].strip().lower()
    try:
        text = _normalize_placeholders(body.decode())
    except UnicodeDecodeError:
        return _without_boundary(content_type, body)
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return json.dumps(json.loads(text), sort_keys=True).encode()
        except (ValueError, RecursionError):
            return text.encode()
    if kind == "application/x-www-form-urlencoded":
        return json.dumps(sorted(parse_qsl(text, keep_blank_values=True))).encode()
    return _without_boundary(content_type, text.encode())


def _without_boundary(content_type: str, body: bytes) -> bytes:
    boundary = boundary_of(content_type)
    return body if boundary is None else body.replace(boundary, b"boundary")


def _normalize_placeholders(text: str) -> str:
    """*text* with URL-encoded markers decoded: a step may send a replayed marker back inside a URL."""
    return text.replace(quote(REDACTED), REDACTED)


def _decoded(headers: Headers) -> Sequence[tuple[str, str]]:
    return [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers]


def _value(headers: Sequence[tuple[str, str]], wanted: str) -> str:
    """All values of the header *wanted*, joined with commas."""
    return ", ".join(value for name, value in headers if name == wanted)
