"""HTTP/1.1 on a connection: valid and invalid requests, limits, and the connection afterwards."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

from pdkernel.server.http_protocol import (
    MAX_CONNECTIONS,
    MAX_HEADER_BYTES,
    YOUNG_S,
    Pace,
    StrictHttpProtocol,
    UnsentResponses,
)
from pdkernel.server.uvicorn_server import UvicornServer, listen
from tests.builders import Gate, a_workflow, python_step
from tests.server.site import site_of
from tests.waiting import until

HOST = b"host: localhost\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST
POST = b"POST / HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
LARGE = b"x" * 32 * 1024 * 1024
"""The body of the response to /large, more than the buffers of the system hold."""
GET_LARGE = b"GET /large HTTP/1.1\r\n" + HOST + b"\r\n"
TWO = b"2\r\nhi\r\n0\r\n\r\n"


@dataclass
class Echo:
    """
    A server that responds to each request with the parsed request.

    Attributes:
        port: Port of the server.
        paths: Paths of the requests that the application received.
        disconnected: Paths of the requests whose client disconnected.
        wait: Until this event is set, responses to paths that begin with /slow wait, and bodies of /late are not read.
        server: The server.
    """

    port: int = 0
    paths: list[str] = field(default_factory=list)
    disconnected: list[str] = field(default_factory=list)
    wait: asyncio.Event = field(default_factory=asyncio.Event)
    server: UvicornServer | None = None

    @property
    def unsent_bytes(self) -> int:
        """The bytes that the process holds for all clients."""
        assert self.server is not None
        connections = cast("set[StrictHttpProtocol]", self.server.server_state.connections)
        return sum(each.unsent_bytes for each in connections)

    @property
    def buffered_bytes(self) -> list[int]:
        """The bytes that each open connection buffers."""
        assert self.server is not None
        return [each.transport.get_write_buffer_size() for each in self.server.server_state.connections]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to a request."""
        request = Request(scope, receive)
        path = request.url.path
        self.paths.append(path)
        if path.startswith("/late"):
            await self.wait.wait()
        try:
            body = await request.body()
        except ClientDisconnect:
            self.disconnected.append(path)
            return
        if path.startswith("/slow"):
            await self.wait.wait()
        if path == "/leaves":
            await receive()
            self.disconnected.append(path)
        headers = [[name, value] for name, value in request.headers.items() if name != "host"]
        parsed = {"method": request.method, "path": path, "query": request.url.query, "headers": headers}
        if path == "/large":
            await Response(LARGE)(scope, receive, send)
            return
        if path.startswith("/status/"):
            await Response(status_code=int(path.rpartition("/")[2]))(scope, receive, send)
            return
        answer = JSONResponse({**parsed, "body": body.decode()})
        if path == "/stream":
            await StreamingResponse(_parts(answer.body))(scope, receive, send)
        else:
            await answer(scope, receive, send)

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection."""
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def send(self, *parts: bytes) -> bytes:
        """Send each of *parts* separately; returns the data until the server closes the connection."""
        reader, writer = await self.open()
        for part in parts:
            writer.write(part)
            await _server_reads()
        received = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        return received

    async def send_and_parse(self, *parts: bytes) -> list[dict[str, Any]]:
        """Send *parts* and a last request; returns the requests that the application parsed, without the last."""
        received = await self.send(*parts, GET + b"connection: close\r\n\r\n")
        seen = [json.loads(each.partition(b"\r\n\r\n")[2]) for each in received.split(b"HTTP/1.1 200 OK\r\n")[1:]]
        assert seen.pop()["headers"] == [["connection", "close"]]
        return seen


async def _server_reads() -> None:
    """
    Let the server read what its client has written.

    Client and server share the event loop, and the loopback interface delivers at once: the server reads in the next turns
    of the loop.
    """
    for _ in range(5):
        await asyncio.sleep(0)


async def _parts(body: Any) -> AsyncIterator[bytes]:
    yield bytes(body)[:10]
    yield bytes(body)[10:]


@pytest.fixture
async def echo(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Echo]:
    """A server; the log has no traceback at the end."""
    async with _served(Pace()) as app:
        yield app
    assert [record.message for record in caplog.records if record.exc_info] == []


@pytest.fixture
async def impatient(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Echo]:
    """A server with short limits: 0.3 seconds for a head, a byte per second for a body."""
    async with _served(Pace(head_s=0.3, body_window_s=0.5, body_bytes_per_s=1.0)) as app:
        yield app
    assert [record.message for record in caplog.records if record.exc_info] == []


@asynccontextmanager
async def _served(
    pace: Pace, *, max_unsent_bytes: int = 1 << 30, max_connections: int = MAX_CONNECTIONS
) -> AsyncIterator[Echo]:
    app = Echo()
    opened = listen("127.0.0.1", 0)
    app.port = opened.getsockname()[1]
    ready = asyncio.Event()
    unsent = UnsentResponses(max_unsent_bytes)
    report_ready = partial(asyncio.get_running_loop().call_soon_threadsafe, ready.set)
    app.server = server = UvicornServer(
        Starlette(routes=[Mount("/", app)]),
        pace=pace,
        unsent=unsent,
        max_connections=max_connections,
        on_ready=report_ready,
    )
    task = asyncio.ensure_future(server.serve(sockets=[opened]))
    await ready.wait()
    yield app
    app.wait.set()
    server.stop()
    server.force_exit = True
    await task


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no host"),
        pytest.param(GET + b"host: evil.example\r\n\r\n", id="two hosts"),
        pytest.param(b"GET / HTTP/1.0\r\n" + HOST + HOST + b"\r\n", id="two hosts of 1.0"),
        pytest.param(b"GET /\r\n\r\n", id="no version"),
        pytest.param(b"GET / HTTP/0.9\r\n" + HOST + b"\r\n", id="0.9"),
        pytest.param(b"GET / HTTP/1.2\r\n" + HOST + b"\r\n", id="1.2"),
        pytest.param(b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", id="2.0"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="preface of HTTP/2"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS"),
        pytest.param(b"get / HTTP/1.1\r\n" + HOST + b"\r\n", id="invalid method"),
        pytest.param(b"CONNECT localhost:80 HTTP/1.1\r\n" + HOST + b"\r\n", id="CONNECT"),
        pytest.param(b"CONNECT / HTTP/1.1\r\n" + HOST + b"\r\n", id="CONNECT with a path"),
        pytest.param(b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", id="asterisk"),
        pytest.param(b"GET http://evil.example/ HTTP/1.1\r\n" + HOST + b"\r\n", id="a proxy's target"),
        pytest.param(b"GET a/b HTTP/1.1\r\n" + HOST + b"\r\n", id="target without a slash"),
        pytest.param(b"GET /\xc3\xa9 HTTP/1.1\r\n" + HOST + b"\r\n", id="target not in ASCII"),
        pytest.param(b"GET /a\x00b HTTP/1.1\r\n" + HOST + b"\r\n", id="NUL in the target"),
        pytest.param(b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n", id="space in the target"),
        pytest.param(b"GET /" + b"a" * 65536 + b" HTTP/1.1\r\n" + HOST + b"\r\n", id="endless target"),
        pytest.param(b"GET / HTTP/1.1\nhost: localhost\n\n", id="bare line feeds"),
        pytest.param(GET[:-2] + b"\rx-a: b\r\n\r\n", id="bare carriage return"),
        pytest.param(GET + b"x-a: b\r\n c\r\n\r\n", id="folded header"),
        pytest.param(b"GET / HTTP/1.1\r\n x-a: b\r\n" + HOST + b"\r\n", id="header that begins with a space"),
        pytest.param(GET + b"x-a : b\r\n\r\n", id="space before the colon"),
        pytest.param(GET + b"x-a\r\n\r\n", id="no colon"),
        pytest.param(GET + b": b\r\n\r\n", id="no name"),
        pytest.param(GET + b"x(a): b\r\n\r\n", id="name that is not a token"),
        pytest.param(GET + b"x\xc3\xa9: b\r\n\r\n", id="name not in ASCII"),
        pytest.param(GET + b"x-a: b\x00\r\n\r\n", id="NUL in a value"),
        pytest.param(GET + b"x-a: b\x0b\r\n\r\n", id="control character in a value"),
        pytest.param(POST + b"content-length: 2\r\ncontent-length: 2\r\n\r\nhi", id="two lengths"),
        pytest.param(POST + b"content-length: 2, 3\r\n\r\nhi!", id="list of lengths"),
        pytest.param(POST + b"content-length: +2\r\n\r\nhi", id="length with a sign"),
        pytest.param(POST + b"content-length: 0x2\r\n\r\nhi", id="length in hex"),
        pytest.param(POST + b"content-length: 18446744073709551618\r\n\r\nhi", id="length beyond 64 bits"),
        pytest.param(POST + b"content-length: \r\n\r\nhi", id="empty length"),
        pytest.param(POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n" + TWO, id="length and chunked"),
        pytest.param(POST + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n" + TWO, id="chunked and length"),
        *[
            pytest.param(POST + b"transfer-encoding: " + coding + b"\r\n\r\n" + TWO, id=f"coding {coding.decode()}")
            for coding in (b"gzip", b"identity", b"gzip, chunked", b"chunked, gzip", b"chunked, chunked", b"xchunked",
                           b", chunked", b"chunked;q=1", b"\x0bchunked", b"")
        ],
        pytest.param(POST + b"transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n" + TWO, id="two codings"),
    ],
)  # fmt: skip
async def test_an_invalid_request_is_rejected(echo: Echo, request_: bytes) -> None:
    """The response is 400, the connection closes, and the application receives nothing."""
    answer = await echo.send(request_ + GET + b"\r\n")

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert b"connection: close" in answer
    assert b"\r\nserver:" not in answer.lower()
    assert echo.paths == []


@pytest.mark.parametrize(
    "body",
    [b"2 \r\nhi\r\n0\r\n\r\n", b"0x2\r\nhi\r\n0\r\n\r\n", b"2\nhi\r\n0\r\n\r\n", b"2\r\nhi\n0\r\n\r\n", b"2\r\nhi0\r\n\r\n",
     b"2\r\nhiXX0\r\n\r\n", b"10000000000000002\r\nhi\r\n0\r\n\r\n", b"2;a\nhi\r\n0\r\n\r\n", b"2\r\nhi\r\n0\r\nx a: b\r\n\r\n",
     b"2\r\nhi\r\n0\r\ncontent-length: 5\r\n\r\n", b"no chunk\r\n"],
)  # fmt: skip
async def test_an_invalid_chunk_is_rejected(echo: Echo, body: bytes) -> None:
    """The response is 400, the connection closes, and the application does not get a body."""
    answer = await echo.send(CHUNKED, body + GET + b"\r\n")

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert echo.paths == echo.disconnected == ["/"]


async def test_the_response_to_an_invalid_head_request_has_no_body(echo: Echo) -> None:
    """The 400 for a HEAD request has no body."""
    answer = await echo.send(b"HEAD" + CHUNKED[4:], b"no chunk\r\n")

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("start", "more"),
    [
        pytest.param(GET + b"x-a: ", b"a" * 1024, id="value"),
        pytest.param(GET, b"x-a: b\r\n" * 128, id="headers"),
        pytest.param(b"GET /", b"a" * 1024, id="target"),
        pytest.param(b"", b"\r\n" * 512, id="empty lines"),
        pytest.param(CHUNKED + b"2;", b"a" * 1024, id="extension of a chunk"),
        pytest.param(CHUNKED + b"2\r\nhi\r\n0\r\n", b"x-a: b\r\n" * 128, id="trailers"),
        pytest.param(GET + b"\r\n" + GET + b"x-a: ", b"a" * 1024, id="second request"),
    ],
)
async def test_a_head_without_an_end_is_limited(echo: Echo, start: bytes, more: bytes) -> None:
    """The connection closes when heads, chunk extensions or trailers exceed the limit of a head."""
    _, writer = await echo.open()
    writer.write(start)
    await _server_reads()
    sent = len(start) + await _send_until_closed(writer, more, 4 * MAX_HEADER_BYTES)
    writer.close()

    assert MAX_HEADER_BYTES <= sent < 2 * MAX_HEADER_BYTES


async def _send_until_closed(writer: asyncio.StreamWriter, more: bytes, most: int) -> int:
    """Send *more* repeatedly until the server closes the connection; returns the number of bytes."""
    sent = 0
    with suppress(ConnectionError):
        while sent < most:
            writer.write(more)
            await writer.drain()
            sent += len(more)
            await asyncio.sleep(0 if sent < MAX_HEADER_BYTES else 0.001)  # a busy system delivers the close later
    return sent


async def test_white_space_around_a_value_is_removed(echo: Echo) -> None:
    """White space around a header's value is not part of the value."""
    (seen,) = await echo.send_and_parse(GET + b"x-a:  \t b c \t \r\nx-b:\r\n\r\n")

    assert seen["headers"] == [["x-a", "b c"], ["x-b", ""]]


