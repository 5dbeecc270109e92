"""HTTP/1.1 on a connection, byte for byte: what is a request, what is refused, and what is left of a connection then."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

from pdkernel.server.http_protocol import MAX_HEADER_BYTES, Pace
from pdkernel.server.uvicorn_server import UvicornServer, listen

HOST = b"host: localhost\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST
POST = b"POST / HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
TWO = b"2\r\nhi\r\n0\r\n\r\n"


@dataclass
class Echo:
    """
    A server that answers each request with what it was.

    Attributes:
        port: Where.
        told: Paths of the requests that the application was told of.
        gone: Those whose caller went away, as far as it was told.
        wait: Held back until this is set are answers to paths that begin with /slow, and the reading of bodies to /late.
    """

    port: int = 0
    told: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    wait: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        request = Request(scope, receive)
        path = request.url.path
        self.told.append(path)
        if path.startswith("/late"):
            await self.wait.wait()
        try:
            body = await request.body()
        except ClientDisconnect:
            self.gone.append(path)
            return
        if path.startswith("/slow"):
            await self.wait.wait()
        if path == "/leaves":
            await receive()
            self.gone.append(path)
        headers = [[name, value] for name, value in request.headers.items() if name != "host"]
        said = {"method": request.method, "path": path, "query": request.url.query, "headers": headers}
        answer = JSONResponse({**said, "body": body.decode()})
        if path == "/stream":
            await StreamingResponse(_parts(answer.body))(scope, receive, send)
        else:
            await answer(scope, receive, send)

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection."""
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def say(self, *parts: bytes) -> bytes:
        """What is answered to *parts*, each sent by itself, until the server closes."""
        reader, writer = await self.open()
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0.02)
        said = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        return said

    async def ask(self, *parts: bytes) -> list[dict[str, Any]]:
        """The requests that the application saw in *parts*, the last of which is followed by one that closes."""
        said = await self.say(*parts, GET + b"connection: close\r\n\r\n")
        seen = [json.loads(each.partition(b"\r\n\r\n")[2]) for each in said.split(b"HTTP/1.1 200 OK\r\n")[1:]]
        assert seen.pop()["headers"] == [["connection", "close"]]
        return seen


async def _parts(body: Any) -> AsyncIterator[bytes]:
    yield bytes(body)[:10]
    yield bytes(body)[10:]


@pytest.fixture
async def echo(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Echo]:
    """It, whose log has no traceback at the end."""
    async with _served(Pace()) as app:
        yield app
    assert [record.message for record in caplog.records if record.exc_info] == []


@pytest.fixture
async def hasty(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Echo]:
    """It, with little patience: half a second for a head, a byte a second for a body."""
    async with _served(Pace(head_s=0.5, body_window_s=1.0, body_bytes_per_s=1.0)) as app:
        yield app
    assert [record.message for record in caplog.records if record.exc_info] == []


@asynccontextmanager
async def _served(pace: Pace) -> AsyncIterator[Echo]:
    app = Echo()
    opened = listen("127.0.0.1", 0)
    app.port = opened.getsockname()[1]
    ready = asyncio.Event()
    server = UvicornServer(Starlette(routes=[Mount("/", app)]), pace=pace, on_ready=ready.set)
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
        pytest.param(b"get / HTTP/1.1\r\n" + HOST + b"\r\n", id="a method that is none"),
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
        pytest.param(GET + b"x(a): b\r\n\r\n", id="name that is no token"),
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
async def test_what_is_no_request(echo: Echo, request_: bytes) -> None:
    """It is answered 400, the connection closes, and what follows is nobody's; the application is not told."""
    answer = await echo.say(request_ + GET + b"\r\n")

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert b"connection: close" in answer
    assert echo.told == []


@pytest.mark.parametrize(
    "body",
    [b"2 \r\nhi\r\n0\r\n\r\n", b"0x2\r\nhi\r\n0\r\n\r\n", b"2\nhi\r\n0\r\n\r\n", b"2\r\nhi\n0\r\n\r\n", b"2\r\nhi0\r\n\r\n",
     b"2\r\nhiXX0\r\n\r\n", b"10000000000000002\r\nhi\r\n0\r\n\r\n", b"2;a\nhi\r\n0\r\n\r\n", b"2\r\nhi\r\n0\r\nx a: b\r\n\r\n",
     b"2\r\nhi\r\n0\r\ncontent-length: 5\r\n\r\n", b"no chunk\r\n"],
)  # fmt: skip
async def test_what_is_no_chunk(echo: Echo, body: bytes) -> None:
    """It is answered 400, the connection closes, and the application has no body."""
    answer = await echo.say(CHUNKED, body + GET + b"\r\n")

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert echo.told == echo.gone == ["/"]


async def test_a_broken_body_of_head(echo: Echo) -> None:
    """The answer to HEAD has no body, whatever it is."""
    answer = await echo.say(b"HEAD" + CHUNKED[4:], b"no chunk\r\n")

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
async def test_what_does_not_end(echo: Echo, start: bytes, more: bytes) -> None:
    """The connection ends once there is more of it than a head may have."""
    _, writer = await echo.open()
    writer.write(start)
    await asyncio.sleep(0.02)
    sent = len(start) + await _until_closed(writer, more, 4 * MAX_HEADER_BYTES)
    writer.close()

    assert MAX_HEADER_BYTES <= sent < 2 * MAX_HEADER_BYTES


