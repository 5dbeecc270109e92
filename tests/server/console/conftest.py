"""A served project with a person who is logged in to its console."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from pdkernel.execution import Execution, Status
from pdkernel.model import Workflow
from pdkernel.server.app_state import AppState, get_state
from pdkernel.server.console_sessions import hash_admin_token
from tests.server.site import Site, site_of

ADMIN = "7QmV2kXwP9tRb4ZsYc6LhN8d"
HTML = {"accept": "text/html"}
JSON = {"accept": "application/json"}


@dataclass
class Console:
    """
    The console of a served project.

    Attributes:
        site: The project.
        http: The browser of a person who is logged in.
    """

    site: Site
    http: httpx.AsyncClient

    @property
    def state(self) -> AppState:
        """State of the application."""
        return app_state(self.site)

    async def page(self, path: str, *, status: int = 200) -> str:
        """The text of a page."""
        answer = await self.http.get(path, headers=HTML)
        assert answer.status_code == status, answer.text
        return answer.text

    async def csrf(self) -> str:
        """The token of the session, from a page."""
        found = re.search(r'name="csrf" value="([^"]+)"', await self.page("/-/users"))
        assert found
        return html.unescape(found[1])

    async def act(self, run_id: str, action: str, **fields: str) -> httpx.Response:
        """Press a button of the run's page."""
        data = {"csrf": await self.csrf(), **fields}
        return await self.http.post(f"/-/runs/{run_id}/{action}", data=data, headers=HTML)

    async def start(self, *, name: str = "Test", body: Any = None, **headers: str) -> str:
        """Call an endpoint; return the id of the run."""
        answer = await self.site.http.post(self.site.path(name), json=body, headers=headers)
        return str(answer.json()["event_id"])

    async def start_paused(self, **call: Any) -> str:
        """Call an endpoint; return the id of the run, as soon as it is paused."""
        run_id = await self.start(**call)
        await self.wait_until(run_id, "paused")
        return run_id

    async def wait_until(self, run_id: str, *statuses: Status) -> Execution:
        """The run, as soon as it has one of the statuses."""
        return await self.site.wait_for_run(*statuses, run_id=run_id)


def app_state(site: Site) -> AppState:
    """State of the application of *site*."""
    return get_state(site.server.config.loaded_app)


async def log_in(site: Site, secret: str, http: httpx.AsyncClient | None = None) -> httpx.Response:
    """Send the form of the login."""
    client = http or site.http
    return await client.post("/-/login", data={"secret": secret, "next": "/-/"}, headers=HTML)


Serve = Callable[..., Awaitable[Console]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Serves workflows, and logs in to the console by a code."""
    async with AsyncExitStack() as stack:

        async def start(*workflows: Workflow, **settings: Any) -> Console:
            given = {"admin_token_hash": hash_admin_token(ADMIN), **settings}
            site = await stack.enter_async_context(site_of(tmp_path, *workflows, **given))
            http = await stack.enter_async_context(httpx.AsyncClient(base_url=site.url, timeout=60))
            app_state(site).console.print_new_code()
            answer = await log_in(site, site.codes[-1], http)
            assert answer.status_code in (200, 303), answer.text  # a console with a host of its own has no cookie here
            return Console(site, http)

        yield start
