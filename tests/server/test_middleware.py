"""What every request passes: Host, the line in the terminal; who is behind a proxy."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from starlette.datastructures import Headers

from pdkernel.egress import parse_policy
from pdkernel.errors import RequestError
from pdkernel.server import ServeSettings
from pdkernel.server.client_address import is_from_this_machine, parse_networks, resolve_client_ip
from pdkernel.server.host_names import HostNames
from tests.builders import a_workflow, python_step
from tests.server.endpoint.conftest import ECHO
from tests.server.site import site_of

NAMES = HostNames(
    ServeSettings(base_url="https://flows.example.com", policy=parse_policy("deny"), allowed_hosts=("box.lan",))
)


@pytest.mark.parametrize(
    "host",
    ["", "localhost", "LOCALHOST:80", "127.0.0.1:4000", "[::1]:1", "eo1.m.pipedream.net", "flows.example.com", "box.lan:1",
     "eo1.localhost", "eo1.flows.example.com", "192.168.1.7"],
)  # fmt: skip
def test_hosts_that_are_ours(host: str) -> None:
    """Loopback, addresses, endpoints' own names, the public URL's and the names that were given."""
    assert NAMES.is_allowed(host)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example", "api.pipedream.com",
             "m.pipedream.net.evil.example", "1.2.3.4.5"],
)  # fmt: skip
def test_hosts_that_are_not(host: str) -> None:
    """Any other name may have been pointed here by a page's own site."""
    assert not NAMES.is_allowed(host)


async def test_a_foreign_host_is_refused_everywhere(tmp_path: Path) -> None:
    """No path is answered for another host, and nothing starts."""
    async with site_of(tmp_path, a_workflow(python_step())) as site:
        paths = [site.path(), "/-/live", "/-/runs/x", "/v1/oauth/token"]
        answers = [await site.http.post(path, headers={"host": "evil.example"}) for path in paths]
        runs = await site.runs()

    assert [answer.status_code for answer in answers] == [421] * 4
    assert runs == []


async def test_lines(tmp_path: Path) -> None:
    """A request's line has its path, status and run, and neither query values nor tokens."""
    async with site_of(tmp_path, a_workflow(python_step())) as site:
        header = {"authorization": "Bearer hidden-token", "x-pd-external-user-id": "ada"}
        answer = await site.http.post(f"{site.path()}/a?key=hidden-value", headers=header)
        await site.said(1)
        await site.http.get(f"/v1/connect/tokens/ctok_{'0' * 32}/validate")
        await site.http.post(f"/https:{site.path()}.m.pipedream.net/b%3Fkey=hidden-value")
        first, second, third = await site.said(3)

    assert first.startswith(f"POST {site.path()}/a 200 ")
    assert f"(ada, development) run {answer.json()['event_id']} success" in first
    assert "hidden" not in first
    assert "ctok_0" not in second
    assert third.startswith(f"POST /https:{site.path()}.m.pipedream.net/b 200 ")
    assert "hidden" not in third


async def test_the_line_of_a_run_that_fails(tmp_path: Path) -> None:
    """The caller has a 200 already; the line says how the run ended, with the error's name and step, not its message."""
    async with site_of(tmp_path, a_workflow(python_step("break", "raise ValueError('hidden')"))) as site:
        await site.http.post(site.path(), headers=[(b"x-pd-external-user-id", b"a\x9b31mb")])
        (line,) = await site.said(1)

    assert " 200 " in line
    assert line.endswith(" error: ValueError in break")
    assert "hidden" not in line
    assert "\x9b" not in line


async def test_the_line_of_a_run_that_pauses(tmp_path: Path) -> None:
    """It does not wait for the end."""
    steps = python_step("wait", "pd.flow.delay(60_000)"), python_step("after")
    async with site_of(tmp_path, a_workflow(*steps)) as site:
        await site.http.post(site.path())
        (line,) = await site.said(1)

    assert line.endswith(" paused")


