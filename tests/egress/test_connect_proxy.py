"""Requests to Connect's proxy for accounts whose credentials Connect does not give out."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from pdkernel.common.identity import ProxyAccess
from pdkernel.egress.connect_proxy import (
    build_proxy_request,
    find_proxy_access,
    format_call_note,
    unsupported_reason,
)
from pdkernel.egress.message import Body, Request
from pdkernel.egress.upstream import Destination
from tests.egress.kit import REF, TOKEN, Ledger, redactor

OTHER_REF, OTHER = "github/apn_2/token", "ghp-planted-secret-token-0123456789"
ACCESS = ProxyAccess("https://api.example/v1/connect/proj_1/proxy", "apn_1", "ada & co", "production", lambda: "t")
CONTEXT = Ledger().binding(
    "live",
    redactor=redactor({REF: TOKEN, OTHER_REF: OTHER, "env/KEY": "an-environment-variable"}),
    proxy_by_secret_ref={REF: ACCESS, OTHER_REF: replace(ACCESS, account_id="apn_2")},
)


def request(
    target: bytes = b"/x", headers: dict[str, str] | None = None, *, method: str = "GET", body: bytes = b"", **more: Any
) -> Request:
    """A request whose body was read already."""

    async def chunks() -> AsyncIterator[bytes]:
        yield body

    read = Body(chunks())
    read.prefix, read.byte_count = body, len(body)
    named = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    return Request(method, "https", more.pop("host", "slack.com"), 443, target, named, read)


BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.mark.parametrize(
    ("sent", "account"),
    [
        (request(headers=BEARER), "apn_1"),
        (request(f"/x?token={TOKEN}".encode()), "apn_1"),
        (request(body=f'{{"token": "{OTHER}"}}'.encode()), "apn_2"),
        (request(headers={"x-key": "an-environment-variable"}), None),
        (request(), None),
    ],
)
def test_the_account_of_a_request(sent: Request, account: str | None) -> None:
    """The credential in URL, headers or body selects the account; a credential that is not withheld does not."""
    found = find_proxy_access(CONTEXT, sent)

    assert (found and found.account_id) == account


def test_without_withheld_credentials_nothing_is_searched() -> None:
    """A run without withheld credentials does not use the proxy."""
    assert find_proxy_access(Ledger().binding("live"), request(headers=BEARER)) is None


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (request(headers=BEARER), None),
        (request(f"/x?token={TOKEN}".encode()), None),
        *((request(headers=BEARER, method=method), None) for method in ("POST", "PUT", "PATCH", "DELETE")),
        (request(headers=BEARER, method="HEAD"), "does not support HEAD"),
        (request(headers=BEARER, method="OPTIONS"), "does not support OPTIONS"),
        (request(headers={**BEARER, "upgrade": "WebSocket"}), "WebSockets"),
        (request(headers={**BEARER, "accept": "text/html, TEXT/Event-Stream"}), "event streams"),
        (request(headers={**BEARER, "x-other": OTHER}), "the credentials of several"),
        (request(f"/bot{TOKEN}/send".encode()), "in the path"),
        (request(host=f"{TOKEN}.example"), "in the path"),
        (request(headers=BEARER, method="POST", body=TOKEN.encode()), "in the request's body"),
    ],
)
def test_what_the_proxy_does_not_support(sent: Request, reason: str | None) -> None:
    """The reason is the end of a sentence."""
    found = unsupported_reason(CONTEXT, sent)

    assert found is None if reason is None else reason in (found or "")


def test_the_request_to_the_proxy() -> None:
    """The URL is encoded in the path; the headers of the host get a prefix, and headers that the proxy sets are left out."""
    sent = request(
        f"/x?a=1&token={TOKEN}&b=%26".encode(),
        {
            "host": "slack.com",
            "cookie": "no",
            "user-agent": "no",
            "sec-fetch-mode": "no",
            "x-pd-proxy-mine": "no",
            "connection": "x-hop",
            "x-hop": "no",
            "content-type": "application/json",
            "X-Extra": "kept",
            **BEARER,
        },
        method="POST",
        body=b"{}",
    )

    made = build_proxy_request(CONTEXT, ACCESS, "access", sent)

    path, _, query = made.target.partition(b"?")
    coded = path.removeprefix(b"/v1/connect/proj_1/proxy/")
    assert base64.urlsafe_b64decode(coded + b"==") == b"https://slack.com/x?a=1&b=%26"
    assert not coded.endswith(b"=")
    assert query == b"external_user_id=ada%20%26%20co&account_id=apn_1"
    assert made.destination == Destination("https", "api.example", 443)
    assert made.headers == [
        (b"host", b"api.example"),
        (b"authorization", b"Bearer access"),
        (b"x-pd-environment", b"production"),
        (b"content-type", b"application/json"),
        (b"x-pd-proxy-content-type", b"application/json"),
        (b"x-pd-proxy-X-Extra", b"kept"),
        (b"content-length", b"2"),
    ]


@pytest.mark.parametrize(
    ("method", "body", "length"),
    [("POST", b"", b"0"), ("PUT", b"", b"0"), ("PATCH", b"", b"0"), ("DELETE", b"", None), ("DELETE", b"x", b"1"), ("GET", b"", None)],
)  # fmt: skip
def test_a_body_has_a_length(method: str, body: bytes, length: bytes | None) -> None:
    """A method with a body has a length, also of an empty body; another method only with a body."""
    made = build_proxy_request(CONTEXT, ACCESS, "access", request(headers=BEARER, method=method, body=body))

    assert dict(made.headers).get(b"content-length") == length


@pytest.mark.parametrize(
    ("status", "ending"),
    [
        (200, "the account apn_1"),
        (400, "allows only hosts of the account's app"),
        (401, "the account apn_1"),
        (403, "allows only hosts of the account's app"),
        (404, "the account apn_1"),
        (504, "waits at most 30 s for the host"),
    ],
)
def test_a_call_through_the_proxy_is_noted(status: int, ending: str) -> None:
    """The note names the account, and what a status of the proxy means."""
    note = format_call_note(ACCESS, status)

    assert note.startswith("sent through Connect's proxy, with the account apn_1")
    assert note.endswith(ending)
