"""Runs in progress."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from tests.builders import Gate, a_workflow, python_step
from tests.http_servers import Answer, AnsweringServer, SentRequest, serve
from tests.server.site import site_of


async def test_a_run_that_goes_on_while_its_messages_are_sent_is_in_progress(tmp_path: Path) -> None:
    """A run whose pause ends while a destination is slow is known as running, so that a shutdown waits for it."""
    gate, slow = Gate(tmp_path), threading.Event()

    def answer(_: SentRequest) -> Answer:
        slow.wait(3)
        return 204, b""

    with serve(AnsweringServer(answer)) as destination:
        send = f"pd.send.http(method='POST', url={destination.url!r}, data=1)\npd.flow.delay(1)"
        async with site_of(tmp_path, a_workflow(python_step("tell", send), python_step("held", gate.code))) as site:
            run_id = (await site.http.post(site.path())).json()["event_id"]
            runs = site.registry
            while not destination.requests:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.6)  # the server has looked for due runs
            slow.set()
            await gate.wait_until_reached()
            await asyncio.sleep(0.2)  # the first part of the run has ended
            active = set(runs.active_run_ids)
            gate.open()
            (run,) = await site.runs()

    assert active == {run_id}
    assert run.status == "success"
    assert len(destination.requests) == 1
