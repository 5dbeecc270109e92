"""The client's address and scheme behind proxies."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.datastructures import Headers

from pdkernel.errors import RequestError
from pdkernel.server.client_address import parse_networks, resolve_client_ip, resolve_scheme
from tests.builders import a_workflow, python_step
from tests.server.endpoint.conftest import ECHO
from tests.server.site import site_of


@pytest.mark.parametrize(
    ("peer", "forwarded", "trusted", "expected"),
    [
        ("203.0.113.5", "1.1.1.1", (), "203.0.113.5"),
        ("203.0.113.5", "1.1.1.1", ("10.0.0.0/8",), "203.0.113.5"),
        ("10.0.0.1", "1.1.1.1", ("10.0.0.0/8",), "1.1.1.1"),
        ("10.0.0.1", "6.6.6.6, 1.1.1.1", ("10.0.0.0/8",), "1.1.1.1"),
        ("10.0.0.1", "1.1.1.1, 10.9.9.9", ("10.0.0.0/8",), "1.1.1.1"),
        ("10.0.0.1", "nonsense", ("10.0.0.0/8",), "10.0.0.1"),
        ("10.0.0.1", "", ("10.0.0.0/8",), "10.0.0.1"),
        ("::1", "2001:db8::1", ("::1/128",), "2001:db8::1"),
        ("::ffff:10.0.0.1", "1.1.1.1", ("10.0.0.0/8",), "1.1.1.1"),
        ("::ffff:10.0.0.1", "", (), "10.0.0.1"),
        ("10.0.0.1", "1.1.1.1:5678", ("10.0.0.0/8",), "1.1.1.1"),
        ("10.0.0.1", "[2001:db8::1]:443", ("10.0.0.0/8",), "2001:db8::1"),
        ("10.0.0.1", "6.6.6.6, 1.1.1.1, ::ffff:10.0.0.2", ("10.0.0.0/8",), "1.1.1.1"),
        ("10.0.0.1", "[", ("10.0.0.0/8",), "10.0.0.1"),
        ("a-name", "1.1.1.1", ("0.0.0.0/0",), "a-name"),
    ],
)
def test_client_ip(peer: str, forwarded: str, trusted: tuple[str, ...], expected: str) -> None:
    """An address in X-Forwarded-For counts if every hop after that address is trusted."""
    headers = Headers({"x-forwarded-for": forwarded} if forwarded else {})

    assert resolve_client_ip({"type": "http", "client": (peer, 1)}, headers, trusted) == expected


def test_client_ip_in_repeated_headers() -> None:
    """Several X-Forwarded-For headers count as one list: a proxy may add a header of its own below that of the client."""
    lines = [(b"x-forwarded-for", b"127.0.0.1, 6.6.6.6"), (b"x-forwarded-for", b"198.51.100.7, 10.9.9.9")]

    found = resolve_client_ip({"type": "http", "client": ("10.0.0.1", 1)}, Headers(raw=lines), ("10.0.0.0/8",))

    assert found == "198.51.100.7"


@pytest.mark.parametrize(
    ("peer", "forwarded", "trusted", "expected"),
    [
        ("10.0.0.1", "https", ("10.0.0.0/8",), "https"),
        ("10.0.0.1", "HTTPS, http", ("10.0.0.0/8",), "https"),
        ("10.0.0.1", "ftp", ("10.0.0.0/8",), "http"),
        ("10.0.0.1", "", ("10.0.0.0/8",), "http"),
        ("203.0.113.5", "https", ("10.0.0.0/8",), "http"),
        ("203.0.113.5", "https", (), "http"),
    ],
)
def test_scheme(peer: str, forwarded: str, trusted: tuple[str, ...], expected: str) -> None:
    """X-Forwarded-Proto counts if the peer is trusted; its first value is that of the client."""
    scope = {"type": "http", "scheme": "http", "client": (peer, 1)}

    assert resolve_scheme(scope, Headers({"x-forwarded-proto": forwarded}), trusted) == expected


async def test_client_ip_and_scheme_of_the_event(tmp_path: Path) -> None:
    """The event has the address and the scheme that a trusted proxy reports."""
    workflow = a_workflow(python_step("echo", ECHO), response="custom")
    forwarded = {"x-forwarded-for": "198.51.100.7", "x-forwarded-proto": "https"}
    async with site_of(tmp_path, workflow, trusted_proxies=("127.0.0.0/8",)) as site:
        event = (await site.http.post(site.path(), headers=forwarded)).json()

    assert event["client_ip"] == "198.51.100.7"
    assert event["url"].startswith("https://")


def test_networks_are_checked() -> None:
    """A network that is not in CIDR notation is rejected."""
    with pytest.raises(RequestError, match="not a network"):
        parse_networks(["10.0.0.0/8", "proxy"])
