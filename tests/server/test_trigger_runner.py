"""Runs of deployed triggers: timers, failures, and what follows on events; a real Node.js runs the sources."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from pdkernel.server.run_registry import RunRegistry
from pdkernel.server.trigger_events import TriggerEvents
from pdkernel.server.trigger_runner import DeployedTriggers
from pdkernel.server.workflow_triggers import RETRY_INTERVAL
from pdkernel.storage import DeployedTrigger
from pdkernel.storage.schema import source_state
from tests.builders import skip_time
from tests.server.deploying import call_trigger, deploy, events, pass_time, write_sources
from tests.server.served import Served

HOOK_SOURCE = """
export default {
  key: "depot-hook", name: "Hook", version: "0.1.0", type: "source", description: "Registers its endpoint.",
  props: { db: "$.service.db", http: "$.interface.http" },
  hooks: {
    async activate() { this.db.set("log", [...(this.db.get("log") ?? []), `activate ${this.http.endpoint}`]) },
    async deactivate() { this.db.set("log", [...this.db.get("log"), "deactivate"]) },
  },
  async run() {},
};
"""
MOVED = "https://after.example.com"


async def test_a_timer_runs_a_trigger(parcels: Served) -> None:
    """The source runs once per interval, with the user's account and the configured props."""
    made = await deploy(parcels, configured_props={"size": "{{x}}"}, emit_on_deploy=False)
    assert await asyncio.to_thread(parcels.project.deployed_triggers.list_due) == []

    found = await pass_time(parcels, 61, 1, made["id"])
    again = await pass_time(parcels, 61, 2, made["id"])

    assert found == [{"parcel": 1, "size": "{{x}}", "by": "ada"}]
    assert again[0]["parcel"] == 2


async def test_a_cron_timer_runs_a_trigger(parcels: Served) -> None:
    """A cron expression is evaluated in its time zone."""
    timer = {"cron": "30 9 * * *", "timezone": "Asia/Kolkata"}  # 04:00 in UTC, all year
    made = await deploy(parcels, configured_props={"timer": timer}, emit_on_deploy=False)
    due = parcels.project.deployed_triggers.next_due()
    assert due is not None

    found = await pass_time(parcels, (due - parcels.context.clock.now()).total_seconds(), 1, made["id"])

    assert (due.hour, due.minute) == (4, 0)
    assert found[0]["parcel"] == 1
    assert parcels.project.deployed_triggers.next_due() == due + timedelta(days=1)


async def test_an_event_starts_a_workflow(parcels: Served) -> None:
    """An event starts the served workflow as the trigger's user."""
    made = await deploy(parcels, workflow_id="p_work", emit_on_deploy=False)

    await pass_time(parcels, 61, 1, made["id"])

    (run,) = await parcels.context.engine.journal.list_executions(limit=5)
    assert (run.status, run.external_user, run.step("note").return_value) == ("success", "ada", 1)


async def test_a_source_that_fails_does_not_stop_the_others(parcels: Served, caplog: pytest.LogCaptureFixture) -> None:
    """The failure is logged, and the next trigger runs."""
    await deploy(parcels, configured_props={"size": "broken"}, emit_on_deploy=False)
    good = await deploy(parcels, emit_on_deploy=False)

    assert (await pass_time(parcels, 61, 1, good["id"]))[0]["parcel"] == 1
    assert "failed: broken" in caplog.text