async def _until_closed(writer: asyncio.StreamWriter, more: bytes, most: int) -> int:
    """How much could be sent."""
    sent = 0
    with suppress(ConnectionError):
        while sent < most:
            writer.write(more)
            await writer.drain()
            sent += len(more)
            await asyncio.sleep(0.001)
    return sent


async def test_white_space_around_a_value(echo: Echo) -> None:
    """It is none of the value."""
    (seen,) = await echo.ask(GET + b"x-a:  \t b c \t \r\nx-b:\r\n\r\n")

    assert seen["headers"] == [["x-a", "b c"], ["x-b", ""]]


async def test_trailers(echo: Echo) -> None:
    """What follows a body's last chunk is no header of the request's: nothing has checked it."""
    (seen,) = await echo.ask(CHUNKED, b"2;a=b\r\nhi\r\n0\r\nx-pd-environment: production\r\n\r\n")

    assert (seen["headers"], seen["body"]) == ([["transfer-encoding", "chunked"]], "hi")


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
async def test_a_request_for_another_protocol(echo: Echo, protocol: bytes) -> None:
    """It is answered as if it had not asked; its body is its own, and not the next request."""
    smuggled = b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"
    asking = b"connection: upgrade\r\nupgrade: %b\r\n" % protocol
    sized = POST + asking + b"content-length: %d\r\n\r\n" % len(smuggled)
    chunked = POST + asking + b"transfer-encoding: chunked\r\n\r\n"

    seen = await echo.ask(GET + asking + b"\r\n" + sized, smuggled + chunked + TWO + sized + smuggled)

    assert [each["body"] for each in seen] == ["", smuggled.decode(), "hi", smuggled.decode()]
    assert set(echo.told) == {"/"}


async def test_requests_at_once(echo: Echo) -> None:
    """Requests that do not wait for answers are answered one after the other, in order."""
    echo.wait.set()
    body = b"content-length: 2\r\n\r\nhi"

    seen = await echo.ask(
        b"".join(method + b" /slow%d HTTP/1.1\r\n" % n + HOST + body for n, method in enumerate([b"POST", b"PUT"]))
    )

    assert [(each["method"], each["path"], each["body"]) for each in seen] == [
        ("POST", "/slow0", "hi"),
        ("PUT", "/slow1", "hi"),
    ]


async def test_very_many_requests_at_once(echo: Echo) -> None:
    """They are read as they are answered: what a caller sends without end stays with the caller."""
    reader, writer = await echo.open()
    slow = b"GET /slow HTTP/1.1\r\n" + HOST + b"\r\n"
    writer.write((GET + b"\r\n") * 300 + slow + (GET + b"\r\n") * 450_000)
    while "/slow" not in echo.told:
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.2)
    kept = writer.transport.get_write_buffer_size()
    echo.wait.set()
    said = await reader.readexactly(100_000)
    writer.transport.abort()

    assert kept > 1_000_000  # the rest is with the system
    assert said.count(b"HTTP/1.1 200 ") > 300


async def test_what_follows_a_request_is_none(echo: Echo) -> None:
    """The request is whole and has its answer; then the connection closes."""
    reader, writer = await echo.open()
    writer.write(b"GET /slow HTTP/1.1\r\n" + HOST + b"\r\n")
    await asyncio.sleep(0.02)
    writer.write(b"\x00\r\n\r\n" + GET + b"\r\n")
    await asyncio.sleep(0.02)
    echo.wait.set()
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert echo.told == ["/slow"]


async def test_a_broken_body_behind_another_request(echo: Echo) -> None:
    """The connection closes without a word: a 400 would be taken for the answer to the request before."""
    answer = await echo.say(b"GET /slow HTTP/1.1\r\n" + HOST + b"\r\n" + CHUNKED + b"no chunk\r\n")

    assert answer == b""
    assert echo.told == ["/slow"]


async def test_callers_who_go_away_with_requests_at_once(echo: Echo) -> None:
    """Whoever answers the first is told, and the others are not begun."""
    _, writer = await echo.open()
    writer.write(b"GET /leaves HTTP/1.1\r\n" + HOST + b"\r\n" + GET + b"\r\n")
    await asyncio.sleep(0.05)
    writer.transport.abort()
    await asyncio.sleep(0.05)

    assert echo.told == echo.gone == ["/leaves"]


