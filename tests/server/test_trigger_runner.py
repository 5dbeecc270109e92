"""Runs of deployed triggers: timers, failures, and what follows on events; a real Node.js runs the sources."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from pdkernel.server.run_registry import RunRegistry
from pdkernel.server.trigger_events import TriggerEvents
from pdkernel.server.trigger_runner import DeployedTriggers
from tests.server.deploying import deploy, events, pass_time
from tests.server.served import Served


async def test_a_timer_runs_a_trigger(parcels: Served) -> None:
    """The source runs once per interval, with the user's account and the configured props."""
    made = await deploy(parcels, configured_props={"size": "{{x}}"}, emit_on_deploy=False)
    assert await asyncio.to_thread(parcels.project.deployed_triggers.claim_due) is None

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


async def test_a_trigger_that_is_still_running_skips_its_time(parcels: Served) -> None:
    """A timer does not start a second run of a source whose run has not ended, and does not repeat that time later."""
    made = await deploy(parcels, emit_on_deploy=False)
    parcels.clock.advance(61)
    runs = RunRegistry(parcels.context)
    triggers = DeployedTriggers(parcels.context, runs, TriggerEvents(parcels.context, runs))

    async with runs.source_turns.take(made["id"]):
        running = asyncio.create_task(triggers.run_due())
        async with asyncio.timeout(60):
            while (due := parcels.project.deployed_triggers.next_due()) is None or due <= parcels.clock.now():
                await asyncio.sleep(0.02)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    await runs.close(60)

    assert await events(parcels, made["id"]) == []


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
