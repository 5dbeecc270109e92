"""Stored events of deployed triggers, as a process that died leaves them; the source itself does not run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import update

from pdkernel.files.source import load_source
from pdkernel.model import JSON
from pdkernel.server.app_context import ServedWorkflow
from pdkernel.server.run_registry import MAX_UNFINISHED_RUNS, RunRegistry
from pdkernel.server.trigger_events import TriggerEvents, has_moved
from pdkernel.storage import DeployedTrigger, TriggerState, Webhook
from pdkernel.storage.schema import trigger_events
from tests.http_servers import AnsweringServer, serve
from tests.notebook_files import notebook_of
from tests.server.served import Served, served

TRIGGER = "dc_parcels"
HOOK = "wh_1"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Served]:
    """A project with a served workflow."""
    notebook = tmp_path / "work.ipynb"
    notebook_of(notebook, "%%pdstep note\ndef handler(pd):\n    return pd.steps['trigger']['event']['parcel']")
    async with served(tmp_path, ServedWorkflow("p_work", "eowork", load_source(notebook))) as site:
        yield site


def deploy(site: Served, url: str = "") -> DeployedTrigger:
    """Store a trigger of ada in production, with a webhook if there is a *url*, and events that wait for its targets."""
    now, table = site.context.clock.now(), site.project.deployed_triggers
    trigger = DeployedTrigger(TRIGGER, "ada", "production", "k", "1", "n", {}, {}, True, now, now)
    if url:
        trigger = replace(trigger, webhooks=(Webhook(HOOK, url, "key", 1.0, 1.0),))
    table.add(trigger)
    for number in (1, 2):
        event: dict[str, JSON] = {"e": {"parcel": number}, "k": "emit", "ts": 1, "id": str(number)}
        table.add_events(TRIGGER, [event], [HOOK, "p_work"] if url else ["p_work"])
    return trigger


async def hand_over(site: Served, *, restarts: int = 1) -> None:
    """Hand over what waits, by as many servers one after the other."""
    for _ in range(restarts):
        runs = RunRegistry(site.context)
        running = asyncio.create_task(TriggerEvents(site.context, runs).run())
        async with asyncio.timeout(60):
            while site.project.trigger_events.list_targets():
                await asyncio.sleep(0.02)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await runs.close(60)


async def test_each_event_starts_one_run(site: Served) -> None:
    """The next server starts the run of each event once, as the trigger's user in its environment."""
    deploy(site)

    await hand_over(site, restarts=2)

    runs = await site.context.engine.journal.list_executions()
    assert {run.step("note").return_value for run in runs} == {1, 2}
    assert [(run.status, run.external_user, run.environment) for run in runs] == [("success", "ada", "production")] * 2


async def test_an_event_whose_run_is_recorded_starts_no_second_one(site: Served) -> None:
    """A process that dies after the record of the run leaves the event, which then only ends."""
    deploy(site)
    (event, _) = site.project.trigger_events.list_waiting(site.project.trigger_events.list_targets(), 2)
    await hand_over(site)

    table = site.project.deployed_triggers
    table.add_events(TRIGGER, [{"e": dict(event.data), "k": "emit", "ts": 1, "id": "1"}], ["p_work"])
    await hand_over(site)

    assert len(await site.context.engine.journal.list_executions()) == 2


async def test_a_webhook_receives_each_event_once_in_order(site: Served, receiver: AnsweringServer) -> None:
    """A request names its event, so that the product recognises a repeated one, and the trigger and its user."""
    deploy(site, receiver.url)

    await hand_over(site)

    assert [request.json() for request in receiver.requests] == [{"parcel": 1}, {"parcel": 2}]
    assert [request.headers["idempotency-key"] for request in receiver.requests] == [
        f"{TRIGGER}/{number}/{HOOK}" for number in (1, 2)
    ]
    assert {
        (request.headers["x-pd-emitter-id"], request.headers["x-pd-external-user-id"]) for request in receiver.requests
    } == {(TRIGGER, "ada")}


async def test_a_failed_delivery_is_not_repeated(site: Served) -> None:
    """Each event is tried once; the webhook counts the failures."""
    deploy(site, "http://127.0.0.1:9/unreachable")

    await hand_over(site)

    trigger = site.project.deployed_triggers.find(TRIGGER)
    assert trigger is not None
    assert [(hook.failures, hook.last_error) for hook in trigger.webhooks] == [(2, "ConnectError")]


async def test_a_webhook_of_a_connect_token_stays_outside(site: Served, receiver: AnsweringServer) -> None:
    """A webhook that may have public addresses only gets no event at an address of this machine, and counts the failures."""
    trigger = deploy(site, receiver.url)
    (hook,) = trigger.webhooks
    site.project.deployed_triggers.update(
        TRIGGER, lambda found: replace(found, webhooks=(replace(hook, public_only=True),))
    )

    await hand_over(site)

    found = site.project.deployed_triggers.find(TRIGGER)
    assert receiver.requests == []
    assert found is not None
    assert [(hook.failures, hook.last_error) for hook in found.webhooks] == [(2, "not sent")]


async def test_a_redirect_is_a_failed_delivery(site: Served) -> None:
    """An event is sent to the webhook's own URL only: a redirect is not followed, and counts as a failure."""
    with serve(AnsweringServer(lambda _: (307, b"", {"location": "/elsewhere"}))) as server:
        deploy(site, f"{server.url}/hook")

        await hand_over(site)

    trigger = site.project.deployed_triggers.find(TRIGGER)
    assert trigger is not None
    assert [(hook.failures, hook.last_error) for hook in trigger.webhooks] == [(2, "status 307")]
    assert [request.path for request in server.requests] == ["/hook", "/hook"]


