"""Projects with many external users and accounts without usable credentials: a lookup reads no credential."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import insert

from pdkernel.storage import Project
from pdkernel.storage.schema import accounts, external_users


def fill(project: Project, *, users: int, apps: Sequence[str]) -> None:
    """Create external users in development, each with one account of every app of *apps*."""
    rows = [
        {
            "id": f"apn_{user}x{place}",
            "app": app,
            "name": app,
            "external_user": f"user-{user}",
            "environment": "development",
            "created": 1_700_000_000.0 + user,
            "healthy": True,
            "fields": '["oauth_access_token"]',
            "sealed_credentials": b"",  # a lookup never decrypts credentials
        }
        for user in range(users)
        for place, app in enumerate(apps)
    ]
    people = [
        {"external_user": f"user-{user}", "environment": "development", "created": 1_700_000_000.0}
        for user in range(users)
    ]
    with project.sqlalchemy_engine.begin() as connection:
        connection.execute(insert(accounts), rows)
        connection.execute(insert(external_users), people)