async def test_a_source_that_cannot_be_loaded_does_not_stop_the_others(
    parcels: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A trigger whose source is invalid now is logged with the reason, and the next trigger runs."""
    source = tmp_path / "components/components/depot/sources/new-parcel/new-parcel.mjs"
    other = source.parent.parent / "other" / "other.mjs"
    other.parent.mkdir()
    other.write_text(source.read_text().replace("depot-new-parcel", "depot-other"))
    bad = await deploy(parcels, id="depot-other", emit_on_deploy=False)
    good = await deploy(parcels, emit_on_deploy=False)
    other.write_text("throw new Error('moved');")

    found = await pass_time(parcels, 61, 1, good["id"])

    assert found[0]["parcel"] == 1
    assert f"The deployed trigger {bad['id']} did not run: " in caplog.text


async def test_a_tick_waits_for_the_turn_of_its_source(parcels: Served) -> None:
    """A source that is busy at the time of its timer runs for that time afterwards, once, and for no other time that has passed."""
    made = await deploy(parcels, emit_on_deploy=False)
    runs = RunRegistry(parcels.context)
    triggers = DeployedTriggers(parcels.context, runs, TriggerEvents(parcels.context, runs))

    async with runs.source_turns.take(made["id"]):
        parcels.clock.advance(61)
        await triggers._look()
        parcels.clock.advance(120)
        before = await events(parcels, made["id"])
    await triggers._look()
    await runs.close(60)
    upcoming = parcels.project.deployed_triggers.next_due()

    assert (before, len(await events(parcels, made["id"]))) == ([], 1)
    assert upcoming == parcels.clock.now() + timedelta(seconds=60)


async def test_a_workflow_is_found_by_its_endpoint_key(parcels: Served) -> None:
    """An event starts a workflow that the deployment has named by its endpoint's key."""
    made = await deploy(parcels, workflow_id="eowork", emit_on_deploy=False)

    await pass_time(parcels, 61, 1, made["id"])

    (run,) = await parcels.context.engine.journal.list_executions(limit=5)
    assert (run.status, run.workflow) == ("success", "work")


async def test_a_workflow_that_is_not_served_is_logged(parcels: Served, caplog: pytest.LogCaptureFixture) -> None:
    """Events of a trigger whose workflow was removed are stored; the log names the trigger and the workflow."""
    made = await deploy(parcels, emit_on_deploy=False)
    parcels.project.deployed_triggers.update(made["id"], lambda stored: replace(stored, workflows=("p_gone",)))

    (found,) = await pass_time(parcels, 61, 1, made["id"])

    assert found["parcel"] == 1
    assert f"The deployed trigger {made['id']} refers to the workflow p_gone, which is not served." in caplog.text
    assert parcels.project.trigger_events.list_targets() == []


def stored(site: Served, trigger: str) -> DeployedTrigger:
    """The trigger in the database."""
    found = site.project.deployed_triggers.find(trigger)
    assert found is not None
    return found


def hook_log(site: Served, trigger: str) -> list[str]:
    """The hooks of the source that have succeeded, with the endpoint that `activate` has seen."""
    endpoint = str(stored(site, trigger).endpoint)
    with site.project.sqlalchemy_engine.connect() as connection:
        (key,) = connection.execute(select(source_state.c.source)).scalars()
    return [each.replace(endpoint, "KEY") for each in site.project.source_states.load(key)["db"]["log"]]


async def move(site: Served, trigger: str, *, servers: int = 1, is_moved: bool = True) -> None:
    """Start servers with another URL, and run them until they have activated the trigger, or for a moment."""
    context = replace(site.context, settings=replace(site.context.settings, base_url=MOVED))
    registries = [RunRegistry(context) for _ in range(servers)]
    running = asyncio.gather(
        *(DeployedTriggers(context, runs, TriggerEvents(context, runs)).repair() for runs in registries)
    )
    try:
        async with asyncio.timeout(60 + RETRY_INTERVAL.total_seconds()):
            while is_moved and stored(site, trigger).base_url != MOVED:
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)  # a server that has not waited for the other one would run the hooks, too
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        for runs in registries:
            await runs.close(10)


async def test_a_server_with_another_url_activates_a_source_again(parcels: Served, tmp_path: Path) -> None:
    """The app learns the endpoint's new URL, once, though two servers of the project start with it."""
    write_sources(tmp_path / "components", hook=HOOK_SOURCE)
    made = await deploy(parcels, id="depot-hook")
    for _ in range(2):
        await move(parcels, made["id"], servers=2)

    assert hook_log(parcels, made["id"]) == [
        "activate http://127.0.0.1:4000/KEY",
        "deactivate",
        f"activate {MOVED}/KEY",
    ]


async def test_an_inactive_source_stays_inactive_at_another_url(parcels: Served, tmp_path: Path) -> None:
    """A trigger that is inactive when the URL changes learns the URL when it is activated."""
    write_sources(tmp_path / "components", hook=HOOK_SOURCE)
    made = await deploy(parcels, id="depot-hook")
    await call_trigger(parcels, "PUT", f"/{made['id']}", json={"active": False})
    parcels.project.deployed_triggers.update(made["id"], lambda found: replace(found, base_url="http://before.example"))
    await move(parcels, made["id"], is_moved=False)
    log = hook_log(parcels, made["id"])
    await call_trigger(parcels, "PUT", f"/{made['id']}", json={"active": True})

    assert log == ["activate http://127.0.0.1:4000/KEY", "deactivate"]
    assert stored(parcels, made["id"]).base_url == "http://127.0.0.1:4000"


async def test_a_failed_activation_at_another_url_is_tried_again(
    parcels: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has the reasons, and the server tries again later; a failing deactivation does not stop it."""
    write_sources(tmp_path / "components", hook=HOOK_SOURCE)
    made = await deploy(parcels, id="depot-hook")
    source = tmp_path / "components/components/depot/sources/hook/hook.mjs"
    source.write_text(HOOK_SOURCE.replace("activate() {", "activate() { throw new Error('not yet');"))
    moving = asyncio.create_task(move(parcels, made["id"]))
    async with asyncio.timeout(60):
        while "The activate hook" not in caplog.text:
            await asyncio.sleep(0.02)
    before = stored(parcels, made["id"]).base_url
    source.write_text(HOOK_SOURCE)
    await skip_time(RETRY_INTERVAL.total_seconds())
    await moving

    assert before == "http://127.0.0.1:4000"
    assert hook_log(parcels, made["id"])[-1] == f"activate {MOVED}/KEY"
    assert [record.getMessage() for record in caplog.records] == [
        f"The {hook} hook of the deployed trigger {made['id']} failed: not yet" for hook in ("deactivate", "activate")
    ]