async def test_trailers_are_ignored(echo: Echo) -> None:
    """Fields after the last chunk of a body do not become headers of the request."""
    (seen,) = await echo.send_and_parse(CHUNKED, b"2;a=b\r\nhi\r\n0\r\nx-pd-environment: production\r\n\r\n")

    assert (seen["headers"], seen["body"]) == ([["transfer-encoding", "chunked"]], "hi")


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
async def test_an_upgrade_is_ignored(echo: Echo, protocol: bytes) -> None:
    """A request with `upgrade` gets a normal response, and its body is not parsed as another request."""
    smuggled = b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"
    upgrade = b"connection: upgrade\r\nupgrade: %b\r\n" % protocol
    sized = POST + upgrade + b"content-length: %d\r\n\r\n" % len(smuggled)
    chunked = POST + upgrade + b"transfer-encoding: chunked\r\n\r\n"

    seen = await echo.send_and_parse(GET + upgrade + b"\r\n" + sized, smuggled + chunked + TWO + sized + smuggled)

    assert [each["body"] for each in seen] == ["", smuggled.decode(), "hi", smuggled.decode()]
    assert set(echo.paths) == {"/"}


async def test_pipelined_requests_are_answered_in_order(echo: Echo) -> None:
    """Requests that do not wait for responses are answered one after the other."""
    echo.wait.set()
    body = b"content-length: 2\r\n\r\nhi"

    seen = await echo.send_and_parse(
        b"".join(method + b" /slow%d HTTP/1.1\r\n" % n + HOST + body for n, method in enumerate([b"POST", b"PUT"]))
    )

    assert [(each["method"], each["path"], each["body"]) for each in seen] == [
        ("POST", "/slow0", "hi"),
        ("PUT", "/slow1", "hi"),
    ]


