"""The target of a client's connection, in each form in which a client names it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Mapping

import h11
import pytest

from pdkernel.egress.message import Body
from pdkernel.egress.proxy_target import (
    PER_REQUEST_TARGET,
    ProxyTarget,
    parse_proxy_token,
    read_proxy_target,
)
from pdkernel.model import JSON


def basic(text: str) -> bytes:
    """A Basic header with *text*."""
    return b"Basic " + base64.b64encode(text.encode())


@pytest.mark.parametrize(
    ("header", "token"),
    [
        (basic("token:x"), "token"),
        (basic("token"), "token"),
        (b"BASIC " + basic("token:a:b").partition(b" ")[2], "token"),
        (b"  " + basic("token:x") + b" ", "token"),
        (basic(":x"), ""),
        (b"Bearer token", None),
        (b"Basic ***", None),
        (b"Basic dG9r*ZW4=", None),
        (b"", None),
        (None, None),
    ],
)
def test_the_token_is_the_user_name(header: bytes | None, token: str | None) -> None:
    """A malformed header has no token."""
    assert parse_proxy_token(header) == token


def failure(token: str, port: int) -> Mapping[str, JSON]:
    """The cause of a dropped connection."""
    return {"token": token, "port": port}


async def read(*sent: bytes, end: bool = False) -> tuple[ProxyTarget | None, bytes, bytes]:
    """The target of a connection on which a client sends *sent*, the gateway's answer, and the bytes that are left."""
    client, server = socket.socketpair()
    with client, server:
        server.setblocking(False)
        for part in sent:
            client.sendall(part)
        if end:
            client.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(60):
            target = await read_proxy_target(server, lambda token: token == "known", failure)
        left = b""
        with contextlib.suppress(BlockingIOError):
            left = server.recv(1 << 16)
        server.shutdown(socket.SHUT_WR)
        client.settimeout(60)
        answer = b""
        while chunk := client.recv(1 << 16):
            answer += chunk
        return target, answer, left


def preamble(**changes: object) -> bytes:
    """The line of a hook."""
    return b"PDK1 " + json.dumps({"host": "a.test", "port": 443, "token": "known", **changes}).encode() + b"\n"


@pytest.mark.parametrize(
    ("changes", "target"),
    [
        ({}, ProxyTarget("a.test", 443, "known")),
        ({"tls": True}, ProxyTarget("a.test", 443, "known", client_expects_tls=True)),
        ({"port": "8443"}, ProxyTarget("a.test", 8443, "known")),
        ({"port": 1}, ProxyTarget("a.test", 1, "known")),
        ({"port": 65535}, ProxyTarget("a.test", 65535, "known")),
        ({"host": "[::1]"}, ProxyTarget("::1", 443, "known")),
        ({"host": "bücher.test"}, ProxyTarget("xn--bcher-kva.test", 443, "known")),
        (
            {"servername": "b.test", "alpn": ["h2", "http/1.1"]},
            ProxyTarget("a.test", 443, "known", server_name="b.test", protocols=("h2", "http/1.1")),
        ),
        ({"servername": "", "alpn": None}, ProxyTarget("a.test", 443, "known")),
    ],
)
async def test_the_line_of_a_hook(changes: dict[str, object], target: ProxyTarget) -> None:
    """The line names host, port, token and TLS; bytes after the line are left for the host."""
    assert await read(preamble(**changes) + b"GET /") == (target, b"", b"GET /")


@pytest.mark.parametrize(
    "line",
    [
        preamble(port=0),
        preamble(port=65536),
        preamble(port="x"),
        preamble(host=""),
        preamble(host="a b"),
        preamble(host="a/b"),
        preamble(host="a@b"),
        preamble(host="a\x00b"),
        b'PDK1 {"host": "a.test", "port": 443}\n',
        b'PDK1 {"host": "a.test", "token": "t"}\n',
        b"PDK1 {\n",
        b"PDK1 5\n",
        b"PDK1 []\n",
        b"PDK1 \xff\n",
    ],
)
async def test_a_malformed_line_is_answered(line: bytes) -> None:
    """The client gets a 400 with a mark, and no target."""
    target, answer, _ = await read(line)

    assert target is None
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\nx-pdkernel-egress: bad-request\r\n")


async def test_a_hook_may_query_the_cause_of_a_drop() -> None:
    """The answer is the cause as JSON; such a connection has no target."""
    target, answer, _ = await read(preamble(dropped=5000, token="other"))

    assert (target, json.loads(answer)) == (None, {"token": "other", "port": 5000})
    assert (await read(preamble(dropped=0)))[1].startswith(b"HTTP/1.1 400")


