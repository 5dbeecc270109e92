"""Raw bytes over a socket: unusual, slow, truncated and invalid requests."""

from __future__ import annotations

import asyncio
import gzip
import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from pdkernel.storage import Project
from tests.server.fuzz.target import LASTS_S, REQUESTS, Target, shows_internals, target

COUNT = REQUESTS * 11 // 20
AT_ONCE = 8

METHODS = [
    b"GET",
    b"POST",
    b"POST",
    b"POST",
    b"PUT",
    b"DELETE",
    b"OPTIONS",
    b"HEAD",
    b"TRACE",
    b"PURGE",
    b"G\xe4T",
    b"get",
]
NAMES = [
    b"content-type", b"content-type", b"x-pd-environment", b"x-pd-external-user-id", b"x-pd-nostore", b"x-pd-notrigger",
    b"x-pd-upload-body", b"authorization", b"x-forwarded-host", b"x-forwarded-for", b"x-forwarded-proto", b"cookie", b"accept",
    b"access-control-request-headers", b"origin", b"content-encoding", b"connection", b"expect", b"upgrade", b"range", b"x-any",
    b"x any", b"",
]  # fmt: skip
VALUES = [
    b"", b"1", b"application/json", b"application/json; charset=utf-16", b"multipart/form-data; boundary=x",
    b"multipart/form-data", b"multipart/form-data; boundary=" + b"y" * 300, b"multipart/form-data; boundary=x; charset=idna",
    b"application/x-www-form-urlencoded", b"text/plain; charset=idna", b"text/plain; charset=unicode_escape", b"development",
    b"production", b"Bearer x", b"Bearer", b"Basic eDp5", b"[::1]", b"eo1.m.pipedream.net", b"evil.example", b"10.0.0.1, ::1",
    b"\xff\xfe", b"\x9b31m", b"a" * 300, b"https", b"gzip", b"100-continue", b"websocket", b"bytes=0-,0-,0-", b"close",
    b"application/json; charset=undefined", b"text/plain; charset=punycode", b"text/plain; charset=zlib", b"=;=;=", b"a\x00b",
]  # fmt: skip
BODIES = [
    b"", b"{}", b"[", b'{"a":', b'"\\ud800"', b'{"a": 1e999}', b"[" * 2000, b'{"a":' * 300 + b"1" + b"}" * 300, b"a=1&b", b"%",
    b"\xff\xfe\x00", b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x--\r\n',
    b'--x\r\nContent-Disposition: form-data; name="f"; filename="../../a"\r\n\r\n1\r\n--x--\r\n',
    b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--\r\n", b"--x\r\n\r\n", b"--x\r\nA: " + b"b" * 20_000, b"null",
    b"1" * 5000, b'{"a":1,"a":2}', b'{"$base64": "%%%"}', b"\x00", b"{}" * 5000, gzip.compress(b'{"a": 1}'),
    b"(large)", b"(large)", b"(no text)", b"(no text)",
]  # fmt: skip
LARGE = {b"(large)": b'"' + b"a" * 600_000 + b'"', b"(no text)": b"\x80" * 300_000}
"""Large bodies by name: hypothesis prints the arguments of a failed test."""
ENDS = [
    b"", b"", b"/", b"/%00", b"/..%2f..", b"/../..//./", b"/%2e%2e/%2e", b"/%ff", b"/%0a", b"?", b"?a", b"?a=%ff&a",
    b"?x-pd-nostore=1&x-pd-upload-body=1", b"?x-pd-notrigger=1", b"?pipedream_upload_body=1", b"/http:/x", b"//",
    b"/%C3%A9", b"/\xc3\xa9", b"#x", b"?" + b"&".join([b"a=1"] * 500), b"/" + b"p" * 3000,
]  # fmt: skip


@dataclass(frozen=True)
class Sent:
    """
    A request in bytes.

    Attributes:
        method: The method.
        path: The target.
        host: The Host header.
        headers: Other headers.
        huge: Length of another header.
        body: The body, or the name of a large body.
        framing: How the request declares the end of the body, right or wrong.
        cut: Number of bytes after which the connection ends, or None.
        pieces: Number of parts that are sent with pauses.
    """

    method: bytes
    path: bytes
    host: bytes
    headers: list[tuple[bytes, bytes]]
    huge: int
    body: bytes
    framing: str
    cut: int | None
    pieces: int

    @property
    def waits(self) -> bool:
        """Whether the server waits for more data after this request."""
        return self.cut is not None or self.framing in ("longer", "no end")

    @property
    def raw(self) -> bytes:
        """The bytes of the request."""
        lines = [self.method + b" " + self.path + b" HTTP/1.1", b"host: " + self.host]
        lines += [name + b": " + value for name, value in self.headers]
        lines += [b"x-huge: " + b"h" * self.huge] if self.huge else []
        body = LARGE.get(self.body, self.body)
        chunked = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
        lengths, written = {
            "length": ([len(body)], body),
            "longer": ([len(body) + 10], body),
            "shorter": ([max(0, len(body) - 3)], body),
            "two": ([len(body), len(body) + 1], body),
            "both": ([len(body)], chunked + b"0\r\n\r\n"),
            "chunks": ([], chunked + b"0\r\nx-trailer: 1\r\n\r\n"),
            "no end": ([], chunked),
            "bad chunk": ([], b"zz\r\n" + body),
            "none": ([], body),
        }[self.framing]
        lines += [b"content-length: %d" % length for length in lengths]
        if self.framing in ("both", "chunks", "no end", "bad chunk"):
            lines.append(b"transfer-encoding: chunked")
        return (b"\r\n".join([*lines, b"connection: close", b"", b""]) + written)[: self.cut]