async def test_requests_before_an_invalid_one_are_answered(echo: Echo) -> None:
    """Complete requests on a connection get their responses before the connection closes for an invalid request behind them."""
    reader, writer = await echo.open()
    writer.write(b"".join(b"GET /slow%d HTTP/1.1\r\n" % n + HOST + b"\r\n" for n in range(2)) + b"no request\r\n\r\n")
    await until(lambda: echo.paths)
    await _server_reads()
    echo.wait.set()
    received = await asyncio.wait_for(reader.read(), 60)
    writer.close()

    assert received.count(b"HTTP/1.1 200 OK\r\n") == received.count(b"HTTP/1.1") == 2
    assert echo.paths == ["/slow0", "/slow1"]


async def test_the_number_of_pipelined_requests_is_limited(echo: Echo) -> None:
    """The server stops reading while many pipelined requests wait."""
    reader, writer = await echo.open()
    slow = b"GET /slow HTTP/1.1\r\n" + HOST + b"\r\n"
    writer.write((GET + b"\r\n") * 300 + slow + (GET + b"\r\n") * 450_000)
    await until(lambda: "/slow" in echo.paths)
    kept, before = writer.transport.get_write_buffer_size(), 0
    while kept != before:  # the system's buffers are still being filled
        await asyncio.sleep(0.05)
        kept, before = writer.transport.get_write_buffer_size(), kept
    echo.wait.set()
    received = await reader.readexactly(100_000)
    writer.transport.abort()

    assert kept > 1_000_000  # the other bytes are in the system's buffers
    assert received.count(b"HTTP/1.1 200 ") > 300


