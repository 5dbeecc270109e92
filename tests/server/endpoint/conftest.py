"""Served workflows, each on a port of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from pdkernel.model import Step
from tests.builders import a_workflow, python_step
from tests.server.site import Site, for_one_test, site_of

ECHO = "pd.respond({'status': 200, 'body': pd.steps['trigger']['event']})"
"""Responds with the event."""
EVALUATE = "pd.respond(**eval(pd.steps['trigger']['event']['body']))"
"""Responds with the arguments of `pd.respond` that the body of the request is, as an expression of Python."""

Serve = Callable[..., Awaitable[Site]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Serves steps as a workflow, with a custom response by default."""
    async with AsyncExitStack() as stack:

        async def start(*steps: Step, response: str = "custom", **settings: Any) -> Site:
            return await stack.enter_async_context(site_of(tmp_path, a_workflow(*steps, response=response), **settings))

        yield start


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_sites(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Callable[[str], Awaitable[Site]]]:
    """Serves a step of that Python code for all tests of a module."""
    sites: dict[str, Site] = {}
    async with AsyncExitStack() as stack:

        async def find(code: str) -> Site:
            if code not in sites:
                workflow = a_workflow(python_step("echo", code), response="custom")
                sites[code] = await stack.enter_async_context(site_of(tmp_path_factory.mktemp("shared"), workflow))
            return await for_one_test(sites[code])

        yield find


@pytest_asyncio.fixture(loop_scope="module")
async def echo(shared_sites: Callable[[str], Awaitable[Site]]) -> Site:
    """A served workflow that responds with its event; tests of a module share its server."""
    return await shared_sites(ECHO)


@pytest_asyncio.fixture(loop_scope="module")
async def evaluating(shared_sites: Callable[[str], Awaitable[Site]]) -> Site:
    """A served workflow that responds as the body of the request says; tests of a module share its server."""
    return await shared_sites(EVALUATE)
