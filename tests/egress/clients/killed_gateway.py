"""
A process that sends a POST to slack.com through its own gateway, and waits for the answer.

Its arguments are the folder of its project and the port of this machine that is slack.com.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from pdkernel.egress import Gateway
from pdkernel.storage import Project
from tests.egress.kit import Ledger, knock, read_all


async def main() -> None:
    """Send the request as the test does."""
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    with Project.open(folder / ".pdkernel") as project:
        gateway = await Gateway.start(folder, host_overrides={("slack.com", 80): ("127.0.0.1", port)}, environ={})
        token = gateway.issue_token()
        gateway.bind(token, Ledger().binding("live", sent_requests=project.idempotency))
        with knock(gateway, token, "slack.com", 80, secure=False) as sock:
            sock.sendall(b"POST / HTTP/1.1\r\nHost: slack.com\r\nContent-Length: 2\r\nIdempotency-Key: 1\r\n\r\nhi")
            await asyncio.to_thread(read_all, sock)


asyncio.run(main())