async def test_a_length_that_is_said_twice(tmp_path: Path) -> None:
    """Content-Length beside Transfer-Encoding is refused: a proxy may have understood another request than this server."""
    async with site_of(tmp_path, a_workflow(python_step())) as site:
        reader, writer = await asyncio.open_connection(*site.url.removeprefix("http://").split(":"))
        head = (
            f"POST {site.path()} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        writer.write(f"{head}0\r\n\r\nGET /-/live HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        runs = await site.runs()

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"live" not in answer
    assert runs == []


async def test_what_follows_a_head_is_no_http(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is answered 400, and what the application says to the head is no error in the log."""
    async with site_of(tmp_path, a_workflow(python_step())) as site:
        reader, writer = await asyncio.open_connection(*site.url.removeprefix("http://").split(":"))
        head = f"OPTIONS {site.path()} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(f"{head}no chunk\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert [record for record in caplog.records if record.exc_info] == []


async def test_a_line_break_in_a_path(tmp_path: Path) -> None:
    """It leads to the workflow, and to the API's own 501, like any other letter."""
    async with site_of(tmp_path, a_workflow(python_step("echo", ECHO), response="custom")) as site:
        event = (await site.http.post(f"{site.path()}/a%0Ab")).json()
        unserved = await site.http.get("/v1/a%0Ab")

    assert event["path"] == "/a\nb"
    assert unserved.status_code == 501


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
    ],
)
def test_client_ip(peer: str, forwarded: str, trusted: tuple[str, ...], expected: str) -> None:
    """An address in X-Forwarded-For counts as far as the hops behind it are trusted."""
    headers = Headers({"x-forwarded-for": forwarded} if forwarded else {})

    assert resolve_client_ip({"type": "http", "client": (peer, 1)}, headers, trusted) == expected


async def test_client_ip_and_scheme_of_the_event(tmp_path: Path) -> None:
    """What a trusted proxy tells is what the workflow sees."""
    workflow = a_workflow(python_step("echo", ECHO), response="custom")
    told = {"x-forwarded-for": "198.51.100.7", "x-forwarded-proto": "https"}
    async with site_of(tmp_path, workflow, trusted_proxies=("127.0.0.0/8",)) as site:
        event = (await site.http.post(site.path(), headers=told)).json()

    assert event["client_ip"] == "198.51.100.7"
    assert event["url"].startswith("https://")


@pytest.mark.parametrize("left", ["/base", ""])
async def test_a_public_url_with_a_path(tmp_path: Path, left: str) -> None:
    """Everything is found, whether the proxy leaves the public URL's path at the beginning or takes it away."""
    workflow = a_workflow(python_step("echo", ECHO), response="custom")
    host = {"host": "flows.example.com"}
    async with site_of(tmp_path, workflow, base_url="https://flows.example.com/base") as site:
        event = (await site.http.get(f"{left}{site.path()}/a?n=1", headers=host)).json()
        mangled = (await site.http.get(f"{left}/https:{site.path()}.m.pipedream.net/b", headers=host)).json()
        statuses = [
            (await site.http.request(method, left + path, headers=host)).status_code
            for method, path in (("GET", "/-/live"), ("GET", "/-/runs/x"), ("POST", "/v1/oauth/token"))
        ]
        foreign = await site.http.get(f"/based{site.path()}", headers=host)
        file = (await site.http.post(left + site.path(), files={"f": b"data"}, headers=host)).json()["body"]["f"]
        kept = await site.http.get(left + file["url"].removeprefix("https://flows.example.com/base"), headers=host)

    assert (event["path"], event["url"]) == ("/a", f"http://flows.example.com{left}{site.path()}/a?n=1")
    assert mangled["path"] == "/b"
    assert statuses == [200, 401, 401]
    assert foreign.json()["path"] == "/"
    assert kept.content == b"data"


@pytest.mark.parametrize(
    ("peer", "headers", "local"),
    [
        ("127.0.0.1", {"host": "localhost:1"}, True),
        ("::1", {"host": "[::1]:1"}, True),
        ("127.0.0.1", {"host": "flows.example.com"}, False),
        ("127.0.0.1", {"host": "localhost", "x-forwarded-for": "1.1.1.1"}, False),
        ("::ffff:127.0.0.1", {"host": "localhost"}, True),
        ("192.168.1.2", {"host": "localhost"}, False),
    ],
)
def test_is_local(peer: str, headers: dict[str, str], local: bool) -> None:
    """Only who is on this machine, and not behind a proxy on it."""
    assert is_from_this_machine({"type": "http", "client": (peer, 1)}, Headers(headers)) is local


def test_networks_are_checked() -> None:
    """A network that is not in CIDR notation is rejected."""
    with pytest.raises(RequestError, match="not a network"):
        parse_networks(["10.0.0.0/8", "proxy"])
