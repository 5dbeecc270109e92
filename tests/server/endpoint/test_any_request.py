"""Whatever is sent to an endpoint, it answers, and not as if the fault were its own."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.builders import a_workflow, python_step
from tests.server.endpoint.conftest import ECHO
from tests.server.site import Site, site_of

REQUESTS = 400
METHODS = [b"GET", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"HEAD", b"TRACE", b"PURGE", b"POST", b"POST"]
NAMES = [
    b"content-type", b"x-pd-environment", b"x-pd-external-user-id", b"x-pd-nostore", b"x-pd-notrigger", b"x-pd-upload-body",
    b"authorization", b"x-forwarded-host", b"x-forwarded-for", b"x-forwarded-proto", b"cookie", b"expect", b"accept",
    b"access-control-request-headers", b"content-encoding", b"x-any",
]  # fmt: skip
VALUES = [
    b"", b"1", b"application/json", b"application/json; charset=utf-16", b"multipart/form-data; boundary=x",
    b"multipart/form-data", b"application/x-www-form-urlencoded", b"text/plain; charset=idna", b"development", b"production",
    b"Bearer x", b"Basic eDp5", b"[::1]", b"eo1.m.pipedream.net", b"\xff\xfe", b"a" * 300, b"https", b"gzip", b"100-continue",
    b"application/json; charset=undefined", b"text/plain; charset=punycode", b"=;=;=",
]  # fmt: skip
BODIES = [
    b"", b"{}", b"[", b'{"a":', b'"\\ud800"', b'{"a": 1e999}', b"[" * 2000, b'{"a":' * 300 + b"1" + b"}" * 300, b"a=1&b", b"%",
    b"\xff\xfe\x00", b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x--\r\n',
    b'--x\r\nContent-Disposition: form-data; name="f"; filename="../../a"\r\n\r\n1\r\n--x--\r\n',
    b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--\r\n", b"--x\r\n\r\n", b"null", b"1" * 5000, b'{"a":1,"a":2}',
    b'{"$base64": "%%%"}', b"\x00", b"{}" * 5000,
]  # fmt: skip
PATHS = [
    "",
    "/",
    "/%00",
    "/..%2f..",
    "/%ff",
    "?",
    "?a",
    "?a=%ff&a",
    "?x-pd-nostore=1&x-pd-upload-body=1",
    "/http:/x",
    "//",
    "/é",
]


def request_of(chance: random.Random, path: str, host: str) -> bytes:
    """A request that HTTP allows, of parts that are odd."""
    body = chance.choice(BODIES)
    target = (
        chance.choice([path, f"/https:/{path[1:]}.m.pipedream.net", f"/wf{path}"]) + chance.choice(PATHS)
    ).encode()
    headers = [(chance.choice(NAMES), chance.choice(VALUES)) for _ in range(chance.randrange(5))]
    lines = [
        chance.choice(METHODS) + b" " + target.replace(b"\xc3\xa9", b"%C3%A9") + b" HTTP/1.1",
        b"host: " + host.encode(),
    ]
    lines += [name + b": " + value for name, value in headers if name != b"expect"]
    lines += [b"content-length: %d" % len(body), b"connection: close", b"", b""]
    return b"\r\n".join(lines) + body


async def status_of(site: Site, request: bytes) -> int:
    """The status of what is answered to *request*."""
    host, _, port = site.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        line = await asyncio.wait_for(reader.readline(), 30)
        await asyncio.wait_for(reader.read(), 30)
        return int(line.split()[1])
    finally:
        writer.close()


@pytest.mark.parametrize("seed", [1, 2])
async def test_odd_requests(tmp_path: Path, seed: int) -> None:
    """No answer is 409 or 5xx, and each run has its end in the journal."""
    chance = random.Random(seed)
    workflows = a_workflow(python_step("echo", ECHO), response="custom"), a_workflow(python_step(), name="Default")
    async with site_of(tmp_path, *workflows) as site:
        host = site.url.removeprefix("http://")
        answered: list[tuple[int, bytes]] = []
        for _ in range(REQUESTS // 8):
            requests = [request_of(chance, site.path(chance.choice(["Test", "Default"])), host) for _ in range(8)]
            statuses = await asyncio.gather(*(status_of(site, request) for request in requests))
            answered += zip(statuses, requests, strict=True)
        runs = await site.runs()

    assert [each for each in answered if each[0] >= 500 or each[0] == 409] == []
    assert {run.status for run in runs} <= {"success", "error", "exited"}
    assert any(status == 200 for status, _ in answered)


async def test_what_the_event_holds_can_be_written(tmp_path: Path) -> None:
    """Half a surrogate and a NUL go through the workflow, the journal and the run page."""
    body: Any = {"half": "\ud800", "nul": "\x00", "\u2028": "\u202e"}
    async with site_of(tmp_path, a_workflow(python_step("echo", ECHO), response="custom")) as site:
        answer = await site.http.post(
            site.path(), content=json.dumps(body), headers={"content-type": "application/json"}
        )
        (run,) = await site.runs()
        page = await site.http.get(f"/-/runs/{run.id}")

    assert answer.status_code == 200
    assert page.status_code == 200
    assert run.status == "success"
