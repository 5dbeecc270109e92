"""A gateway that routes to one server, which answers every request with the same JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from pdkernel import runtimes
from pdkernel.model import Language

StartedT = TypeVar("StartedT")

HOOK = Path(runtimes.__file__).parent / "node" / "egress_hook.mjs"
MARKS = Path(__file__).parent / "marks.mjs"

SILENCE_S = 10.0
"""Seconds before the connection of a client that waits for a greeting, such as a database's, is closed."""

_ITEM = {"id": "1", "name": "one", "title": "one", "ok": True, "status": "ok", "url": "https://stand-in.example/1"}
ANSWER = {
    **_ITEM,
    "data": [_ITEM],
    "items": [_ITEM],
    "results": [_ITEM],
    "channels": [_ITEM],
    "members": [_ITEM],
    "object": "list",
    "properties": {},
    "has_more": False,
}


class StandIn:
    """
    An `OutboundGateway` that connects to one local server.

    Attributes:
        requests: The received request lines, with the original host.
        status: The status of every response.
        answer: The body of every response.
    """

    def __init__(self, marks: Path) -> None:
        self.requests: list[str] = []
        self.status = "200 OK"
        self.answer: Any = ANSWER
        self._marks = marks
        self._server: asyncio.Server | None = None
        self._address = ""
        self._open: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 24)
        self._address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._open:
            writer.close()
        while self._open:
            await asyncio.sleep(0.01)

    def issue_token(self, *, public_only: bool = False) -> str:
        """Return one token for all workers."""
        return "sweep"

    async def check(self, policy: Any) -> None:
        """Accept every policy."""

    def bind(self, token: str, context: Any) -> None:
        """Do nothing."""

    def unbind(self, token: str) -> None:
        """Do nothing."""

    def revoke_token(self, token: str) -> None:
        """Return one token for all workers."""

    @property
    def sandbox_kind(self) -> str:
        """There is no sandbox, because there is no network."""
        return "none"

    def start_sandboxed(self, token: str, start_process: Callable[[], StartedT]) -> StartedT:
        """Start without a sandbox."""
        return start_process()

    def plan_sandbox(self, token: str) -> None:
        """Start without a sandbox."""

    def build_environment(self, token: str, language: Language) -> dict[str, str]:
        """Route a Node.js process to this server, and let it write its marks."""
        preloads = f"--import {HOOK.as_uri()} --import {MARKS.as_uri()}"
        return {
            "NODE_OPTIONS": preloads,
            "PDK_EGRESS": self._address,
            "PDK_TOKEN": token,
            "SWEEP_MARKS": str(self._marks),
        }

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            preamble: Mapping[str, Any] = json.loads((await reader.readline()).partition(b" ")[2] or b"{}")
            while True:
                head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SILENCE_S)).decode("latin-1")
                await _skip_body(reader, head)
                first = head.split("\r\n")[0]
                self.requests.append(f"{preamble.get('host')} {first}")
                body = json.dumps(self.answer).encode()
                writer.write(
                    f"HTTP/1.1 {self.status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
                    + (b"" if first.startswith("HEAD") else body)
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, TimeoutError, ValueError):
            pass  # the client has disconnected, or does not speak HTTP
        finally:
            writer.close()
            self._open.discard(writer)


async def _skip_body(reader: asyncio.StreamReader, head: str) -> None:
    for line in head.lower().split("\r\n"):
        if line.startswith("content-length:"):
            await reader.readexactly(int(line.split(":")[1]))
        elif line.startswith("transfer-encoding:") and "chunked" in line:
            while size := int((await reader.readline()).split(b";")[0], 16):
                await reader.readexactly(size + 2)
            await reader.readline()
