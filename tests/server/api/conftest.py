"""Served projects with components."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.actions.checkout import write_checkout
from tests.server.served import Served

KEY = "dk-5f0a7c9e31"


@pytest.fixture
async def depot(site: Served, tmp_path: Path) -> Served:
    """A served project with the components of the app `depot`, and accounts of ada and grace."""
    site.project.settings.set("actions", str(write_checkout(tmp_path / "components")))
    for user in ("ada", "grace"):
        site.directory.add_account(
            app="depot", credentials={"api_key": f"{KEY}-{user}"}, external_user_id=user, account_id=f"apn_{user}"
        )
    return site
