"""Switches of a request, and limits."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from tests.builders import python_step
from tests.server.endpoint.conftest import Serve
from tests.server.site import Site

WHERE = ["headers", "params"]


def switched(where: str, name: str) -> Any:
    """What httpx is given so that the request has that switch, as a header or in its query."""
    return {where: {name: "1"}}


@pytest.mark.parametrize("where", WHERE)
async def test_nostore(echo: Site, where: str) -> None:
    """With x-pd-nostore the workflow runs and nothing of it is kept."""
    mark = "not-to-be-kept"
    answer = await echo.http.post(echo.path(), content=mark, **switched(where, "x-pd-nostore"))
    await echo.http.post(echo.path(), content="to-be-kept")
    (run,) = await echo.runs()
    path = echo.context.project.sqlite_path
    assert path is not None
    with sqlite3.connect(path) as database:
        rows = [str(row) for table in ("runs", "steps") for row in database.execute(f"select * from {table}")]

    assert answer.json()["body"] == mark
    assert run.event["body"] == "to-be-kept"
    assert mark not in "".join(rows)
    assert "to-be-kept" in "".join(rows)


@pytest.mark.parametrize("where", WHERE)
async def test_notrigger(echo: Site, where: str) -> None:
    """With x-pd-notrigger the event is kept as a test's, and no step runs."""
    answer = await echo.http.post(echo.path(), json={"a": 1}, **switched(where, "x-pd-notrigger"))
    (run,) = await echo.runs()

    assert (answer.status_code, answer.json()["event_id"]) == (200, run.id)
    assert run.event["body"] == {"a": 1}
    assert run.context["test"] is True
    assert [step.status for step in run.steps] == ["not_run"]


async def test_a_switch_that_is_off(echo: Site) -> None:
    """Only 1 switches."""
    await echo.http.post(echo.path(), headers={"x-pd-nostore": "0", "x-pd-notrigger": "0"})
    (run,) = await echo.runs()

    assert run.step("echo").status == "success"


async def test_rate_limit(serve: Serve) -> None:
    """Where limits are applied, a burst passes and more is 429 with the time to wait."""
    site = await serve(python_step("quick"), response="default", applies_rate_limits=True)
    for _ in range(200):
        answer = await site.http.post(site.path(), headers={"x-pd-nostore": "1"})
        if answer.status_code == 429:
            break

    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "1"
