"""The passthrough to an API that does not respond, or responds in an unusual way."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.types import Message

from pdkernel.server import create_app
from pdkernel.server.passthrough import PipedreamPassthrough
from pdkernel.storage import Login
from tests.http_servers import Answer, AnsweringServer, SentRequest, serve
from tests.server.served import Served, served

FIELDS = {"grant_type": "client_credentials", "client_id": "client", "client_secret": "x"}


@asynccontextmanager
async def hanging(start: bytes) -> AsyncIterator[str]:
    """A server that receives a request, sends *start*, and then nothing more."""

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(start)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@asynccontextmanager
async def logged_in(site: Served, url: str, timeout_s: float) -> AsyncIterator[httpx.AsyncClient]:
    """A client of *site*, whose real project is at *url*."""
    login = Login("client", "a-secret-0123456789", "proj_1", base_url=url)
    pipedream = PipedreamPassthrough(login, site.project.pipedream_tokens, site.context.clock, timeout_s=timeout_s)
    app = create_app(replace(site.context, passthrough=pipedream))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:4000") as http:
        yield http
    await pipedream.close()


async def ask(folder: Path, url: str) -> list[int | str | None]:
    """The status of a check of a token by the login at *url*, and the login's own token."""
    login = Login("client", "a-secret-0123456789", "proj_1", "development", base_url=url)
    async with served(folder) as site:
        api = PipedreamPassthrough(login, site.project.pipedream_tokens, site.context.clock)
        found = [await api.probe_accounts("a-token", timeout_s=10), await api.fetch_own_token(timeout_s=10)]
        await api.close()
    return found


async def test_a_timeout_is_answered_502(tmp_path: Path) -> None:
    """After the timeout the caller gets 502 with the address that did not respond."""
    async with served(tmp_path) as site, hanging(b"") as url, logged_in(site, url, 0.3) as http:
        answer = await http.get("/v1/connect/proj_1/users")

    assert answer.status_code == 502
    assert answer.json()["error"] == (
        f"Pipedream Connect at {url.removeprefix('http://')} does not respond (ReadTimeout). Try again."
    )


async def test_a_caller_that_disconnects_after_its_body(tmp_path: Path) -> None:
    """If the caller disconnects after its body was sent, the request at Pipedream ends at once, before the timeout."""
    messages = iter(list[Message]([{"type": "http.request", "body": b"{}"}, {"type": "http.disconnect"}]))

    async def receive() -> Message:
        return next(messages)

    scope = {"type": "http", "method": "POST", "path": "/v1/x", "raw_path": b"/v1/x", "query_string": b""}
    scope["headers"] = [(b"content-length", b"2")]
    async with served(tmp_path) as site, hanging(b"") as url:
        login = Login("client", "a-secret-0123456789", "proj_1", base_url=url)
        pipedream = PipedreamPassthrough(login, site.project.pipedream_tokens, site.context.clock, timeout_s=5)
        answer = await pipedream.forward(Request(scope, receive))
        await pipedream.close()

    assert answer.status_code == 499


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (b"", "does not respond"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{", "does not respond"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9999999\r\n\r\n" + b" " * 600_000, "Pipedream's answer is too large."),
    ],
    ids=["silent", "incomplete", "too large"],
)
async def test_a_token_endpoint_without_a_valid_response(tmp_path: Path, start: bytes, reason: str) -> None:
    """If Pipedream's token endpoint does not respond, or with too much, the caller gets 502."""
    async with served(tmp_path) as site, hanging(start) as url, logged_in(site, url, 0.3) as http:
        answer = await http.post("/v1/oauth/token", json=FIELDS)

    assert answer.status_code == 502
    assert reason in answer.json()["error"]


async def test_cookies_of_this_server_are_not_forwarded(tmp_path: Path) -> None:
    """Pipedream gets the headers of a request, but no cookie, such as that of a session of the console."""
    headers = {"cookie": "pdkernel_console=session-0123456789", "x-kept": "yes"}
    with serve(AnsweringServer(lambda _: (200, {}))) as api:
        async with served(tmp_path) as site, logged_in(site, api.url, 60) as http:
            answer = await http.get("/v1/connect/proj_1/users", headers=headers)

    (request,) = api.requests
    assert (answer.status_code, request.headers["x-kept"]) == (200, "yes")
    assert "cookie" not in request.headers


