"""
The longest stop of a server's event loop, in ms, while it answers one hostile request of each kind.

A stopped loop answers no request. The requests are as large as the server accepts them, up to 1 MB. Another process sends them to a
served workflow. The script prints the least of several tries, because other processes of the machine stop the loop too; every try
sends another request. The first figure is that of an ordinary body. Then steps export hostile values of 1 MB and of 6 MB, the limit of
a run; "page" and "list" are the longest stops while the console shows the run, and lists its runs as JSON.

`python tests/benchmarks/bench_loop_stops.py`
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pdkernel.model import MAX_PAYLOAD_BYTES
from pdkernel.server.console_sessions import hash_admin_token
from tests.builders import a_workflow, python_step
from tests.server.site import Site, site_of

AIM_MS = 50
TRIES = 3
SIZE = 1 << 20
BODY = 512 * 1024 - 64
"""Bytes of a body that the server accepts."""
TICK_S = 0.001
JSON, FORM, PARTS = "application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"
CLIENT = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
    connection.sendall(sys.stdin.buffer.read())
    print(connection.recv(65536).split(b" ")[1].decode())
"""


@dataclass(frozen=True)
class Hostile:
    """A request: a *name* for the table, its *body*, *kind* (media type) and *target* behind the endpoint's path."""

    name: str
    body: bytes = b""
    kind: str = JSON
    target: str = ""
    headers: str = ""


