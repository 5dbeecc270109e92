"""Pass-through to a real project that refuses, is slow, breaks off or hangs, and large bodies."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from tests.accounts.upstream import PROJECT, TOKEN, Upstream, running_upstream
from tests.cli.fork_server import ForkServer
from tests.cli.real_server import STEP, WORKFLOW, Server, serving
from tests.notebook_files import notebook_of

HERE = f"/v1/connect/{PROJECT}"
LARGE = 96 << 20
MARGIN = 32 << 20
"""The memory that a server may use while it passes on three times as much."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    """The API of the real project."""
    with running_upstream() as api:
        yield api


@pytest.fixture(scope="module")
def server(fork_server: ForkServer, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server of a logged-in project."""
    folder = tmp_path_factory.mktemp("served")
    notebook_of(folder / "greet.ipynb", WORKFLOW, STEP)
    with serving(fork_server, folder, "greet.ipynb", **upstream.environ, PDKERNEL_EGRESS="deny") as running:
        yield running


@pytest.fixture
def http(server: Server, upstream: Upstream) -> Iterator[httpx.Client]:
    """A caller with a token of Pipedream."""
    upstream.set()
    headers = {"authorization": f"Bearer {TOKEN}", "x-pd-environment": "development"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=60) as client:
        yield client
    upstream.set()


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500])
def test_errors_are_passed_on(http: httpx.Client, upstream: Upstream, status: int) -> None:
    """Errors of Pipedream reach the caller with their headers, without a retry."""
    upstream.set(fault={"path": "faulty", "kind": "status", "status": status, "headers": {"Retry-After": "7"}})
    before = len(upstream.asked)
    answer = http.get(f"{HERE}/faulty")

    assert (answer.status_code, answer.headers["retry-after"]) == (status, "7")
    assert len(upstream.asked) == before + 1


def test_a_slow_response_does_not_block_others(http: httpx.Client, upstream: Upstream) -> None:
    """Other requests are answered during a slow response."""
    upstream.set(fault={"path": "faulty", "kind": "held"})
    with (
        httpx.Client(base_url=http.base_url, headers=http.headers, timeout=60) as other,
        socket.create_connection(_address(http)) as slow,
    ):
        slow.sendall(_get(f"{HERE}/faulty"))
        quick = other.get(f"{HERE}/users").status_code
        upstream.proceed.set()  # Pipedream answers the first request only now
        answer = slow.recv(15)

    assert (quick, answer) == (200, b"HTTP/1.1 200 OK")


def test_a_truncated_response_is_truncated(http: httpx.Client, server: Server, upstream: Upstream) -> None:
    """A truncated response does not look complete; the log has a line without a traceback."""
    upstream.set(fault={"path": "faulty", "kind": "cut"})

    with pytest.raises(httpx.RemoteProtocolError):
        http.get(f"{HERE}/faulty")

    assert _soon(lambda: "Pipedream closed the connection too early" in server.log.read_text())
    assert "Traceback" not in server.log.read_text()


def test_a_disconnected_caller_ends_the_request(http: httpx.Client, server: Server, upstream: Upstream) -> None:
    """If the caller disconnects, the request at Pipedream ends."""
    upstream.set(fault={"path": "faulty", "kind": "slow", "seconds": 40})
    port = urlsplit(upstream.url).port

    def under_way() -> int:
        found = psutil.Process(server.pid).net_connections(kind="tcp")
        return sum(each.status == psutil.CONN_ESTABLISHED and getattr(each.raddr, "port", 0) == port for each in found)

    idle = under_way()
    with socket.create_connection(_address(http)) as caller:
        caller.sendall(_get(f"{HERE}/faulty"))
        assert _soon(lambda: len(upstream.asked) and upstream.asked[-1]["path"].endswith("faulty"))

    assert _soon(lambda: under_way() <= idle, within=20)


def test_large_bodies(http: httpx.Client, server: Server) -> None:
    """Large bodies pass in both directions complete, with little memory."""
    process = psutil.Process(server.pid)
    http.get(f"{HERE}/large/{1 << 20}")
    before, most = process.memory_info().rss, 0
    piece = bytes(range(256)) * 4096

    def pieces() -> Iterator[bytes]:
        nonlocal most
        for _ in range(LARGE // len(piece)):
            most = max(most, process.memory_info().rss)
            yield piece

    sent = http.post(f"{HERE}/digest", content=pieces()).json()
    size = 0
    with http.stream("GET", f"{HERE}/large/{LARGE}") as answer:
        for chunk in answer.iter_raw():
            size += len(chunk)
            most = max(most, process.memory_info().rss)

    assert sent == {"size": LARGE, "sha256": hashlib.sha256(piece * (LARGE // len(piece))).hexdigest()}
    assert size == LARGE
    assert most - before < MARGIN


def test_a_slow_reader_causes_no_buffering(http: httpx.Client, server: Server) -> None:
    """The server does not buffer a response that the caller reads slowly."""
    process = psutil.Process(server.pid)
    before = process.memory_info().rss
    with socket.create_connection(_address(http)) as caller:
        caller.sendall(_get(f"{HERE}/large/{LARGE}"))
        caller.recv(100)
        time.sleep(2)
        after = process.memory_info().rss

    assert after - before < MARGIN


def test_local_cookies_are_not_sent_to_pipedream(http: httpx.Client) -> None:
    """Cookies that other servers on this host have set are not sent to Pipedream."""
    seen = http.get(f"{HERE}/anything", headers={"cookie": "jupyter=secret", "te": "trailers", "x-mine": "1"})

    sent = seen.json()["echo"]["headers"]
    assert "cookie" not in sent
    assert "te" not in sent
    assert sent["x-mine"] == "1"


def _address(http: httpx.Client) -> tuple[str, int]:
    assert http.base_url.port is not None
    return http.base_url.host, http.base_url.port


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()


def _soon(true: Callable[[], Any], *, within: float = 60) -> bool:
    until = time.monotonic() + within
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True
