"""
Builds requests to Connect's proxy for accounts whose credentials Connect does not give out.

The request format is in the Connect documentation, "API proxy". The proxy's response is the host's own response. Sending is
in `call_sender`.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from pdkernel.common.identity import ProxyAccess
from pdkernel.egress.caller_tokens import CallContext
from pdkernel.egress.message import DEFAULT_PORTS, Headers, Request, end_to_end_headers, format_origin, get_header
from pdkernel.egress.upstream import Destination

PROXY_TIMEOUT_S = 30
"""Seconds that the proxy waits for the host (Connect documentation) before it responds with 504."""
CLIENT_TIMEOUT_S = PROXY_TIMEOUT_S + 10.0
"""Seconds to wait for the proxy."""
HEADER_PREFIX = b"x-pd-proxy-"
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
# the proxy refuses these headers and sets its own
_DROPPED_HEADERS = frozenset(
    {b"accept-encoding", b"content-length", b"cookie", b"date", b"expect", b"host", b"origin", b"referer", b"user-agent",
     b"via"}
)  # fmt: skip
_DROPPED_HEADER_PREFIXES = (b"proxy-", b"sec-", HEADER_PREFIX)


@dataclass(frozen=True)
class ProxyRequest:
    """A request to the proxy, without its body."""

    destination: Destination
    target: bytes
    headers: Headers


def find_proxy_access(context: CallContext, request: Request) -> ProxyAccess | None:
    """The proxy for the account whose credential *request* carries, or None; only the first 64 KB of a body are searched."""
    if not context.proxy_by_secret_ref:
        return None
    return next((context.proxy_by_secret_ref[ref] for ref in _find_secret_refs(context, _text_of(request))), None)


def unsupported_reason(context: CallContext, request: Request) -> str | None:
    """Why the proxy does not support *request*, as the end of a sentence; None if it supports the request."""
    if request.wants_websocket:
        return "the proxy does not support WebSockets."
    if b"text/event-stream" in (get_header(request.headers, b"accept") or b"").lower():
        return "the proxy does not support event streams."
    if request.method not in _METHODS:
        return f"the proxy does not support {request.method}."
    if len({context.proxy_by_secret_ref[ref].account_id for ref in _find_secret_refs(context, _text_of(request))}) > 1:
        return "the proxy sends a request with one account: this request carries the credentials of several."
    if _find_secret_refs(context, f"{request.host}{request.path}"):
        return "the proxy adds the credential itself: the credential must not be in the host's name or in the path."
    if _find_secret_refs(context, request.body.prefix.decode("utf-8", "replace")):
        return "the proxy adds the credential itself: the credential must not be in the request's body."
    return None


def _text_of(request: Request) -> str:
    values = (value.decode("latin-1") for _, value in request.headers)
    return "\n".join((request.url, *values, request.body.prefix.decode("utf-8", "replace")))


def build_proxy_request(context: CallContext, access: ProxyAccess, token: str, request: Request) -> ProxyRequest:
    """The proxy's request for *request*, without the header or parameter of the credential: the proxy adds the credential."""
    parts = urlsplit(access.url)
    url = format_origin(request.scheme, request.host, request.port) + _target(context, request)
    coded = base64.urlsafe_b64encode(url.encode("latin-1")).decode().rstrip("=")
    whose = f"external_user_id={quote(access.external_user_id, safe='')}&account_id={quote(access.account_id, safe='')}"
    headers: Headers = [
        (b"host", parts.netloc.encode("ascii")),
        (b"authorization", b"Bearer " + token.encode("ascii")),
        (b"x-pd-environment", access.environment.encode()),
    ]
    for name, value in end_to_end_headers(request.headers):
        lower = name.lower()
        if (
            lower in _DROPPED_HEADERS
            or lower.startswith(_DROPPED_HEADER_PREFIXES)
            or _find_secret_refs(context, value.decode("latin-1"))
        ):
            continue
        if lower == b"content-type":
            headers.append((name, value))
        headers.append((HEADER_PREFIX + name, value))
    if _has_body(request):
        headers.append((b"content-length", str(request.body.byte_count).encode()))
    to = Destination(parts.scheme, parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme])
    return ProxyRequest(to, f"{parts.path}/{coded}?{whose}".encode("ascii"), headers)


def format_call_note(access: ProxyAccess, status: int) -> str:
    """The note in the record of a call through the proxy."""
    text = f"sent through Connect's proxy, with the account {access.account_id}"
    if status == 504:
        return f"{text}, which waits at most {PROXY_TIMEOUT_S} s for the host"
    if status in (400, 403):
        return f"{text}, which allows only hosts of the account's app"
    return text


def _target(context: CallContext, request: Request) -> str:
    path, mark, query = request.target.decode("latin-1").partition("?")
    return path + mark + "&".join(part for part in query.split("&") if not _find_secret_refs(context, part))


def _has_body(request: Request) -> bool:
    return request.body.byte_count > 0 or request.method in ("POST", "PUT", "PATCH")


def _find_secret_refs(context: CallContext, text: str) -> list[str]:
    return [ref for ref in context.redactor.find_secrets(text) if ref in context.proxy_by_secret_ref]