@pytest.mark.parametrize(
    ("sent", "answers"),
    [(b"\x00\r\n\r\n" + GET + b"\r\n", 1), (CHUNKED + b"no chunk\r\n", 0)],
    ids=["a head", "a body"],
)
async def test_invalid_data_behind_a_request(echo: Echo, sent: bytes, answers: int) -> None:
    """The connection closes, without a 400, which would look like the response; behind an invalid head it gets that one first."""
    reader, writer = await echo.open()
    writer.write(b"GET /slow HTTP/1.1\r\n" + HOST + b"\r\n")
    await until(lambda: echo.paths)
    writer.write(sent)
    await _server_reads()
    echo.wait.set()
    answer = await asyncio.wait_for(reader.read(), 60)
    writer.close()

    assert (answer.count(b"HTTP/1.1"), answer.count(b"HTTP/1.1 200 ")) == (answers, answers)
    assert echo.paths == ["/slow"]


async def test_a_client_disconnects_with_pipelined_requests(echo: Echo) -> None:
    """The application learns of the disconnect, and the second request does not start."""
    _, writer = await echo.open()
    writer.write(b"GET /leaves HTTP/1.1\r\n" + HOST + b"\r\n" + GET + b"\r\n")
    await until(lambda: echo.paths)
    writer.transport.abort()
    await until(lambda: echo.disconnected)
    await _server_reads()

    assert echo.paths == echo.disconnected == ["/leaves"]


