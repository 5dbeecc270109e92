"""Requests to sources that run again, because their run was interrupted after the response."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from pdkernel.common.clock import BELIEVED_AFTER_S
from pdkernel.engine.http_response import build_response
from pdkernel.errors import ProjectError
from pdkernel.server.answered_requests import FIRST_RETRY_S, MAX_FAILURES, AnsweredRequests, PendingResponse
from pdkernel.server.batches import Batches
from pdkernel.server.run_registry import RunRegistry
from pdkernel.server.trigger_events import TriggerEvents
from pdkernel.server.trigger_runner import DeployedTriggers
from pdkernel.server.workflow_triggers import WorkflowTriggers
from pdkernel.storage import AnsweredRequestTable
from pdkernel.storage.schema import answered_requests
from tests.actions.checkout import write_checkout
from tests.server.deploying import deploy, events, write_sources
from tests.server.served import Served, served

SOURCE = """
export default { key: "depot-called", name: "Called", version: "0.1.0", type: "source", description: "d",
  props: { http: { type: "$.interface.http", customResponse: true } },
  async run(event) {
    if (event.body === "killed") { process.kill(process.pid, "SIGKILL"); await new Promise(() => {}) }
    if (event.body === "broken") throw new Error("broken");
    this.$emit({ said: event.body }) } };
"""


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Served]:
    """A project with the source."""
    checkout = write_checkout(tmp_path / "components")
    write_sources(checkout, called=SOURCE)
    async with served(tmp_path) as site:
        site.project.settings.set("actions", str(checkout))
        site.connect("ada", "depot", {"api_key": "dk"})
        yield site


async def run_due(site: Served) -> None:
    """Run the requests that are due, as a server does, and wait until their sources have ended."""
    runs = RunRegistry(site.context)
    handed_over = TriggerEvents(site.context, runs)
    triggers = WorkflowTriggers(site.context, runs, handed_over, Batches(site.context, runs))
    deployed = DeployedTriggers(site.context, runs, handed_over)
    await AnsweredRequests(site.context, runs, triggers, deployed)._look()
    await runs.close(60)


async def test_an_interrupted_request_runs_once(site: Served) -> None:
    """A request runs again with its event, and no second time; a failure of the source's own code ends it."""
    made = await deploy(site, id="depot-called")
    for said in ("hello", "broken"):
        site.project.answered_requests.add(made["id"], {"body": said})
    for _ in range(2):
        await run_due(site)

    assert await events(site, made["id"]) == [{"said": "hello"}]
    assert site.project.answered_requests.list_due_triggers() == []


async def test_a_request_that_always_kills_its_process_is_given_up(
    site: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """Each further try waits twice as long; after the last one the log has the reason, and the other requests run."""
    made = await deploy(site, id="depot-called")
    for said in ("killed", "hello"):
        site.project.answered_requests.add(made["id"], {"body": said})
    await run_due(site)
    assert site.project.answered_requests.list_due_triggers() == []
    assert await events(site, made["id"]) == [{"said": "hello"}]
    for failures in range(1, MAX_FAILURES):
        site.clock.advance(FIRST_RETRY_S * 2 ** (failures - 1))
        await run_due(site)
    site.clock.advance(100_000)

    assert site.project.answered_requests.list_due_triggers() == []
    assert f"A request to the source {made['id']} was given up: The step's process was ended by SIGKILL" in caplog.text


@pytest.mark.parametrize("failures", [0, 1])
async def test_a_clock_that_was_ahead_holds_up_no_request(site: Served, failures: int) -> None:
    """A request that was stored or postponed while the clock was ahead runs after the clock was set back."""
    made = await deploy(site, id="depot-called")
    request = site.project.answered_requests.add(made["id"], {"body": "hello"})
    if failures:
        site.project.answered_requests.postpone(request, FIRST_RETRY_S)
    site.clock.jump(-3600)
    site.project.clock.now()
    site.clock.advance(BELIEVED_AFTER_S + 1)
    await run_due(site)

    assert await events(site, made["id"]) == [{"said": "hello"}]


async def test_a_request_that_cannot_be_decrypted_is_given_up(site: Served, caplog: pytest.LogCaptureFixture) -> None:
    """The log has the reason, and the request is not tried for ever."""
    made = await deploy(site, id="depot-called")
    request = site.project.answered_requests.add(made["id"], {"body": "hello"})
    with site.project.sqlalchemy_engine.begin() as connection:
        connection.execute(update(answered_requests).values(sealed_event=b"\x01" + bytes(40)))
    await run_due(site)

    assert not site.project.answered_requests.exists(request)
    assert f"A request to the source {made['id']} was given up: A stored value cannot be decrypted" in caplog.text


class UnsureTable(AnsweredRequestTable):
    """A table whose database stores a request and is gone before it says so."""

    def add(self, *args: Any, **options: Any) -> str:
        """Store a request. Raises `ProjectError` nevertheless."""
        super().add(*args, **options)
        raise ProjectError("The database cannot be reached.")


async def test_a_request_that_was_stored_without_a_reply_runs_once(site: Served) -> None:
    """The response waits for the source, whose result ends the request that may be stored."""
    project = site.project
    table = UnsureTable(project._database, project.vault, site.clock, site.context.ids)
    pending = PendingResponse(table, "dc_1", {"body": "hello"})
    respond = pending.occasion.on_respond
    assert respond is not None
    await respond(build_response({"status": 202, "headers": {}, "body": None}))
    stored = table.list_due_triggers()
    with project._database.write() as connection:
        is_settled = pending.occasion.settle(connection)

    assert not pending.sent.done()
    assert stored == ["dc_1"]
    assert is_settled
    assert table.list_due_triggers() == []
