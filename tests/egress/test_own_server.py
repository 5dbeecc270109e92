"""The mark of calls of steps to their own server."""

from __future__ import annotations

from typing import Any

import pytest

from pdkernel.egress.message import Request
from pdkernel.egress.own_server import CALLER_HEADER, OwnServer

HEADERS = [(b"host", b"hooks.example"), (b"X-PDKernel-Caller", b"made up")]


def request_to(scheme: str, host: str, port: int) -> Request:
    """A request of a step."""
    body: Any = b""
    return Request("GET", scheme, host, port, b"/", HEADERS, body)


@pytest.mark.parametrize(
    ("base_url", "request_", "is_marked"),
    [
        ("https://hooks.example", request_to("https", "hooks.example", 443), True),
        ("http://127.0.0.1:8765", request_to("http", "localhost", 8765), True),
        ("https://hooks.example", request_to("https", "other.example", 443), False),
        ("https://hooks.example", request_to("https", "hooks.example", 8443), False),
        ("http://hooks.example", request_to("http", "hooks.example", 80), False),
    ],
)
def test_processes_of_a_project_accept_each_others_mark(base_url: str, request_: Request, is_marked: bool) -> None:
    """The mark of one process is accepted by another one with the project's secret, and by no other server."""
    one, same, other = OwnServer(), OwnServer(), OwnServer()
    one.announce(base_url, b"a secret")
    same.announce(base_url, b"a secret")
    other.announce(base_url, b"another secret")

    sent = [(name.lower(), value) for name, value in one.mark(request_, HEADERS)]

    assert same.take_mark(sent) == ([HEADERS[0]], is_marked)
    assert other.take_mark(sent) == ([HEADERS[0]], False)


def test_without_a_server_nothing_is_marked() -> None:
    """A gateway without a server marks no call, and believes no mark."""
    gateway = OwnServer()

    assert gateway.mark(request_to("https", "hooks.example", 443), HEADERS) == [HEADERS[0]]
    assert gateway.take_mark([(CALLER_HEADER, b"")]) == ([], False)