@pytest.mark.parametrize(
    ("start", "status", "headers"),
    [
        (b"304 Not Modified\r\ncontent-length: 100\r\netag: 1", 304, {"etag": "1"}),
        (b"200 OK\r\ncontent-length: 0\r\nx-other: a\x01b", 200, {"x-other": "ab", "content-length": "0"}),
    ],
    ids=["a 304 has no length", "control characters are removed"],
)
async def test_a_header_that_is_not_forwarded(
    tmp_path: Path, start: bytes, status: int, headers: dict[str, str]
) -> None:
    """The length of a body that a 304 does not have, and control characters, are not forwarded."""
    async with (
        served(tmp_path) as site,
        hanging(b"HTTP/1.1 %b\r\n\r\n" % start) as url,
        logged_in(site, url, 5) as http,
    ):
        answer = await http.get("/v1/connect/proj_1/users")

    assert (answer.status_code, dict(answer.headers)) == (status, {**dict(answer.headers), **headers})
    assert ("content-length" in answer.headers) == ("content-length" in headers)


async def test_the_requests_that_check_tokens(tmp_path: Path) -> None:
    """A token is checked in the login's project and environment; the login's own token is requested with its credentials."""

    def answer(request: SentRequest) -> Answer:
        return 200, {"access_token": "own"} if request.method == "POST" else {"data": "none"}

    with serve(AnsweringServer(answer)) as pipedream:
        found = await ask(tmp_path, pipedream.url)

    check, issue = pipedream.requests
    assert found == [200, "own"]
    assert (check.method, check.path) == ("GET", "/v1/connect/proj_1/accounts?limit=1")
    assert (check.headers["authorization"], check.headers["x-pd-environment"]) == ("Bearer a-token", "development")
    assert (issue.method, issue.path) == ("POST", "/v1/oauth/token")
    assert issue.json() == {
        "grant_type": "client_credentials",
        "client_id": "client",
        "client_secret": "a-secret-0123456789",
    }


@pytest.mark.parametrize(("encoding", "is_stored"), [("identity", True), ("gzip", True), ("broken", False)])
async def test_a_token_in_a_compressed_response(tmp_path: Path, encoding: str, is_stored: bool) -> None:
    """The caller gets the response unchanged; the token is stored if the server can read the response."""
    body = b'{"access_token": "a-token", "expires_in": 60}'
    sent = {"identity": body, "gzip": gzip.compress(body), "broken": b"not gzip"}[encoding]
    name = "gzip" if encoding == "broken" else encoding
    with serve(AnsweringServer(lambda _: (200, sent, {"content-encoding": name}))) as pipedream:
        async with served(tmp_path) as site, logged_in(site, pipedream.url, 5) as http:
            async with http.stream("POST", "/v1/oauth/token", json=FIELDS) as answer:
                raw = b"".join([part async for part in answer.aiter_raw()])
            stored = site.project.pipedream_tokens.find("a-token")

    assert (answer.status_code, answer.headers["content-encoding"], raw) == (200, name, sent)
    assert (stored is not None) == is_stored


@pytest.mark.parametrize(
    ("status", "body"),
    [
        *[(401, {"access_token": "own"}), (200, {}), (200, {"access_token": 7}), (200, b"<html>"), (200, b"[]")],
        (None, None),
    ],
)
async def test_a_login_that_gets_no_token(tmp_path: Path, status: int | None, body: object) -> None:
    """If Pipedream issues no token to the login, or cannot be reached, there is none; a check has its status, or None."""
    with serve(AnsweringServer(lambda _: (status or 200, body))) as pipedream:
        found = await ask(tmp_path, pipedream.url if status else "http://127.0.0.1:9")

    assert found == [status, None]