async def test_expect_100_continue(echo: Echo) -> None:
    """A client that waits for 100 Continue receives it; an HTTP/1.0 client does not."""
    head = b"POST / HTTP/1.%d\r\n" + HOST + b"expect: 100-continue\r\ncontent-length: 2\r\nconnection: close\r\n\r\n"

    answers = [await echo.send(head % minor, b"hi") for minor in (0, 1)]

    assert b"\r\nserver:" not in answers[0].lower()
    assert [answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ") for answer in answers] == [False, True]
    assert answers[0].startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(("status", "has_length"), [(200, True), (204, False), (304, False), (205, True)])
async def test_an_http_1_0_response_without_a_body(echo: Echo, status: int, has_length: bool) -> None:
    """A status that allows no body has no content length."""
    answer = await echo.send(b"GET /status/%d HTTP/1.0\r\n\r\n" % status)

    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert (b"content-length: 0" in answer) == has_length
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("path", [b"/", b"/stream"])
async def test_an_http_1_0_response_has_a_length(echo: Echo, path: bytes) -> None:
    """An HTTP/1.0 response has a content length instead of chunks, and the connection closes."""
    answer = await echo.send(b"GET " + path + b" HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")

    assert b"content-length: %d" % len(body) in head
    assert b"transfer-encoding" not in head
    assert json.loads(body)["path"] == path.decode()


async def wait_for_the_limits(app: Echo) -> None:
    """Wait until the server has closed connections with an incomplete head and an incomplete body."""
    await asyncio.gather(app.send(b"GET /"), app.send(POST + b"content-length: 9\r\n\r\n"))


@pytest.mark.parametrize("head", [b"G", GET[:-2], GET + b"x-a: b", b"\r\nGET /"])
async def test_an_incomplete_head_times_out(impatient: Echo, head: bytes) -> None:
    """An incomplete head is answered 408 after its timeout; the application receives nothing."""
    answer = await impatient.send(head)

    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"connection: close" in answer
    assert impatient.paths == []


async def test_a_slow_head_times_out(impatient: Echo) -> None:
    """Bytes that keep arriving do not extend the timeout of a head."""
    reader, writer = await impatient.open()
    answer = asyncio.ensure_future(
        reader.readline()
    )  # not to the end: the server resets the connection if more bytes arrive
    writer.write(GET)
    while not (await asyncio.wait({answer}, timeout=0.05))[0]:
        writer.write(b"x-a: b\r\n")
    writer.close()

    assert answer.result().startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("sent", [b"", b"\r\n"])
async def test_an_idle_connection_is_closed(impatient: Echo, sent: bytes) -> None:
    """A connection without a request is closed without a response."""
    assert await impatient.send(sent) == b""


async def test_a_slow_head_after_a_response_times_out(impatient: Echo) -> None:
    """The next head of a kept connection has the same timeout."""
    answer = await impatient.send(GET + b"\r\nGET /second")

    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"HTTP/1.1 408 " in answer
    assert impatient.paths == ["/"]


async def test_a_slow_head_behind_a_slow_response(impatient: Echo) -> None:
    """The complete request gets its response, and then the connection closes without a 408."""
    answer = asyncio.ensure_future(impatient.send(b"GET /slow HTTP/1.1\r\n" + HOST + b"\r\nGET /second"))
    await wait_for_the_limits(impatient)
    impatient.wait.set()

    assert (await answer).startswith(b"HTTP/1.1 200 OK")
    assert b"408" not in await answer


@pytest.mark.parametrize(
    "start", [POST + b"content-length: 9\r\n\r\n", CHUNKED, CHUNKED + b"1\r\na\r\n", CHUNKED + TWO[:-2]]
)
async def test_an_incomplete_body_times_out(impatient: Echo, start: bytes) -> None:
    """A body that stops is answered 408; the application learns of the disconnect."""
    answer = await impatient.send(start)

    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert impatient.paths == impatient.disconnected == ["/"]


async def test_a_body_at_the_minimum_rate(monkeypatch: pytest.MonkeyPatch, impatient: Echo) -> None:
    """A body may take longer than the window over which its rate is averaged."""
    loop = asyncio.get_running_loop()
    real, began, passed, stands_still = loop.time, loop.time(), 0.0, True
    monkeypatch.setattr(loop, "time", lambda: (began if stands_still else real()) + passed)
    reader, writer = await impatient.open()
    writer.write(POST + b"connection: close\r\ncontent-length: 30\r\n\r\n")
    answer = asyncio.ensure_future(reader.read())
    for _ in range(30):
        writer.write(b"a")
        await _server_reads()
        passed += 0.1
        await _server_reads()
    stands_still = False
    writer.close()

    assert (await answer).startswith(b"HTTP/1.1 200 OK")


async def test_a_slow_application_has_no_timeout(impatient: Echo) -> None:
    """The limits apply to the client's data; a response may take longer."""
    answer = asyncio.ensure_future(
        impatient.send_and_parse(b"POST /slow HTTP/1.1\r\n" + HOST + b"content-length: 2\r\n\r\nhi")
    )
    await wait_for_the_limits(impatient)
    impatient.wait.set()

    assert [seen["body"] for seen in await answer] == ["hi"]


async def test_a_body_that_is_read_late(impatient: Echo) -> None:
    """While the server does not read, the client is not too slow."""
    body = b"a" * (8 << 20)
    head = b"POST /late HTTP/1.1\r\n" + HOST + b"content-length: %d\r\n\r\n" % len(body)
    answer = asyncio.ensure_future(impatient.send_and_parse(head + body))
    await wait_for_the_limits(impatient)
    impatient.wait.set()

    assert [len(seen["body"]) for seen in await answer] == [len(body)]


async def test_a_late_100_continue(impatient: Echo) -> None:
    """A client that waits for 100 Continue is not too slow."""
    reader, writer = await impatient.open()
    head = b"connection: close\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n"
    writer.write(b"POST /late HTTP/1.1\r\n" + HOST + head)
    await wait_for_the_limits(impatient)
    impatient.wait.set()

    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"hi")
    assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
    writer.close()


