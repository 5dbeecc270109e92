"""A server whose tables a newer version has changed."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from pdkernel.model import Workflow
from tests.builders import python_step
from tests.server.site import site_of


async def test_a_server_refuses_events_after_its_tables_have_changed(tmp_path: Path) -> None:
    """The server is not ready, and answers 503, so that senders repeat the event after its restart with the newer version."""
    async with site_of(tmp_path, Workflow("Greet", steps=(python_step(),))) as site:
        (served,) = site.context.workflows.list_workflows()
        before = await site.http.post(f"/{served.endpoint_key}", json={})
        assert site.context.project.sqlite_path is not None
        with closing(sqlite3.connect(site.context.project.sqlite_path)) as connection:
            connection.execute("pragma user_version = 99")
        async with asyncio.timeout(30):
            while (await site.http.get("/-/ready")).status_code == 200:
                await asyncio.sleep(0.05)
        after = await site.http.post(f"/{served.endpoint_key}", json={})

    assert (before.status_code, after.status_code) == (200, 503)
    assert "retry-after" in after.headers