def requests_to(aim: Target) -> st.SearchStrategy[Sent]:
    """Valid and invalid requests to endpoints."""
    keys = [key.encode() for key in aim.keys.values()]
    mangled = [b"https:/%s.m.pipedream.net" % key for key in keys] + [b"http:/127.0.0.1/%s" % key for key in keys]
    others = [b"v1/oauth/token", b"-/runs/x", b"-/uploads/..%2fkey", b"resume/a/b", b"unknown", b"wf/" + keys[0], b""]
    targets = st.builds(
        lambda start, way, end: start + way + end,
        st.sampled_from([b"/"] * 20 + [b"//", b"", b"http://evil.example/", b"/../", b"/x/y/"]),
        st.sampled_from([*keys * 2, *keys[:2] * 6, *mangled, *others]),
        st.sampled_from(ENDS),
    )
    own = ":".join(map(str, aim.address)).encode()
    hosts = st.sampled_from(
        [own] * 30
        + [b"localhost", keys[0] + b".m.pipedream.net", keys[1] + b".localhost", b"evil.example", b"", b"[::1", b"a b"]
    )
    headers = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=4)
    huge = st.sampled_from([0] * 30 + [9_000, 70_000])
    return st.builds(
        Sent,
        st.sampled_from(METHODS),
        targets,
        hosts,
        headers,
        huge,
        st.sampled_from([*BODIES, *[*LARGE] * 4]) | st.sampled_from(BODIES) | st.binary(max_size=200) | _json(),
        st.sampled_from(
            ["length"] * 30 + ["chunks"] * 10 + ["no end", "bad chunk", "longer", "shorter", "both", "two", "none"]
        ),
        st.sampled_from([None] * 270 + list(range(0, 400, 13))),
        st.sampled_from([1] * 6 + [3, 10]),
    )


def _json() -> st.SearchStrategy[bytes]:
    leaves = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20) | st.just("\ud800")
    values = st.recursive(
        leaves, lambda held: st.lists(held, max_size=3) | st.dictionaries(st.text(max_size=9), held, max_size=3)
    )
    return values.map(lambda value: json.dumps(value).encode())


async def send(aim: Target, sent: Sent) -> bytes:
    """Send a request, and read until the server closes the connection."""
    host, port = aim.address
    reader, writer = await asyncio.open_connection(host, port)
    try:
        raw = sent.raw
        size = max(1, len(raw) // sent.pieces + 1)
        for start in range(0, len(raw), size):
            writer.write(raw[start : start + size])
            await writer.drain()
            if sent.pieces > 1:
                await asyncio.sleep(0.002)
        if sent.waits:
            writer.write_eof()
        return await asyncio.wait_for(reader.read(), 60)
    except OSError:
        return b""  # the server does not read the rest of a rejected request
    finally:
        writer.close()


@pytest.mark.filterwarnings("ignore:Generating overly large repr")  # eight requests with bodies of some thousand bytes
@pytest.mark.timeout(LASTS_S)
def test_unusual_requests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each request is answered or its connection closed; every run ends, and the server does not grow."""
    statuses: dict[int, int] = {}
    with target(tmp_path) as aim, asyncio.Runner() as runner:

        @seed(4)
        @settings(
            max_examples=max(1, COUNT // AT_ONCE),
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(batch=st.lists(requests_to(aim), min_size=AT_ONCE, max_size=AT_ONCE))
        def odd(batch: list[Sent]) -> None:
            answers = runner.run(_all(aim, batch))
            for sent, answer in zip(batch, answers, strict=True):
                status = _check(aim, sent, answer)
                statuses[status] = statuses.get(status, 0) + 1
            aim.sent += len(batch)
            if aim.warm == 0 and aim.sent >= COUNT // 4:
                aim.start_measuring()

        odd()
        aim.check(capsys)
        project = aim.project
    runs = _runs(project)
    with capsys.disabled():
        print(f"responses by status (0: none): {dict(sorted(statuses.items()))}; runs by status: {runs}")

    assert {200, 204, 400, 401, 404, 413, 421} <= set(statuses)
    assert runs["success"] > statuses[200] / 4
    assert set(runs) <= {"success", "error"}


async def _all(aim: Target, batch: list[Sent]) -> list[bytes]:
    return list(await asyncio.gather(*(send(aim, sent) for sent in batch)))


def _check(aim: Target, sent: Sent, answer: bytes) -> int:
    """Check a response; returns its status, or 0 without a response."""
    context = f"{sent.raw[:600]!r}\n -> {answer[:600]!r}"
    answer = answer.removeprefix(b"HTTP/1.1 100 \r\n\r\n")
    if not answer:
        return 0
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    status = int(lines[0].split()[1])
    assert status != 409, context
    assert status < 500 or (status == 501 and (b"resume/" in sent.path or b"v1/" in sent.path)), context
    assert not shows_internals(answer), context
    assert [secret for secret in aim.secrets if secret.encode() in answer] == [], context
    if status >= 400 and not body.startswith((b"{", b"<")) and b"Invalid HTTP" not in body and sent.method != b"HEAD":
        assert body.count(b"\n") <= 2, context  # the error and the fix
    return status


def _runs(project: Project) -> dict[str, int]:
    """The number of runs in the journal by status."""
    assert project.sqlite_path is not None
    with closing(sqlite3.connect(project.sqlite_path)) as database:
        return dict(database.execute("select status, count(*) from runs group by status").fetchall())
