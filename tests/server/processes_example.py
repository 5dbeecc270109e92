"""
Several processes that answer requests with their process id, in a process of its own.

Arguments: the number of processes, and a file. A process whose number is in the file ends before it accepts: with status 7,
    or with 0
if an exclamation mark follows the number.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from pdkernel.server.processes import ProcessMembership, ServerProcesses
from pdkernel.server.uvicorn_server import UvicornServer, listen, local_url, new_event_loop, serve_until_signalled

listening = listen("127.0.0.1", 0)


def write(line: str) -> None:
    """Print a line to standard error."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def announce() -> None:
    """Print the URL."""
    print(local_url(listening, "127.0.0.1", tls=False), flush=True)


async def respond(request: Request) -> Response:
    """Answer with the process id; after `?gate=FILE`, as soon as the file exists."""
    if gate := request.query_params.get("gate"):
        write(f"waits for {gate}")
        while not Path(gate).exists():
            await asyncio.sleep(0.01)
    return PlainTextResponse(str(os.getpid()))


async def serve(membership: ProcessMembership) -> None:
    """Answer requests until a signal."""

    async def count(_: Request) -> Response:
        """Answer with the number of open connections of each process that accepts some."""
        return JSONResponse([count for count in membership.share.counts if count >= 0])

    server = UvicornServer(
        Starlette(routes=[Route("/", respond), Route("/counts", count)]),
        share=membership.share,
        on_ready=lambda: membership.report_ready(f"executor-{os.getpid()}"),
    )
    server.response_grace_s = 60
    write(f"predecessor {membership.predecessor}")
    await serve_until_signalled(server, listening, membership.parent)


outcome = ServerProcesses(int(sys.argv[1]), listening, on_ready=announce, write_line=write).run()
if isinstance(outcome, int):
    sys.exit(outcome)
ending = Path(sys.argv[2]).read_text()
if str(outcome.share.index) in ending:
    print("cannot start", flush=True)
    sys.exit(0 if f"{outcome.share.index}!" in ending else 7)
with asyncio.Runner(loop_factory=new_event_loop) as runner:
    runner.run(serve(outcome))