def connect(to: str, token: str | None = "known") -> bytes:
    """A CONNECT request."""
    header = b"" if token is None else b"Proxy-Authorization: " + basic(f"{token}:x") + b"\r\n"
    return f"CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n".encode() + header + b"\r\n"


@pytest.mark.parametrize(
    ("to", "target"),
    [
        ("a.test:443", ProxyTarget("a.test", 443, "known")),
        ("[::1]:8080", ProxyTarget("::1", 8080, "known")),
        ("1.2.3.4:22", ProxyTarget("1.2.3.4", 22, "known")),
    ],
)
async def test_a_connect_request(to: str, target: ProxyTarget) -> None:
    """A CONNECT with a known token is accepted; bytes after its head are left for the host."""
    assert await read(connect(to) + b"\x16\x03") == (
        target,
        b"HTTP/1.1 200 Connection established\r\n\r\n",
        b"\x16\x03",
    )


async def test_a_client_may_authenticate_after_a_challenge() -> None:
    """A client gets three challenges on one connection; the third answer may still be right."""
    wrong = connect("a.test:443", None)

    target, answer, _ = await read(wrong, wrong, connect("a.test:443"))
    refused, challenges, _ = await read(wrong, connect("a.test:443", "unknown"), wrong, connect("a.test:443"))

    assert target == ProxyTarget("a.test", 443, "known")
    assert answer.count(b"HTTP/1.1 407 Proxy Authentication Required\r\n") == 2
    assert answer.endswith(b"200 Connection established\r\n\r\n")
    assert refused is None
    assert challenges.count(b"HTTP/1.1 407 ") == 3
    assert b"200" not in challenges


@pytest.mark.parametrize("to", ["a.test", "a.test:0", "a.test:65536", "a.test:x", ":443"])
async def test_a_malformed_connect_is_answered(to: str) -> None:
    """A target without a host or a valid port gets a 400."""
    target, answer, _ = await read(connect(to))

    assert target is None
    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_other_connections() -> None:
    """A request in absolute form has its target in each request; other bytes have none."""
    assert (await read(b"GET http://a.test/ HTTP/1.1\r\n"))[0] is PER_REQUEST_TARGET
    assert (await read(b"\x16\x03\x01\x00\x05hello"))[0] is None


async def _no_body() -> AsyncIterator[bytes]:
    empty: tuple[bytes, ...] = ()
    for chunk in empty:
        yield chunk


def request_to(target: ProxyTarget, url: str) -> tuple[str, str, int, bytes, str]:
    """Scheme, host, port, target and URL of a request to *url*."""
    head = h11.Request(method="GET", target=url, headers=[("host", "x")])
    built = target.build_request(head, Body(_no_body()))
    return built.scheme, built.host, built.port, built.target, built.url


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://a.test/x?y=1", ("http", "a.test", 80, b"/x?y=1", "http://a.test/x?y=1")),
        ("HTTPS://a.test", ("https", "a.test", 443, b"/", "https://a.test/")),
        ("https://a.test:8443?q=/", ("https", "a.test", 8443, b"/?q=/", "https://a.test:8443/?q=/")),
        ("http://[::1]:81/", ("http", "::1", 81, b"/", "http://[::1]:81/")),
        ("http://me:pw@a.test/", ("http", "a.test", 80, b"/", "http://a.test/")),
        ("http://a.test/%2F/../b", ("http", "a.test", 80, b"/%2F/../b", "http://a.test/%2F/../b")),
        ("/x", ("http", "", 80, b"/x", "http:///x")),
        ("ftp://a.test/", ("http", "", 80, b"ftp://a.test/", "http://ftp://a.test/")),
        ("http://a.test:x/", ("http", "", 80, b"http://a.test:x/", "http://http://a.test:x/")),
    ],
)
def test_a_request_in_absolute_form(url: str, parts: tuple[str, str, int, bytes, str]) -> None:
    """The URL names scheme, host and port; path and query are unchanged."""
    assert request_to(PER_REQUEST_TARGET, url) == parts


def test_a_request_to_the_target_of_its_connection() -> None:
    """A request in origin form goes to the connection's target; the default port is not in the URL."""
    secure = ProxyTarget("a.test", 443, "known", client_expects_tls=True, server_name="b.test")

    assert request_to(secure, "/x") == ("https", "a.test", 443, b"/x", "https://a.test/x")
    assert request_to(ProxyTarget("a.test", 443, None), "/") == ("http", "a.test", 443, b"/", "http://a.test:443/")
    assert (secure.origin, ProxyTarget("::1", 80, None).origin) == ("https://a.test", "http://[::1]")
