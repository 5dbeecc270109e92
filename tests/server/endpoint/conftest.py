"""Served workflows, each on a port of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from pdkernel.model import Step
from tests.builders import a_workflow, python_step
from tests.server.site import Site, site_of

ECHO = "pd.respond({'status': 200, 'body': pd.steps['trigger']['event']})"
"""Responds with the event."""

Serve = Callable[..., Awaitable[Site]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Serves steps as a workflow, with a custom response by default."""
    async with AsyncExitStack() as stack:

        async def start(*steps: Step, response: str = "custom", **settings: Any) -> Site:
            return await stack.enter_async_context(site_of(tmp_path, a_workflow(*steps, response=response), **settings))

        yield start


@pytest.fixture
async def echo(serve: Serve) -> Site:
    """A served workflow that responds with its event."""
    return await serve(python_step("echo", ECHO))
