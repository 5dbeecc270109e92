"""
A gateway in a process of its own, so that its memory can be measured.

Its arguments are a folder and the port of the outside server. It answers each line, `{"mode", "send_once"}`, with the environment
of a step whose calls it then routes, and an empty line with the bytes by which its memory has grown at most since the last answer.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path

from pdkernel.egress import Gateway
from tests.egress.kit import HOSTS, Ledger, SentMemory


def memory(name: str) -> int:
    """Bytes of this process: `VmRSS` now, `VmHWM` at most since the last reset."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


async def main() -> None:
    """Answer the lines of standard input."""
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    overrides = {(HOSTS[0], 80): ("127.0.0.1", port)}
    gateway = await Gateway.start(folder, host_overrides=overrides, environ={})
    before = 0
    while line := await asyncio.to_thread(sys.stdin.readline):
        if line.strip():
            choice = json.loads(line)
            sent = SentMemory() if choice["send_once"] else None
            token = gateway.issue_token()
            gateway.bind(token, Ledger().binding(choice["mode"], sent_requests=sent))
            answer: object = {**gateway.build_environment(token, "node"), "PATH": os.environ["PATH"]}
        else:
            answer = memory("VmHWM") - before
        print(json.dumps(answer), flush=True)
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        before = memory("VmRSS")
    await gateway.close()


asyncio.run(main())
