"""The start of a server beside a notebook's kernel."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.applications import Starlette

from pdkernel.errors import InternalError
from pdkernel.server.uvicorn_server import UvicornServer, listen, local_url


async def test_start_returns_when_the_server_accepts_requests() -> None:
    """A request right after `start` is answered; the task ends after `stop`."""
    opened = listen("127.0.0.1", 0)
    server = UvicornServer(Starlette())
    serving = await server.start(opened)
    async with httpx.AsyncClient() as http:
        answer = await http.get(local_url(opened, "127.0.0.1", tls=False))
    server.stop()
    await asyncio.wait_for(serving, 10)

    assert answer.status_code == 404


async def test_a_server_that_cannot_start_raises_the_reason() -> None:
    """If uvicorn cannot serve the socket, `start` raises the system's error instead of waiting."""
    opened = listen("127.0.0.1", 0)
    opened.close()

    with pytest.raises(InternalError, match=r"The server did not start: .*Bad file descriptor"):
        await asyncio.wait_for(UvicornServer(Starlette()).start(opened), 10)