def repeated(text: bytes, size: int = BODY) -> bytes:
    """*text* until *size* bytes."""
    return text * (size // len(text))


def in_list(item: bytes) -> bytes:
    """A JSON list of equal items."""
    return b"[" + b",".join([item] * ((BODY - 2) // (len(item) + 1))) + b"]"


def bodies() -> Iterator[Hostile]:
    """The requests; the first is an ordinary one."""
    yield Hostile("ordinary body", in_list(b'{"name": "Ada Lovelace", "amount": 12.5}'))
    yield Hostile("1 MB, refused", repeated(b"x", SIZE))
    yield Hostile("objects", in_list(b"{}"))
    yield Hostile("lists", in_list(b"[]"))
    yield Hostile("deep lists", in_list(b"[" * 250 + b"]" * 250))
    yield Hostile("open brackets", repeated(b"["))
    yield Hostile("keys", b"{" + b",".join(b'"%d":0' % number for number in range(50_000)) + b"}")
    yield Hostile("one integer", repeated(b"9"))
    yield Hostile("integers of 209 digits", in_list(b"9" * 209))
    yield Hostile("integers of 4,300 digits", in_list(b"9" * 4300))
    yield Hostile("exponents", in_list(b"1e100"))
    yield Hostile("lone surrogates", in_list(b'"\\ud800"'))
    yield Hostile("texts before NaN", b"[" + repeated(b'"\\"",', BODY - 8) + b"NaN]")
    yield Hostile("texts of braces", b'"' + repeated(b"{{") + b'"')
    yield Hostile("placeholders", b'["' + repeated("⟦secret:".encode(), BODY - 8) + b'"]')
    yield Hostile("a form of %", b"a=" + repeated(b"%"), FORM)
    yield Hostile("a form of %4", b"a=" + repeated(b"%4"), FORM)
    yield Hostile("a form of escapes", b"a=" + repeated(b"%41a"), FORM)
    yield Hostile("a form of fields", repeated(b"a&"), FORM)
    yield Hostile("a form as JSON", b"a=" + repeated(b"%"), JSON)
    yield Hostile("a text in UTF-7", repeated(b"+"), "text/plain; charset=utf-7")
    yield Hostile("bytes as UTF-7", repeated(b"\xff"), "text/plain; charset=utf-7")
    yield Hostile(
        "parts", repeated(b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\n\r\n') + b"--x--\r\n", PARTS
    )
    yield Hostile(
        "a part of line breaks",
        b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\n' + repeated(b"\r\n-", SIZE),
        PARTS,
    )
    yield Hostile(
        "a boundary in parts",
        b'--x\r\ncontent-disposition: form-data; name="a"; filename="a"\r\n\r\n' + repeated(b"\r\n--", SIZE),
        PARTS,
    )
    yield Hostile("a part's header", b"--x\r\ncontent-disposition: form-data; name=" + repeated(b'a;"', BODY), PARTS)
    yield Hostile("a query of %", target="?a=" + "%" * 60_000)
    yield Hostile("a query of fields", target="?" + "&a" * 30_000)
    yield Hostile("a path of slashes", target="/" * 60_000)
    yield Hostile("a path of %", target="/" + "%2f" * 20_000)
    yield Hostile("headers", headers="a: b\r\n" * 10_000)
    yield Hostile("header names", headers="".join(f"x-{number}: b\r\n" for number in range(6_000)))
    yield Hostile("media type", headers="content-type: " + "a;charset=b" * 5_000 + "\r\n")
    yield Hostile("cookies", headers="cookie: " + "a=b;" * 15_000 + "\r\n")


def exports(size: int) -> Iterator[tuple[str, str]]:
    """Steps by name: each returns hostile values of *size* bytes; the first are ordinary ones."""
    deep = "r = []\n    for _ in range(199): r = [r]\n    rows.append(r)"
    yield "ordinary records", f"return [{{'id': n, 'name': 'Ada', 'ok': True}} for n in range({size // 38})]"
    yield "a text", f"return 'x' * {size}"
    yield "integers", f"return [1] * {size // 2}"
    yield "fractions", f"return [1.5] * {size // 4}"
    yield "short texts", f"return ['a'] * {size // 4}"
    yield "keys", f"return {{str(n): 0 for n in range({size // 12})}}"
    yield "small lists", f"return [[] for _ in range({min(size // 3, 499_000)})]"
    yield "more lists than the limit", f"return [[] for _ in range({size // 3 + 400_000})]"
    yield "deep lists", f"rows = []\nfor _ in range({min(size // 401, 2400)}):\n    {deep}\nreturn rows"
    yield "text of placeholders", f"return '⟦secret:' * {size // 11}"
    yield "texts of placeholders", f"return ['⟦secret:a⟧'] * {size // 18}"
    yield "a placeholder and lists", f"return ['⟦secret:a⟧'] + [[] for _ in range({min(size // 3, 499_000)})]"
    yield "many exports", f"for n in range({size // 300}): pd.export(str(n), n)"


class LoopWatch:
    """Measures the longest stop of the running event loop, in seconds."""

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def run(self) -> None:
        """Watch until the task is cancelled."""
        before = time.perf_counter()
        while True:
            await asyncio.sleep(TICK_S)
            now = time.perf_counter()
            self.longest_s = max(self.longest_s, now - before - TICK_S)
            before = now


async def send(site: Site, hostile: Hostile, number: int) -> tuple[float, str]:
    """The longest stop in ms during a request, and the status of its response; a *number* of blanks makes each request another."""
    lines = [f"POST {site.path()}{hostile.target} HTTP/1.1", "Host: localhost", "connection: close"]
    if "content-type:" not in hostile.headers:
        lines.append(f"content-type: {hostile.kind}")
    head = "\r\n".join([*lines, f"content-length: {len(hostile.body) + number}", ""]) + f"\r\n{hostile.headers}\r\n"
    if hostile.headers:
        head = "\r\n".join([*lines, f"content-length: {len(hostile.body) + number}"]) + f"\r\n{hostile.headers}\r\n"
    client = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CLIENT,
        str(urlsplit(site.url).port),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    watch = LoopWatch()
    watching = asyncio.create_task(watch.run())
    answer, _ = await client.communicate(head.encode("latin-1") + hostile.body + b" " * number)
    await site.runs()  # until the run is recorded
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    return watch.longest_s * 1000, answer.decode().strip() or "closed"


async def watch(work: Awaitable[object]) -> float:
    """The longest stop in ms until *work* is done."""
    watched = LoopWatch()
    watching = asyncio.create_task(watched.run())
    await work
    await asyncio.sleep(2 * TICK_S)
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    return watched.longest_s * 1000


async def get(site: Site, path: str, token: str, accept: str) -> None:
    """Get a page of the console by another process."""
    headers = ("-H", f"accept: {accept}", "-H", f"authorization: Bearer {token}")
    client = await asyncio.create_subprocess_exec("curl", "-sfo", os.devnull, *headers, site.url + path)
    assert await client.wait() == 0, path


async def export(site: Site, token: str) -> list[float]:
    """The longest stops in ms of a run, of its page, and of the list of runs."""
    run = await watch(send(site, Hostile("run", b"{}"), 0))
    run_id = (await site.runs())[-1].id
    page = await watch(get(site, f"/-/runs/{run_id}", token, "text/html"))
    return [run, page, await watch(get(site, "/-/runs", token, "application/json"))]


async def measure_bodies() -> None:
    """Print the longest stops of requests."""
    step = python_step("done", "return 1")
    with tempfile.TemporaryDirectory() as folder:
        async with site_of(Path(folder), a_workflow(step), applies_rate_limits=False) as site:
            for hostile in bodies():
                tries = [await send(site, hostile, number) for number in range(TRIES)]
                stop, status = min(tries)
                mark = "" if stop <= AIM_MS else f"  above {AIM_MS}"
                print(f"{hostile.name:28}  {stop:8,.1f} ms  {status}{mark}", flush=True)


async def measure_exports(size: int) -> None:
    """Print the longest stops of runs whose step exports *size* bytes."""
    token = secrets.token_hex(32)
    print(f"\n{f'exports of {size >> 20} MB':28}  {'run':>8}     {'page':>8}     {'list':>8}")
    for name, body in exports(size):
        with tempfile.TemporaryDirectory() as folder:
            workflow, admin = a_workflow(python_step("done", body)), hash_admin_token(token)
            async with site_of(Path(folder), workflow, applies_rate_limits=False, admin_token_hash=admin) as site:
                await send(site, Hostile("first run", b"{}"), 0)  # starts the worker
                tries = [await export(site, token) for _ in range(TRIES)]
        stops = [min(each) for each in zip(*tries, strict=True)]
        print(f"{name:28}  {'  '.join(f'{stop:8,.1f} ms' for stop in stops)}", flush=True)


async def main() -> None:
    """Print the longest stops."""
    await measure_bodies()
    for size in (SIZE, MAX_PAYLOAD_BYTES - 4096):
        await measure_exports(size)


if __name__ == "__main__":
    asyncio.run(main())