async def test_expect(echo: Echo) -> None:
    """A client that waits for it is told to go on; one of HTTP/1.0 knows no such answer."""
    head = b"POST / HTTP/1.%d\r\n" + HOST + b"expect: 100-continue\r\ncontent-length: 2\r\nconnection: close\r\n\r\n"

    answers = [await echo.say(head % minor, b"hi") for minor in (0, 1)]

    assert [answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ") for answer in answers] == [False, True]
    assert answers[0].startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("path", [b"/", b"/stream"])
async def test_http_1_0(echo: Echo, path: bytes) -> None:
    """The answer says its length, since chunks are not known there, and the connection closes."""
    answer = await echo.say(b"GET " + path + b" HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")

    assert b"content-length: %d" % len(body) in head
    assert b"transfer-encoding" not in head
    assert json.loads(body)["path"] == path.decode()


async def test_the_servers_name(echo: Echo) -> None:
    """No answer has it, be it a refusal."""
    answers = await echo.say(GET + b"connection: close\r\n\r\n"), await echo.say(b"no request\r\n\r\n")

    assert [b"\r\nserver:" in answer.lower() for answer in answers] == [False, False]


async def the_limits_to_pass(app: Echo) -> None:
    """Wait until connections that sent half a head and half a body now have been closed."""
    await asyncio.gather(app.say(b"GET /"), app.say(POST + b"content-length: 9\r\n\r\n"))


@pytest.mark.parametrize("head", [b"G", GET[:-2], GET + b"x-a: b", b"\r\nGET /"])
async def test_a_head_that_does_not_end(hasty: Echo, head: bytes) -> None:
    """Half a head is answered 408 once its time is over, and the connection closes; the application is not told."""
    answer = await hasty.say(head)

    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"connection: close" in answer
    assert hasty.told == []


async def test_a_head_that_comes_byte_by_byte(hasty: Echo) -> None:
    """Bytes that keep coming do not extend the time of a head."""
    reader, writer = await hasty.open()
    answer = asyncio.ensure_future(reader.read())
    writer.write(GET)
    while not (await asyncio.wait({answer}, timeout=0.05))[0]:
        writer.write(b"x-a: b\r\n")
    writer.close()

    assert answer.result().startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("sent", [b"", b"\r\n"])
async def test_a_connection_without_a_request(hasty: Echo, sent: bytes) -> None:
    """A connection on which no request begins is closed without an answer."""
    assert await hasty.say(sent) == b""


async def test_a_slow_head_after_an_answer(hasty: Echo) -> None:
    """A kept connection has the same limit for its next head."""
    answer = await hasty.say(GET + b"\r\nGET /second")

    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"HTTP/1.1 408 " in answer
    assert hasty.told == ["/"]


async def test_a_slow_head_behind_a_slow_answer(hasty: Echo) -> None:
    """A request that is whole has its answer, however slow the head behind it is; then the connection closes."""
    answer = asyncio.ensure_future(hasty.say(b"GET /slow HTTP/1.1\r\n" + HOST + b"\r\nGET /second"))
    await the_limits_to_pass(hasty)
    hasty.wait.set()

    assert (await answer).startswith(b"HTTP/1.1 200 OK")
    assert b"408" not in await answer


@pytest.mark.parametrize(
    "start", [POST + b"content-length: 9\r\n\r\n", CHUNKED, CHUNKED + b"1\r\na\r\n", CHUNKED + TWO[:-2]]
)
async def test_a_body_that_stops(hasty: Echo, start: bytes) -> None:
    """A body of which too little comes is answered 408; the application learns that its caller has gone."""
    answer = await hasty.say(start)

    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert hasty.told == hasty.gone == ["/"]


async def test_a_body_at_the_least_rate(hasty: Echo) -> None:
    """A body may take longer than the window over which its rate is averaged."""
    reader, writer = await hasty.open()
    writer.write(POST + b"connection: close\r\ncontent-length: 30\r\n\r\n")
    answer = asyncio.ensure_future(reader.read())
    for _ in range(30):
        writer.write(b"a")
        await asyncio.wait({answer}, timeout=0.1)
    writer.close()

    assert (await answer).startswith(b"HTTP/1.1 200 OK")


async def test_a_request_that_takes_the_application_long(hasty: Echo) -> None:
    """The limits are of what the client sends: an answer may come later."""
    answer = asyncio.ensure_future(hasty.ask(b"POST /slow HTTP/1.1\r\n" + HOST + b"content-length: 2\r\n\r\nhi"))
    await the_limits_to_pass(hasty)
    hasty.wait.set()

    assert [seen["body"] for seen in await answer] == ["hi"]


async def test_a_body_that_is_read_late(hasty: Echo) -> None:
    """While the server does not read, the client may not send, and is not too slow."""
    body = b"a" * (8 << 20)
    head = b"POST /late HTTP/1.1\r\n" + HOST + b"content-length: %d\r\n\r\n" % len(body)
    answer = asyncio.ensure_future(hasty.ask(head + body))
    await the_limits_to_pass(hasty)
    hasty.wait.set()

    assert [len(seen["body"]) for seen in await answer] == [len(body)]


async def test_a_body_that_is_asked_for_late(hasty: Echo) -> None:
    """A client that waits for `100 Continue` is not too slow."""
    reader, writer = await hasty.open()
    ask = b"connection: close\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n"
    writer.write(b"POST /late HTTP/1.1\r\n" + HOST + ask)
    await the_limits_to_pass(hasty)
    hasty.wait.set()

    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"hi")
    assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
    writer.close()
