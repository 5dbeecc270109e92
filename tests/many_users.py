"""A project with thousands of external users, and failed runs of some."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

from pdkernel.common.identity import Account
from pdkernel.journal import Claim, NewRun, encode_event, encode_output, open_journal
from pdkernel.model import Workflow
from pdkernel.storage import Project

APPS = ("slack", "slack", "github")
"""The app of each user's account, in turn: two of three users have Slack."""


def add_users(project: Project, number: int) -> None:
    """Add `user-00000` and so on, the newest first, each with an account of `APPS`, named after company 0, 1, ..."""
    now = project.clock.now()
    with project.one_transaction():
        for index in range(number):
            user, app = f"user-{index:05}", APPS[index % len(APPS)]
            created = now - timedelta(minutes=index + 1)
            account = Account(f"apn_{index}", app, f"Company {index}", user, "development", created)
            project.accounts.add(account, {"oauth_access_token": "a-token-of-a-test"})


def add_failed_runs(project: Project, events: Mapping[str, str], *, at: datetime) -> None:
    """Record a failed run for each user of *events*, with the id `run-USER` and an event with the path."""

    async def record() -> None:
        journal = open_journal(project)
        definition = await journal.store_definition(Workflow("Greet"))
        for user, path in events.items():
            event = encode_event({"method": "POST", "path": path, "body": {"from": user}}, {"id": user})
            run = NewRun(
                f"run-{user}", "trace", "Greet", definition, event, external_user_id=user, created=at.timestamp()
            )
            await journal.accept_run(run)
            await journal.finish(Claim.first(run.id), "error", encode_output())
        await journal.close()

    with ThreadPoolExecutor(1) as thread:  # a loop may run in this thread already
        thread.submit(lambda: asyncio.run(record())).result()
