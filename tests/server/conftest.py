"""Fixtures of the server's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from pdkernel.files.source import load_source
from pdkernel.server.app_context import ServedWorkflow
from tests.actions.checkout import write_checkout
from tests.http_servers import AnsweringServer, serve
from tests.notebook_files import notebook_of
from tests.server.deploying import KEY, PARCELS, write_sources
from tests.server.link.visitor import Visitor
from tests.server.served import Served, served


@pytest.fixture
def receiver() -> Iterator[AnsweringServer]:
    """A back end that receives webhooks."""
    with serve(AnsweringServer(lambda _: (204, b""))) as server:
        yield server


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Served]:
    """A new project that is served."""
    async with served(tmp_path) as site:
        yield site


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """A project that is served for all tests of a module that change nothing that the others read."""
    async with served(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def visitor(site: Served) -> Visitor:
    """A browser that visits link pages of *site*."""
    return Visitor(site)


@pytest.fixture
async def parcels(tmp_path: Path) -> AsyncIterator[Served]:
    """A project with the source of parcels, a served workflow, and accounts of ada and grace."""
    checkout = write_checkout(tmp_path / "components")
    write_sources(checkout, new_parcel=PARCELS)
    notebook = tmp_path / "work.ipynb"
    notebook_of(notebook, "%%pdstep note\ndef handler(pd):\n    return pd.steps['trigger']['event']['parcel']")
    async with served(tmp_path, ServedWorkflow("p_work", "eowork", load_source(notebook))) as site:
        site.project.settings.set("actions", str(checkout))
        for user in ("ada", "grace"):
            site.connect(user, "depot", {"api_key": f"{KEY}-{user}"}, account_id=f"apn_{user}")
        yield site