async def test_invalid_data_after_a_head(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Invalid data after a head that is answered without its body gets 400, and the log has no traceback."""
    async with site_of(tmp_path, a_workflow(python_step())) as site:
        reader, writer = await asyncio.open_connection(*site.url.removeprefix("http://").split(":"))
        head = f"OPTIONS {site.path()} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(f"{head}no chunk\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 60)
        writer.close()

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert [record for record in caplog.records if record.exc_info] == []


async def test_data_after_the_last_request_is_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """After a request with `connection: close`, further data is ignored; the request gets its response."""
    gate = Gate(tmp_path)
    async with site_of(
        tmp_path,
        a_workflow(python_step("slow", f"{gate.code}\npd.respond(status=200, body='made')"), response="custom"),
    ) as site:
        reader, writer = await asyncio.open_connection(*site.url.removeprefix("http://").split(":"))
        writer.write(f"GET {site.path()} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
        await gate.wait_until_reached()
        writer.write(b"more")
        await _server_reads()
        gate.open()
        answer = await asyncio.wait_for(reader.read(), 60)
        writer.close()

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\nmade")
    assert [record.message for record in caplog.records if record.exc_info] == []


async def _ask_without_reading(port: int, count: int, sent: bytes) -> list[socket.socket]:
    """Connections that have sent a request, and that read only when a test reads."""
    clients = []
    for _ in range(count):
        clients.append(client := socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.setblocking(False)
        await asyncio.get_running_loop().sock_sendall(client, sent)
    return clients


@pytest.mark.parametrize(
    "sent",
    [
        GET_LARGE,
        GET_LARGE.replace(b"1.1", b"1.0"),
        GET_LARGE.replace(HOST, HOST + b"connection: close\r\n"),
        GET_LARGE * 10,
        POST.replace(b"/ ", b"/large ") + b"content-length: 5\r\n\r\nhello",
    ],
)
async def test_a_client_that_does_not_read(sent: bytes) -> None:
    """Its connection buffers no more than flow control permits, and is closed after the window; others are answered."""
    async with _served(Pace(response_window_s=0.5, response_bytes_per_s=100_000)) as echo:
        clients = await _ask_without_reading(echo.port, 20, sent)
        await until(lambda: len(echo.buffered_bytes) == 20 and min(echo.buffered_bytes) > 0)
        buffered = max(echo.buffered_bytes)
        others = await echo.send_and_parse(GET + b"\r\n")
        await until(lambda: not echo.buffered_bytes)
        for client in clients:
            client.close()

    assert buffered < 256 * 1024
    assert len(others) == 1


async def test_a_client_that_reads_too_slowly(caplog: pytest.LogCaptureFixture) -> None:
    """A client that reads some bytes now and then is cut off as one that reads nothing."""
    async with _served(Pace(response_window_s=0.5, response_bytes_per_s=1_000_000)) as echo:
        (client,), loop = await _ask_without_reading(echo.port, 1, GET_LARGE), asyncio.get_running_loop()
        await until(lambda: echo.buffered_bytes)
        received = 0
        async with asyncio.timeout(60):
            while echo.buffered_bytes:
                received += len(await loop.sock_recv(client, 2048))
                await asyncio.sleep(0.02)
        with suppress(ConnectionError):
            while data := await loop.sock_recv(client, 256 * 1024):  # the system still delivers what it has buffered
                received += len(data)
        client.close()

    assert 0 < received < len(LARGE)
    assert "read a response too slowly" in caplog.text


async def test_a_client_that_reads_steadily() -> None:
    """A response that takes several windows arrives as a whole if its client reads fast enough."""
    async with _served(Pace(response_window_s=0.2, response_bytes_per_s=1_000)) as echo:
        reader, writer = await echo.open()
        writer.write(GET_LARGE.replace(HOST, HOST + b"connection: close\r\n"))
        received = 0
        while data := await reader.read(256 * 1024):
            received += len(data)
            await asyncio.sleep(0.01)
        writer.close()

    assert received > len(LARGE)


async def test_an_idle_client_is_not_too_slow() -> None:
    """A client that has read its response keeps its connection."""
    async with _served(Pace(response_window_s=0.1, response_bytes_per_s=1_000_000)) as echo:
        reader, writer = await echo.open()
        for _ in range(3):
            writer.write(GET + b"\r\n")
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 OK\r\n")
            await asyncio.sleep(0.3)
        writer.close()


async def test_unsent_responses_of_all_clients(caplog: pytest.LogCaptureFixture) -> None:
    """Many clients that do not read hold no more than the limit of the process, and a client that reads gets its response."""
    limit = 4 * len(LARGE)
    async with _served(Pace(), max_unsent_bytes=limit) as echo:
        clients = await _ask_without_reading(echo.port, 12, GET_LARGE)
        await until(lambda: "reads the slowest" in caplog.text and echo.unsent_bytes <= limit)
        await asyncio.sleep(1.1)  # from now on the rates of those that are left can be compared
        reader, writer = await echo.open()
        writer.write(GET_LARGE.replace(HOST, HOST + b"connection: close\r\n"))
        received = await reader.read()
        left = len(echo.buffered_bytes)
        for client in clients:
            client.close()
        writer.close()

    assert len(received) > len(LARGE)
    assert left <= limit // len(LARGE)


async def test_responses_that_are_read_use_none_of_the_limit() -> None:
    """Connections that have read many responses stay open, although the responses together were above the limit."""
    async with _served(Pace(), max_unsent_bytes=1000) as echo:
        connections = [await echo.open() for _ in range(4)]
        for _ in range(20):
            for reader, writer in connections:
                writer.write(GET + b"\r\n")
                assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 OK\r\n")
        for _, writer in connections:
            writer.close()


@pytest.mark.parametrize("sent", [b"", b"GET / HT", POST + b"content-length: 9\r\n\r\n", GET + b"\r\n"])
async def test_a_client_with_many_connections_does_not_lock_others_out(sent: bytes) -> None:
    """Beyond the limit, the connection ends that waits for its client for the longest time, and a new client is answered."""
    async with _served(Pace(), max_connections=8) as echo, AsyncExitStack() as opened:
        for _ in range(24):
            _, writer = await asyncio.open_connection("127.0.0.1", echo.port)
            opened.callback(writer.close)
            writer.write(sent)
            await _server_reads()
        reader, writer = await asyncio.open_connection("127.0.0.1", echo.port)
        opened.callback(writer.close)
        writer.write(GET + b"connection: close\r\n\r\n")
        async with asyncio.timeout(30):
            answer = await reader.read()

    assert answer.startswith(b"HTTP/1.1 200")


@dataclass(eq=False)
class Client:
    """A connection with settable sizes."""

    unsent_bytes: int = 0
    read_bytes: int = 0
    is_closed: bool = False

    def abort(self) -> None:
        """Close the connection."""
        self.is_closed = True


class Time:
    """A settable time in seconds."""

    now = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def _clients(*sizes: int) -> tuple[Time, UnsentResponses, list[Client]]:
    """Connections with unsent bytes of *sizes* under a limit of 100 bytes, and a time at which none is young."""
    time, clients = Time(), [Client(size) for size in sizes]
    unsent = UnsentResponses(100, now=time)
    for client in clients:
        unsent.update(client, is_new=True)
    time.now = 10 * YOUNG_S
    return time, unsent, clients


@pytest.mark.parametrize(
    ("sizes", "read", "new", "closed"),
    [
        pytest.param((50, 50), (1, 2), 0, [0, 0, 0], id="none at the limit"),
        pytest.param((40, 40, 20), (500, 30, 90), 30, [0, 1, 0, 0], id="the slowest"),
        pytest.param((30, 30, 40), (1, 2, 3), 50, [1, 1, 0, 0], id="as many as a large response needs"),
        pytest.param((), (), 1000, [0], id="not a single response"),
    ],
)
def test_the_clients_that_read_the_slowest_are_closed(
    sizes: Sequence[int], read: Sequence[int], new: int, closed: list[int]
) -> None:
    """Above the limit, connections with the lowest rate are closed until the rest fits; the only response of a process is sent."""
    _, unsent, clients = _clients(*sizes)
    for client, bytes_ in zip(clients, read, strict=True):
        client.read_bytes = bytes_

    unsent.update(newcomer := Client(new), is_new=True)

    assert [client.is_closed for client in (*clients, newcomer)] == closed


def test_what_clients_have_read_meanwhile_does_not_count() -> None:
    """The sizes are measured again before a connection is closed."""
    _, unsent, clients = _clients(50, 50)
    for client in clients:
        client.unsent_bytes = 0

    unsent.update(Client(60), is_new=True)

    assert not any(client.is_closed for client in clients)


def test_a_closed_connection_does_not_count() -> None:
    """A removed connection makes room."""
    _, unsent, clients = _clients(50, 50)

    unsent.remove(clients[0])
    unsent.update(newcomer := Client(50), is_new=True)

    assert not clients[1].is_closed
    assert not newcomer.is_closed
