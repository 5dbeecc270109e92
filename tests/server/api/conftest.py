"""Served projects with components."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.actions.checkout import write_checkout
from tests.server.served import Served, served

KEY = "dk-5f0a7c9e31"


@pytest.fixture
async def depot(site: Served, tmp_path: Path) -> Served:
    """A served project with the components of the app `depot`, and accounts of ada and grace."""
    return with_components(site, tmp_path)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_depot(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """A project as `depot` for all tests of a module that change neither its components nor its accounts."""
    folder = tmp_path_factory.mktemp("depot")
    async with served(folder) as site:
        yield with_components(site, folder)


def with_components(site: Served, folder: Path) -> Served:
    """Add the components and the accounts to *site*."""
    site.project.settings.set("actions", str(write_checkout(folder / "components")))
    for user in ("ada", "grace"):
        site.connect(user, "depot", {"api_key": f"{KEY}-{user}"}, account_id=f"apn_{user}")
    return site