async def test_a_delivery_ends_the_failures_of_a_webhook(site: Served, receiver: AnsweringServer) -> None:
    """After a successful delivery, the webhook has no failures and no last error."""
    deploy(site, receiver.url)
    site.project.deployed_triggers.record_delivery(TRIGGER, HOOK, "status 500")

    await hand_over(site)

    trigger = site.project.deployed_triggers.find(TRIGGER)
    assert trigger is not None
    assert [(hook.failures, hook.failing_since, hook.last_error) for hook in trigger.webhooks] == [(0, None, None)]


async def test_an_event_that_cannot_be_decrypted_is_given_up(
    site: Served, receiver: AnsweringServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The next events still reach workflow and webhook, whose failures and the log have the reason."""
    deploy(site, receiver.url)
    damaged = trigger_events.c.dedupe_key.startswith(f"{TRIGGER}/2/")
    with site.project.sqlalchemy_engine.begin() as connection:
        connection.execute(update(trigger_events).where(damaged).values(sealed_event=b"damaged"))

    await hand_over(site)

    trigger = site.project.deployed_triggers.find(TRIGGER)
    assert trigger is not None
    assert [request.json() for request in receiver.requests] == [{"parcel": 1}]
    assert len(await site.context.engine.journal.list_executions()) == 1
    assert f"An event of the trigger trigger:{TRIGGER} was given up: A stored value cannot be decrypted" in caplog.text
    assert (trigger.webhooks[0].last_error or "").startswith("A stored value cannot be decrypted")


async def test_events_of_a_removed_webhook_are_dropped(site: Served, receiver: AnsweringServer) -> None:
    """A webhook that was replaced after the events were stored gets none of them; the workflow starts."""
    deploy(site, receiver.url)
    site.project.deployed_triggers.update(TRIGGER, lambda trigger: replace(trigger, webhooks=()))

    await hand_over(site)

    assert receiver.requests == []
    assert len(await site.context.engine.journal.list_executions()) == 2


async def test_a_notebook_starts_no_runs_of_a_workflows_own_trigger(site: Served) -> None:
    """A process that does not continue runs, as the server of a draft, leaves such events; those of deployed triggers it starts."""
    now = site.context.clock.now()
    state = TriggerState("p_work", "schedule", "Work", "/work.ipynb", {}, True, now)
    site.project.workflow_triggers.save([state])
    site.project.workflow_triggers.receive(state, "key", {"parcel": 0})
    deploy(site)

    runs = RunRegistry(site.context)
    await TriggerEvents(site.context, runs).start_runs()
    await runs.close(60)

    assert not site.context.engine.continues_runs
    assert site.project.trigger_events.list_targets() == [state.target]
    assert len(await site.context.engine.journal.list_executions()) == 2


async def test_events_wait_at_the_limit_of_runs(site: Served) -> None:
    """A server at its limit of runs starts no run; the events wait, and start when a run has ended."""
    deploy(site)
    runs, ends = RunRegistry(site.context), asyncio.Event()
    events = TriggerEvents(site.context, runs)
    held = [runs.start_source(ends.wait()) for _ in range(MAX_UNFINISHED_RUNS)]

    await events.start_runs()
    waiting = len(site.project.trigger_events.list_waiting(site.project.trigger_events.list_targets(), 10))
    ends.set()
    await asyncio.gather(*held)
    await events.start_runs()
    await runs.close(60)

    assert waiting == 2
    assert site.project.trigger_events.list_targets() == []
    assert len(await site.context.engine.journal.list_executions()) == 2


async def test_an_event_waits_for_a_workflow_that_is_not_served(site: Served) -> None:
    """An event whose workflow another server has served stays, and does not hold up the events of others."""
    deploy(site)
    event: dict[str, JSON] = {"e": {"parcel": 3}, "k": "emit", "ts": 1, "id": "3"}
    site.project.deployed_triggers.add_events(TRIGGER, [event], ["p_elsewhere"])

    runs = RunRegistry(site.context)
    await TriggerEvents(site.context, runs).start_runs()
    await runs.close(60)

    assert [each.id for each in site.project.trigger_events.list_targets()] == ["p_elsewhere"]


async def test_two_servers_hand_over_together(site: Served, receiver: AnsweringServer) -> None:
    """Two servers that find the same events waiting record one run for each."""
    deploy(site, receiver.url)

    await asyncio.gather(hand_over(site), hand_over(site))

    runs = await site.context.engine.journal.list_executions()
    assert sorted(run.step("note").return_value for run in runs) == [1, 2]  # type: ignore[type-var]  # both are numbers


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (None, "https://a.example", False),
        ("https://a.example", "https://a.example", False),
        ("https://a.example", "https://b.example", True),
        ("https://a.example", "https://a.example/base", True),
        ("http://127.0.0.1:8765", "https://a.example", True),
        ("http://127.0.0.1:8765", "http://localhost:9000", True),
        ("https://a.example", "http://127.0.0.1:8765", False),
        ("https://a.example", "http://[::1]:8765", False),
    ],
)
def test_when_a_source_is_activated_again(before: str | None, now: str, expected: bool) -> None:
    """A server with another URL takes over a source with an endpoint, unless only its own machine reaches it."""
    assert has_moved(before, now) is expected
