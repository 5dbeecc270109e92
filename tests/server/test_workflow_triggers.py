"""Triggers of served workflows: schedules, event sources, e-mails, errors and emitted events start runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select, text

from pdkernel.accounts import LocalDirectory
from pdkernel.common.clock import Clock, ManualClock, SystemClock, format_iso
from pdkernel.egress import parse_policy
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.event import Event
from pdkernel.execution import Execution
from pdkernel.operations.run_replay import prepare_replay
from pdkernel.operations.triggers import disable_triggers, enable_triggers
from pdkernel.server import AppContext, ServeSettings, create_app
from pdkernel.server.app_state import get_state
from pdkernel.server.batches import Batches
from pdkernel.server.rate_limits import ENDPOINT_BURST
from pdkernel.server.run_registry import RunRegistry, build_run_request
from pdkernel.server.source_turns import TICK_RETRY_S
from pdkernel.server.source_workflows import RELOAD_INTERVAL_S, SourceWorkflows, select_sources
from pdkernel.server.trigger_events import TriggerEvents
from pdkernel.server.workflow_triggers import RETRY_INTERVAL, WorkflowTriggers
from pdkernel.storage import TriggerState
from pdkernel.storage.schema import source_state
from tests.notebook_files import notebook_of
from tests.server.new_project import open_project
from tests.waiting import until

STEP = "%%pdstep seen --lang node\nexport default defineComponent({ async run({ steps }) { return steps.trigger } })"
HOURLY = "trigger: {type: schedule, cron: '30 * * * *'}"
PARCELS = "trigger: {type: source, uses: depot-new-parcel@0.1.0, props: {size: %d}}"
PARCEL_SOURCE = """
export default {
  key: "depot-new-parcel", name: "New Parcel", version: "0.1.0", type: "source", dedupe: "unique",
  props: { db: "$.service.db", size: "integer", timer: { type: "$.interface.timer", default: { intervalSeconds: 60 } } },
  hooks: {
    async deploy() {
      this.$emit({ parcel: 0 }, { id: 0 });
      this.db.set("deploys", (this.db.get("deploys") || 0) + 1);
    },
    async activate() {
      if (this.size < 0) throw new Error("no size");
      this.db.set("log", ["activate"]);
      this.db.set("activations", (this.db.get("activations") || 0) + 1);
    },
    async deactivate() {
      this.db.set("log", [...this.db.get("log"), `deactivate ${this.size}`]);
      this.db.set("deactivated", this.size);
    },
  },
  async run() { for (let id = 0; id <= this.size; id++) this.$emit({ parcel: id }, { id }) },
};
"""
TICK_SOURCE = """
export default {
  key: "depot-tick", name: "Tick", version: "0.1.0", type: "source",
  props: { timer: { type: "$.interface.timer", default: { intervalSeconds: 7200 } } },
  async run() { this.$emit({ ticked: true }) },
};
"""
SILENT_SOURCE = """
export default { key: "depot-silent", name: "Silent", version: "0.1.0", type: "source", props: {}, async run() {} };
"""
CALL_SOURCE = """
export default {
  key: "depot-new-call", name: "New Call", version: "0.1.0", type: "source",
  props: { http: { type: "$.interface.http", customResponse: true } },
  async run(event) { this.http.respond({ status: 202, body: "thanks" }); this.$emit({ got: event.body }) },
};
"""
HOOK_SOURCE = """
export default {
  key: "depot-hook", name: "Hook", version: "0.1.0", type: "source",
  props: { db: "$.service.db", http: "$.interface.http" },
  hooks: {
    async activate() { this.db.set("log", [...(this.db.get("log") || []), `activate ${this.http.endpoint}`]) },
    async deactivate() { this.db.set("log", [...this.db.get("log"), "deactivate"]) },
  },
  async run() {},
};
"""


class Serving:
    """
    A served folder whose clock a test advances. `restart` is what a crash leaves to the next process.

    Attributes:
        folder: The folder of the notebooks.
        context: The context of the server.
        project: The tables of the project.
        triggers: The triggers of the server.
        events: The events of triggers that wait.
        http: A client of the server's endpoints.
    """

    def __init__(self, folder: Path, context: AppContext) -> None:
        self.folder = folder
        self.context = context
        self.project = context.project
        app = create_app(context)
        self.triggers = get_state(app).triggers
        self.events = get_state(app).events
        self._runs = [get_state(app).runs]
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=context.settings.base_url)

    @property
    def clock(self) -> ManualClock:
        """The clock."""
        assert isinstance(self.context.clock, ManualClock)
        return self.context.clock

    @property
    def registry(self) -> RunRegistry:
        """The runs of the server, whose dispatcher starts runs of workflows with limits."""
        return self._runs[0]

    def restarted_registry(self) -> RunRegistry:
        """The runs of another process."""
        self._runs.append(RunRegistry(self.context))
        return self._runs[-1]

    def restart(self) -> None:
        """Forget everything that is not in the database."""
        runs = self.restarted_registry()
        self.events = TriggerEvents(self.context, runs)
        self.triggers = WorkflowTriggers(self.context, runs, self.events, Batches(self.context, runs))

    def enable(self, name: str = "Work") -> TriggerState:
        """Turn the triggers of the workflow on; return the state of the first one."""
        (view, *_) = enable_triggers(self.project, name, self.folder)
        assert view.state is not None
        return view.state

    def enable_endpoint(self) -> str:
        """Turn the trigger of `Work` on; return the key of its endpoint."""
        return self.project.endpoint_keys.ensure_trigger_key(self.enable().id)

    def disable(self) -> None:
        """Turn the triggers of `Work` off."""
        disable_triggers(self.project, "Work", self.folder)

    async def post(self, name: str, body: Any = None, **headers: str) -> None:
        """Send an event to the endpoint of the workflow with that name, and wait until its run has ended or paused."""
        keys = {each.source.workflow.name: each.endpoint_key for each in self.context.workflows.list_workflows()}
        await self.http.post(f"/{keys[name]}", json=body, headers=headers)
        await self.settle()

    def state(self) -> TriggerState:
        """The state of the only trigger."""
        (state,) = self.project.workflow_triggers.list_states()
        return state

    async def pass_time(self, seconds: float = 0) -> list[Execution]:
        """Advance the clock and fire what is due, as the server does; return all runs, oldest first, when they have ended."""
        self.clock.advance(seconds)
        await self.triggers.fire_due()
        await self.settle()
        await self.events.start_runs()
        await self.settle()
        return (await self.context.engine.journal.list_executions())[::-1]

    async def settle(self) -> None:
        """Wait until sources and runs have ended."""
        for runs in self._runs:
            while pending := [*runs._sources, *runs._tasks]:
                await asyncio.wait(pending)

    async def close(self) -> None:
        """End the runs."""
        await self.http.aclose()
        for runs in self._runs:
            await runs.close(5)


class WrongClock(SystemClock):
    """The clock of a machine that is *ahead_s* seconds ahead."""

    def __init__(self, ahead_s: float) -> None:
        self._ahead = timedelta(seconds=ahead_s)

    def now(self) -> datetime:
        """Return the wrong time."""
        return super().now() + self._ahead


Serve = Callable[..., Any]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Serves the notebooks of a folder, on a database of its own or on that of other servers; *on* enables the triggers of `Work`."""

    @asynccontextmanager
    async def serving(
        *headers: str,
        steps: Mapping[str, str] | None = None,
        place: str = ".",
        database_url: str | None = None,
        clock: Clock | None = None,
        on: bool = False,
    ) -> AsyncIterator[Serving]:
        folder, clock = tmp_path / place, clock or ManualClock()
        key_file = tmp_path / "key" if database_url else None
        folder.mkdir(exist_ok=True)
        for number, header in enumerate(headers):
            name = "Work" if number == 0 else f"Work {number + 1}"
            write(folder, header, name, (steps or {}).get(name, STEP))
        with open_project(folder / ".pdkernel", database_url=database_url, key_file=key_file, clock=clock) as project:
            components = folder / "components" / "depot" / "sources"
            for key, text in (("new-parcel", PARCEL_SOURCE), ("new-call", CALL_SOURCE)):
                (components / key).mkdir(parents=True, exist_ok=True)
                (components / key / f"{key}.mjs").write_text(text)
            project.settings.set("actions", str(folder / "components"))
            directory = LocalDirectory(project)
            async with await WorkflowEngine.start(
                project, directory, clock=clock, max_active_runs=2, origin="serve"
            ) as engine:
                context = AppContext(
                    project=project,
                    directory=directory,
                    engine=engine,
                    workflows=SourceWorkflows(project, select_sources([folder], folder)),
                    settings=ServeSettings(base_url="http://127.0.0.1:4000", policy=parse_policy("deny")),
                    clock=clock,
                    ids=project.ids,
                )
                made = Serving(folder, context)
                try:
                    if on:
                        made.enable()
                    yield made
                finally:
                    await made.close()

    return serving


def write(folder: Path, header: str, name: str = "Work", step: str = STEP) -> None:
    """Save a notebook with that trigger and that step."""
    notebook_of(folder / f"{name.lower().replace(' ', '-')}.ipynb", f"%%pdworkflow\nname: {name}\n{header}", step)


def trigger_of(run: Execution) -> Any:
    """`steps.trigger` as the run's step has seen it."""
    return run.step("seen").return_value


def events_of(runs: list[Execution]) -> list[Any]:
    """The events of *runs*, in any fixed order: runs of one moment have no order."""
    return sorted((trigger_of(run)["event"] for run in runs), key=str)


def context_of(run: Execution) -> Any:
    """`steps.trigger.context` of the run."""
    return trigger_of(run)["context"]


class TestSchedules:
    """`type: schedule`."""

    async def test_a_schedule_starts_a_run_once_per_time(self, serve: Serve) -> None:
        """The run has the platform's event of the fire time, no external user, and the trigger's context; off, nothing fires."""
        async with serve(HOURLY) as site:
            before = await site.pass_time(3600)
            site.enable()
            (run,) = await site.pass_time(1805)
            again = await site.pass_time(1)
            state = site.state()
            site.disable()
            off = await site.pass_time(7200)

        (event,), context = events_of([run]), context_of(run)
        assert (before, len(again), len(off)) == ([], 1, 1)
        assert event["cron"] == "30 * * * *"
        assert event["timezone_utc"]["iso8601"]["timestamp"] == "2026-01-01T01:30:00.000+00:00"
        assert (context["source_type"], context["test"], context["emitter_id"][:3]) == ("COMPONENT", False, "ti_")
        assert context["workflow_id"] == state.workflow_id
        assert (run.status, run.external_user) == ("success", None)
        assert (state.run_id, state.due) == (run.id, state.fired + timedelta(seconds=3595))

    async def test_only_the_latest_missed_time_is_caught_up(self, serve: Serve) -> None:
        """After a downtime one run starts, with the last of the missed times, and the next time is in the future."""
        async with serve(HOURLY, on=True) as site:
            runs = await site.pass_time(5 * 3600)
            due = site.state().due

        assert [event["timestamp"] for event in events_of(runs)] == [int(site.clock.now().timestamp()) - 1800]
        assert due == site.clock.now() + timedelta(seconds=1800)

    async def test_a_crash_after_the_run_starts_it_once(self, serve: Serve) -> None:
        """An event whose run is recorded, but that still waits, starts no second run."""
        async with serve(HOURLY) as site:
            fired = site.enable().due
            (run,) = await site.pass_time(1800)
            table = site.project.workflow_triggers
            table.receive(site.state(), f"{site.state().id}/{format_iso(fired)}", {})
            site.restart()

            again = await site.pass_time()
            waiting = site.project.trigger_events.list_targets()

        assert [each.id for each in again] == [run.id]
        assert not waiting

    @pytest.mark.parametrize("both", [False, True], ids=["after a crash", "at the same time"])
    async def test_another_server_starts_the_run_once(self, serve: Serve, both: bool) -> None:
        """An event that a process has stored is started by the next one, and once if both find it."""
        async with serve(HOURLY, on=True) as site:
            site.clock.advance(1800)
            await site.triggers.fire_due()
            earlier = [site.events] if both else []
            site.restart()
            await asyncio.gather(*(each.start_runs() for each in (*earlier, site.events)))

            assert len(await site.pass_time()) == 1

    async def test_the_next_look_is_at_the_next_time(self, serve: Serve) -> None:
        """Before and after a time the server waits for the next one, or for five seconds at most."""
        async with serve("trigger: {type: schedule, interval_seconds: 2}", HOURLY) as site:
            idle = await site.triggers.fire_due()
            site.enable()
            site.enable("Work 2")
            before = await site.triggers.fire_due()
            site.clock.advance(2)
            after = await site.triggers.fire_due()

        assert (idle, before, after) == (5, 2, 2)

    async def test_a_late_look_does_not_move_an_interval(self, serve: Serve) -> None:
        """If a server fires an interval late, the next time counts from the start of the interval, not from that look."""
        async with serve("trigger: {type: schedule, interval_seconds: 60}") as site:
            started = site.enable().since
            await site.pass_time(90)

            assert site.state().due == started + timedelta(seconds=120)

    async def test_a_saved_schedule_counts_from_its_change(self, serve: Serve) -> None:
        """If the notebook's schedule changes, the next time is that of the new schedule; one that is never due is reported."""
        async with serve(HOURLY, on=True) as site:
            write(site.folder, "trigger: {type: schedule, interval_seconds: 90}")
            await site.pass_time(RELOAD_INTERVAL_S)
            changed, started = site.state(), site.clock.now()
            await site.pass_time(100)
            later = site.state()
            write(site.folder, "trigger: {type: schedule, cron: '0 0 31 2 *'}")
            await site.pass_time(RELOAD_INTERVAL_S)

        assert changed.due == started + timedelta(seconds=90)
        assert later.due == started + timedelta(seconds=180)
        assert site.state().due is None
        assert site.state().result.startswith("error: The cron expression")

    async def test_a_scheduled_run_triggers_another_workflow(self, serve: Serve) -> None:
        """A step of a scheduled run gets the result of `$.flow.trigger`; the triggered run has the id of its workflow and an emitter id."""
        calls = STEP.replace("steps })", "$ })").replace(
            "steps.trigger", "await $.flow.trigger('work-2.ipynb', { a: 1 })"
        )
        async with serve(HOURLY, HTTP, steps={"Work": calls}, on=True) as site:
            runs = {run.workflow: run for run in await site.pass_time(1805)}
            ids = {each.source.workflow.name: each.id for each in site.context.workflows.list_workflows()}

        assert {name: run.status for name, run in runs.items()} == {"Work": "success", "Work 2": "success"}
        assert trigger_of(runs["Work"]) == trigger_of(runs["Work 2"])
        assert trigger_of(runs["Work 2"])["event"] == {"a": 1}
        assert {name: run.context["workflow_id"] for name, run in runs.items()} == ids
        assert runs["Work"].context["emitter_id"] != runs["Work 2"].context["emitter_id"]

    async def test_each_trigger_of_a_workflow_fires(self, serve: Serve) -> None:
        """Two schedules of a workflow fire with ids of their own; a limit of the workflow applies."""
        both = "triggers: [{type: http}, {type: schedule, interval_seconds: 60}, {type: schedule, id: ti_abc, cron: '1 * * * *'}]"
        async with serve(f"{both}\nsettings: {{concurrency: 1}}", on=True) as site:
            dispatching = asyncio.create_task(site.registry.dispatch.run())
            await site.pass_time(60)
            async with asyncio.timeout(60):
                while (runs := await site.pass_time()) and [run.status for run in runs] != ["success"] * 2:
                    await asyncio.sleep(0.02)
            dispatching.cancel()

        emitters = sorted(context_of(run)["emitter_id"] for run in runs)
        assert (emitters[0][:3], emitters[1]) == ("ti_", "ti_abc")
        assert {min(event) for event in events_of(runs)} == {"cron", "interval_seconds"}


class TestSources:
    """`type: source`."""

    async def test_a_source_is_activated_and_polled(self, serve: Serve) -> None:
        """Past events of the deploy hook start no run; each tick of the timer starts a run for each new event."""
        async with serve(PARCELS % 2, on=True) as site:
            activated = await site.pass_time()
            due = site.state().due
            runs = await site.pass_time(60)
            again = await site.pass_time(60)

        context = context_of(runs[0])
        assert not activated
        assert due == site.state().since + timedelta(seconds=60)
        assert events_of(runs) == [{"parcel": 1}, {"parcel": 2}]
        assert (context["source_type"], context["emitter_id"][:3]) == ("COMPONENT", "dc_")
        assert len(again) == 2
        assert site.state().result == "0 new events"

    async def test_a_crash_loses_no_event_of_a_source(self, serve: Serve) -> None:
        """Events that a source emitted before a crash start their runs in the next process, once."""
        async with serve(PARCELS % 2, on=True) as site:
            await site.pass_time()
            site.clock.advance(60)
            await site.triggers.fire_due()
            await site.settle()
            site.restart()

            runs = await site.pass_time(60)

        assert events_of(runs) == [{"parcel": 1}, {"parcel": 2}]

    async def test_a_trigger_that_cannot_be_decrypted_is_configured_again(self, serve: Serve) -> None:
        """A damaged row holds up no other trigger: it gets the settings of its workflow, and fires at its next time."""
        async with serve(HOURLY, HOURLY, on=True) as site:
            site.enable("Work 2")
            with site.project.sqlalchemy_engine.begin() as connection:
                connection.execute(text("update workflow_triggers set sealed_settings = x'01' where name = 'Work'"))
            first = await site.pass_time(1805)
            second = await site.pass_time(3600)

        assert [run.workflow for run in first] == ["Work 2"]
        assert sorted(run.workflow for run in second) == ["Work", "Work 2", "Work 2"]

    async def test_a_disabled_source_is_deactivated(self, serve: Serve) -> None:
        """The deactivate hook runs once, with the props of the activation; enabling activates the source again, without a deploy."""
        async with serve(PARCELS % 2, on=True) as site:
            await site.pass_time()
            site.disable()
            await site.pass_time()
            await site.pass_time()
            log = source_log(site)
            site.enable()
            await site.pass_time()

        assert log == ["activate", "deactivate 2"]
        assert (site.state().is_active, source_log(site)) == (True, ["activate"])
        assert source_log(site, "deploys") == 1

    @pytest.mark.parametrize("is_restarted", [False, True])
    async def test_a_source_that_was_removed_is_deactivated(self, serve: Serve, is_restarted: bool) -> None:
        """Without its trigger in the workflow, a source is deactivated once; with it again, activated without a deploy."""
        async with serve(PARCELS % 2, on=True) as site:
            await site.pass_time()
            write(site.folder, HOURLY)
            for _ in range(3):
                await site.pass_time(RELOAD_INTERVAL_S)
                if is_restarted:
                    site.restart()
            log, was_active = source_log(site), site.state().is_active
            write(site.folder, PARCELS % 2)
            await site.pass_time(RELOAD_INTERVAL_S)
            again = site.state()
            runs = await site.pass_time(60)

        assert (log, was_active) == (["activate", "deactivate 2"], False)
        assert (again.is_active, source_log(site), source_log(site, "deploys")) == (True, ["activate"], 1)
        assert events_of(runs) == [{"parcel": 1}, {"parcel": 2}]

    async def test_servers_with_different_versions_do_not_take_turns(self, serve: Serve) -> None:
        """A source that an earlier version of the workflow activates again, in another server, is not deactivated again."""
        async with serve(PARCELS % 2, on=True) as site:
            await site.pass_time()
            write(site.folder, HOURLY)
            await site.pass_time(RELOAD_INTERVAL_S)
            site.project.workflow_triggers.save([replace(site.state(), is_active=True)])
            await site.pass_time()

        assert site.state().is_active

    async def test_a_source_with_new_props_is_activated_again(self, serve: Serve) -> None:
        """If the props change, the source is deactivated with the old ones, and activated with the new ones."""
        async with serve(PARCELS % 1, on=True) as site:
            await site.pass_time()
            write(site.folder, PARCELS % 3)
            await site.pass_time(RELOAD_INTERVAL_S)
            runs = await site.pass_time(60)

        assert events_of(runs) == [{"parcel": number} for number in (1, 2, 3)]
        assert (source_log(site, "deactivated"), source_log(site)) == (1, ["activate"])

    async def test_a_source_is_activated_again_by_a_server_with_another_url(self, serve: Serve) -> None:
        """The app learns the endpoint's new URL, once."""
        async with serve("trigger: {type: source, uses: depot-hook@0.1.0}") as site:
            write_source(site, "hook", HOOK_SOURCE)
            endpoint = site.enable_endpoint()
            await site.pass_time()
            site.context = replace(
                site.context, settings=replace(site.context.settings, base_url="https://after.example.com")
            )
            site.restart()
            for _ in range(3):
                await site.pass_time()

            assert source_log(site) == [
                f"activate http://127.0.0.1:4000/{endpoint}",
                "deactivate",
                f"activate https://after.example.com/{endpoint}",
            ]

    async def test_a_failing_activation_is_tried_again(self, serve: Serve) -> None:
        """The reason is stored, and the next try is some minutes later."""
        async with serve(PARCELS % -1, on=True) as site:
            await site.pass_time()
            failed = site.state()
            write(site.folder, PARCELS % 1)
            await site.pass_time(RETRY_INTERVAL.total_seconds())

        assert failed.result == "error: The activate hook of depot-new-parcel@0.1.0 failed: no size"
        assert failed.due == failed.since + RETRY_INTERVAL
        assert site.state().is_active

    @pytest.mark.parametrize("table", ["workflow_triggers", "source_state"])
    async def test_an_activation_that_cannot_be_stored_is_tried_again_soon(self, serve: Serve, table: str) -> None:
        """While a table cannot be written, the hooks do not run again and again; some seconds after that, the source is active."""
        async with serve(PARCELS % 2, on=True) as site:
            database = site.project.sqlalchemy_engine
            with database.begin() as connection:
                for verb in ("insert", "update"):
                    refuse = f"before {verb} on {table} begin insert into missing values (1); end"
                    connection.execute(text(f"create trigger refuse_{verb} {refuse}"))
            await site.pass_time()
            failed = site.state()
            with database.begin() as connection:
                for verb in ("insert", "update"):
                    connection.execute(text(f"drop trigger refuse_{verb}"))
            await site.pass_time(TICK_RETRY_S - 1)
            early = site.state().is_active
            await site.pass_time(1)

        assert (failed.is_active, failed.due, early) == (False, None, False)
        assert (site.state().is_active, site.state().due) == (True, site.state().since + timedelta(seconds=60))

    async def test_a_source_that_cannot_be_loaded_any_more(self, serve: Serve) -> None:
        """A source that is invalid since its activation is reported at each of its times, and runs again when it is mended."""
        async with serve(PARCELS % 1, on=True) as site:
            await site.pass_time()
            write_source(site, "new-parcel", "throw new Error('moved');")
            broken = await site.pass_time(60)
            result = site.state().result
            write_source(site, "new-parcel", PARCEL_SOURCE)
            mended = await site.pass_time(60)

        assert (broken, events_of(mended)) == ([], [{"parcel": 1}])
        assert str(result).startswith("error: ")

    async def test_a_failing_deactivation_is_logged(self, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
        """A source whose deactivate hook fails is off all the same, and the hook is not repeated."""
        failing = PARCEL_SOURCE.replace("async deactivate() {", 'async deactivate() {\n      throw new Error("stuck");')
        async with serve(PARCELS % 1) as site:
            write_source(site, "new-parcel", failing)
            site.enable()
            await site.pass_time()
            site.disable()
            await site.pass_time()
            await site.pass_time()

        assert not site.state().is_active
        assert caplog.text.count("depot-new-parcel@0.1.0 failed: stuck") == 1

    @pytest.mark.parametrize(
        ("source", "reason"), [("missing", ""), ("silent", "depot-silent@0.1.0 has no timer and no HTTP interface, so")]
    )
    async def test_a_source_that_cannot_run_is_reported(self, serve: Serve, source: str, reason: str) -> None:
        """A source that no component folder has, or that nothing runs, is an error of its trigger; the others fire."""
        async with serve(f"trigger: {{type: source, uses: depot-{source}@0.1.0}}", HOURLY) as site:
            write_source(site, "silent", SILENT_SOURCE)
            site.enable()
            site.enable("Work 2")
            runs = await site.pass_time(1800)
            (state,) = (each for each in site.project.workflow_triggers.list_states() if each.workflow_name == "Work")

        assert [run.workflow for run in runs] == ["Work 2"]
        assert not state.is_active
        assert str(state.result).startswith(f"error: {reason}")

    async def test_a_request_runs_a_source(self, serve: Serve) -> None:
        """A request to the endpoint of an HTTP source gets the source's response, and its event starts a run."""
        async with serve("trigger: {type: source, uses: depot-new-call@0.1.0}") as site:
            path = f"/{site.enable_endpoint()}"
            await site.pass_time()
            answer = await site.http.post(path, json={"a": 1})
            runs = await site.pass_time()
            site.disable()
            off = await site.http.post(path, json={"a": 1})

        assert (answer.status_code, answer.text) == (202, "thanks")
        assert events_of(runs) == [{"got": {"a": 1}}]
        assert off.status_code == 404


def write_source(site: Serving, name: str, text: str) -> None:
    """Write a source of the app `depot`."""
    place = site.folder / "components" / "depot" / "sources" / name / f"{name}.mjs"
    place.parent.mkdir(exist_ok=True)
    place.write_text(text)


def source_log(site: Serving, name: str = "log") -> Any:
    """The hooks that the source has noted in its database, or another value of it."""
    with site.project.sqlalchemy_engine.connect() as connection:
        (key,) = connection.execute(select(source_state.c.source)).scalars()
    return site.project.source_states.load(key)["db"][name]


class TestEmails:
    """`type: email`."""

    async def test_a_post_is_an_email(self, serve: Serve) -> None:
        """The body of a POST to the trigger's endpoint is the event of a run; another body is refused."""
        email = {"body": {"text": "hello"}, "headers": {"subject": "Hi", "x-pd-external-user-id": "mallory"}}
        async with serve("trigger: {type: email}") as site:
            path = f"/{site.project.endpoint_keys.ensure_trigger_key('p_none/email')}"
            unknown = await site.http.post(path, json=email)
            path = f"/{site.enable_endpoint()}"
            accepted = await site.http.post(path, json=email)
            refused = [await site.http.post(path, content="text"), await site.http.get(path)]
            (run,) = await site.pass_time()

        assert [answer.status_code for answer in (unknown, accepted, *refused)] == [404, 200, 400, 400]
        assert events_of([run]) == [email]
        assert (run.external_user, context_of(run)["emitter_id"][:3]) == (None, "ei_")

    @pytest.mark.parametrize(("start", "end"), [("[", "]"), ('{"a":', "}")])
    async def test_a_deep_body_is_refused(self, serve: Serve, start: str, end: str) -> None:
        """A body with more than 256 levels is answered 400 with the reason, whichever its levels are; it starts no run."""
        async with serve("trigger: {type: email}") as site:
            path = f"/{site.enable_endpoint()}"
            body = f'{{"a":{start * 256}1{end * 256}}}'
            refused = await site.http.post(path, content=body, headers={"content-type": "application/json"})
            runs = await site.pass_time()

        assert (refused.status_code, runs) == (400, [])
        assert refused.text == "The body is nested more than 256 levels deep.\n"

    async def test_the_rate_limit_of_a_triggers_endpoint(self, serve: Serve) -> None:
        """If rate limits apply, requests above a burst get 429; a key in capital letters is the same endpoint."""
        async with serve("trigger: {type: email}") as site:
            object.__setattr__(site.context.settings, "applies_rate_limits", True)
            key = site.enable_endpoint()
            within = {(await site.http.get(f"/{key}")).status_code for _ in range(int(ENDPOINT_BURST))}
            above = [await site.http.get(f"/{each}") for each in (key, key.upper(), key.capitalize())]

        assert within == {400}
        assert [answer.status_code for answer in above] == [429] * 3


ERRORS = "trigger: {type: errors}"
HTTP = "trigger: {type: http}"
SECRET = "depot-4f9a7c21e8"


def node(code: str) -> str:
    """The cell of a Node.js step with that code."""
    return f"%%pdstep seen --lang node\nexport default defineComponent({{ async run({{ steps, $ }}) {{\n{code}\n}} }})"


FAILING = node("throw new TypeError('no depot')")


async def deliver_again(site: Serving) -> None:
    """Deliver all messages again, as a process does that finds them without an outcome."""
    with site.project.sqlalchemy_engine.begin() as connection:
        connection.execute(text("update outbox set due = 1"))
    await site.context.engine.deliver_due()


class TestErrors:
    """`type: errors`."""

    async def test_a_failed_run_starts_the_workflow(self, serve: Serve) -> None:
        """The event has the documented keys and those of pdkernel; it starts one run, which has no external user."""
        async with serve(ERRORS, HTTP, steps={"Work 2": FAILING}) as site:
            await site.post("Work 2")
            before = await site.pass_time()
            site.enable()
            await site.post("Work 2", {"n": 1})
            runs = await site.pass_time()
            again = await site.pass_time(60)

        (handler,) = (run for run in runs if run.workflow == "Work")
        event, context = trigger_of(handler)["event"], context_of(handler)
        (failed,) = (run for run in runs if run.id == event["original_context"]["id"])
        assert [run.workflow for run in before] == ["Work 2"]
        assert len(again) == len(runs) == 3
        assert (event["original_event"], event["original_context"]) == (failed.event, failed.context)
        assert event["original_event"]["body"] == {"n": 1}
        error, metadata = event["error"], event["metadata"]
        assert (error["code"], error["name"], error["step"], error["line"]) == ("step_failed", "TypeError", "seen", 3)
        assert (error["ts"], error["cellId"][:2], error["message"]) == (failed.finished_at, "c_", "no depot")
        assert error["stack"].startswith("TypeError: no depot")
        assert (metadata["name"], metadata["emitter_id"]) == ("$errors", failed.context["workflow_id"])
        assert len(metadata["emit_id"]) == 27
        assert (handler.external_user, context["emitter_id"][:4], context["test"]) == (None, "sub_", False)
        assert [(sent.kind, sent.outcome, sent.to) for sent in failed.sends] == [("emit", "sent", "Work")]

    async def test_an_error_event_is_redacted(self, serve: Serve) -> None:
        """The event has a placeholder for each secret of the run, and no values of secret headers."""
        failing = node("throw new TypeError(`no ${process.env.DEPOT_KEY}`)")
        async with serve(ERRORS, HTTP, steps={"Work 2": failing}) as site:
            site.project.variables.set("DEPOT_KEY", SECRET)
            state = site.enable()
            await site.post("Work 2", {"key": SECRET}, authorization="Bearer hidden-in-header")
            (waiting,) = site.project.trigger_events.list_waiting([state.target], 10)

        event: Any = waiting.data
        assert event["original_event"]["body"] == {"key": "⟦secret:env/DEPOT_KEY⟧"}
        assert event["error"]["message"] == "no ⟦secret:env/DEPOT_KEY⟧"
        assert SECRET not in str(event)
        assert "hidden-in-header" not in str(event)

    async def test_the_event_of_a_refused_run_stays_hidden(self, serve: Serve) -> None:
        """The event of a run that ended before its accounts were known is empty, as in the record of the run."""
        refused = node("return process.env.DEPOT_KEY").replace("--lang", "--app slack --lang")
        async with serve(ERRORS, HTTP, steps={"Work 2": refused}, on=True) as site:
            await site.post("Work 2", {"n": 1})
            runs = await site.pass_time()

        (handler,) = (run for run in runs if run.workflow == "Work")
        event = trigger_of(handler)["event"]
        assert (event["original_event"], event["error"]["step"], event["error"]["cellId"]) == ({}, None, None)
        assert event["error"]["name"] == "VariableMissingError"

    @pytest.mark.parametrize("name", ["Work 3", "work-3", "work-3.ipynb", "./work-3.ipynb", "p_"])
    async def test_only_named_workflows_are_heard(self, serve: Serve, tmp_path: Path, name: str) -> None:
        """`workflows` names the workflows by name, file, path or id; errors of others start no run."""
        steps = dict.fromkeys(["Work 2", "Work 3"], FAILING)
        async with serve(f"{ERRORS[:-1]}, workflows: [{name}]}}", HTTP, HTTP, steps=steps) as site:
            if name == "p_":
                (name,) = (each.id for each in site.context.workflows.list_workflows() if each.path.stem == "work-3")
                write(tmp_path, f"{ERRORS[:-1]}, workflows: [{name}]}}")
                await site.pass_time(RELOAD_INTERVAL_S)
            site.enable()
            await site.post("Work 2")
            await site.post("Work 3")
            runs = await site.pass_time()

        (handler,) = (run for run in runs if run.workflow == "Work")
        assert trigger_of(handler)["event"]["original_context"]["workflow_name"] == "Work 3"

    async def test_an_error_of_a_handler_starts_nothing(self, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
        """Neither a failed run of a workflow with an errors trigger nor one that it triggers starts such a workflow, which the log reports."""
        both = "triggers: [{type: http}, {type: errors}]"
        calling = node("await $.flow.trigger('work-3')")
        async with serve(ERRORS, both, HTTP, steps={"Work 2": calling, "Work 3": FAILING}, on=True) as site:
            await site.post("Work 2")
            runs = await site.pass_time()

        assert sorted((run.workflow, run.status) for run in runs) == [("Work 2", "error"), ("Work 3", "error")]
        logged = [each.getMessage() for each in caplog.records if "because it handles errors" in each.getMessage()]
        assert [message.partition(" starts ")[0] for message in logged] == [
            f"The failed run {run.id} of {run.workflow!r}" for run in reversed(runs)
        ]

    async def test_a_run_that_is_retried_has_not_failed(self, serve: Serve) -> None:
        """With auto_retry, a failed step pauses the run: no event before the last try."""
        async with serve(ERRORS, f"{HTTP}\nsettings: {{auto_retry: true}}", steps={"Work 2": FAILING}, on=True) as site:
            await site.post("Work 2")
            (run,) = await site.pass_time()

        assert (run.status, run.sends) == ("paused", ())

    async def test_a_test_run_starts_nothing(self, serve: Serve) -> None:
        """A failed test run starts no workflow, as on Pipedream."""
        async with serve(ERRORS, HTTP, steps={"Work 2": FAILING}, on=True) as site:
            (served,) = (each for each in site.context.workflows.list_workflows() if each.path.stem == "work-2")
            request = build_run_request(
                site.context, served, Event(), external_user_id=None, environment="development", test=True
            )
            await site.context.engine.run(request)
            (run,) = await site.pass_time()

        assert (run.status, run.sends) == ("error", ())

    async def test_a_second_delivery_starts_no_second_run(self, serve: Serve) -> None:
        """An event that is delivered again, before or after its run has started, starts one run."""
        async with serve(ERRORS, HTTP, steps={"Work 2": FAILING}) as site:
            state = site.enable()
            await site.post("Work 2")
            await deliver_again(site)
            waiting = site.project.trigger_events.list_waiting([state.target], 10)
            first = await site.pass_time()
            await deliver_again(site)
            site.restart()
            runs = await site.pass_time()

        assert len(waiting) == 1
        assert len(runs) == len(first) == 2

    async def test_a_trigger_that_was_turned_off_is_left_out(self, serve: Serve) -> None:
        """If the trigger is turned off before the event is delivered, the record reports that no workflow listens."""
        async with serve(ERRORS, HTTP, steps={"Work 2": FAILING}, on=True) as site:
            await site.post("Work 2")
            site.disable()
            await deliver_again(site)
            (failed,) = (run for run in await site.pass_time() if run.workflow == "Work 2")

        assert [sent.note for sent in failed.sends] == ["Not emitted: no workflow listens."]


class TestEmits:
    """`type: emit`."""

    async def test_an_emitted_event_starts_the_workflow(self, serve: Serve) -> None:
        """`$.send.emit` starts the workflows that listen to that workflow and channel; a value that is not an object becomes one."""
        listening = "trigger: {type: emit, workflows: [Work 3], channel: depot}"
        emitting = node("$.send.emit({ parcel: 7 }, 'depot'); $.send.emit('text', 'depot'); $.send.emit({ parcel: 8 })")
        steps = {"Work 3": emitting, "Work 4": emitting}
        async with serve(
            listening, "trigger: {type: emit, workflows: [Work 3]}", HTTP, HTTP, steps=steps, on=True
        ) as site:
            site.enable("Work 2")
            await site.post("Work 3")
            await site.post("Work 4")
            runs = await site.pass_time()
            await deliver_again(site)
            again = await site.pass_time()

        assert events_of([run for run in runs if run.workflow == "Work"]) == [{"parcel": 7}, {"value": "text"}]
        assert events_of([run for run in runs if run.workflow == "Work 2"]) == [{"parcel": 8}]
        sends = {run.workflow: [(sent.outcome, sent.to) for sent in run.sends] for run in runs}
        assert sends["Work 3"] == [("sent", "Work"), ("sent", "Work"), ("sent", "Work 2")]
        assert sends["Work 4"] == [("shown", None)] * 3
        assert len(again) == len(runs) == 5

    async def test_a_listener_runs_for_the_user_of_the_run_that_emits(self, serve: Serve) -> None:
        """Headers of the emitted event do not choose another user or environment."""
        emitting = node(
            "$.send.emit({ headers: { 'x-pd-external-user-id': 'bob', 'x-pd-environment': 'development' } })"
        )
        identity = {"x-pd-external-user-id": "ada", "x-pd-environment": "production"}
        async with serve(
            "trigger: {type: emit, workflows: [Work 2]}", HTTP, steps={"Work 2": emitting}, on=True
        ) as site:
            await site.post("Work 2", **identity)
            runs = await site.pass_time()

        assert [(run.external_user, run.environment) for run in runs] == [("ada", "production")] * 2

    @pytest.mark.parametrize(("sends", "starts"), [(False, False), (True, True)])
    async def test_a_replay_starts_workflows_only_if_it_sends(self, serve: Serve, sends: bool, starts: bool) -> None:
        """Neither the events nor the error of a replay, or of a run that it triggers, are heard unless it sends its calls."""
        listening = "triggers: [{type: errors}, {type: emit, workflows: [Work 3]}]"
        steps = {
            "Work 2": node("await $.flow.trigger('work-3')"),
            "Work 3": node("$.send.emit({ parcel: 7 }); throw new Error('no depot')"),
        }
        async with serve(listening, HTTP, HTTP, steps=steps) as site:
            await site.post("Work 2")
            (first,) = (run for run in await site.pass_time() if run.workflow == "Work 2")
            site.enable()
            engine = site.context.engine
            await engine.run((await prepare_replay(engine, first.id, sends=sends)).request)
            runs = await site.pass_time()

        assert any(run.workflow == "Work" for run in runs) is starts

    async def test_a_secret_in_an_event_is_a_placeholder(self, serve: Serve) -> None:
        """An event leaves its run without secrets, also if it is delivered by another process."""
        listening = "trigger: {type: emit, workflows: [Work 2]}"
        emitting = node("$.send.emit({ key: process.env.DEPOT_KEY })")
        async with serve(listening, HTTP, steps={"Work 2": emitting}) as site:
            site.project.variables.set("DEPOT_KEY", SECRET)
            state = site.enable()
            await site.post("Work 2")
            events = site.project.trigger_events
            (waiting,) = events.list_waiting([state.target], 10)
            events.finish(waiting, "none")
            site.project.variables.remove("DEPOT_KEY")
            await deliver_again(site)
            (again,) = events.list_waiting([state.target], 10)

        assert waiting.data == again.data == {"key": "⟦secret:env/DEPOT_KEY⟧"}


@pytest.mark.parametrize("times", ["cron: '* * * * *'", "interval_seconds: 60"])
async def test_a_clock_that_was_ahead_stops_no_schedule(serve: Serve, times: str) -> None:
    """After a clock was an hour ahead for minutes, a schedule fires at its next time."""
    async with serve(f"trigger: {{type: schedule, {times}}}", on=True) as site:
        await site.pass_time(60)
        site.clock.jump(3600)
        await site.pass_time()
        during = await site.pass_time(60)
        site.clock.jump(-3600)
        await site.pass_time()
        await site.pass_time(30)
        due = site.state().due
        after = await site.pass_time(60)

    assert len(during) == 2
    assert due is not None
    assert due - site.clock.now() <= timedelta(0)
    assert len(after) > len(during)


@pytest.mark.parametrize(
    "trigger",
    ["source, uses: depot-tick@0.1.0", "schedule, interval_seconds: 7200", "schedule, cron: '0 */2 * * *'"],
)
@pytest.mark.parametrize("is_new", [False, True], ids=["same server", "next server"])
async def test_a_tick_that_a_wrong_clock_fired_early_does_not_fire_again(
    serve: Serve, trigger: str, is_new: bool
) -> None:
    """A tick that fires because the clock is an hour ahead does not fire at its true time, and the next one does."""
    async with serve(f"trigger: {{type: {trigger}}}") as site:
        write_source(site, "depot-tick", TICK_SOURCE)
        site.enable()
        await site.pass_time(3700)
        site.clock.jump(3600)
        await site.pass_time()
        early = await site.pass_time(60)
        site.clock.jump(-3600)
        if is_new:
            site.restart()
        await site.pass_time()
        await site.pass_time(60)
        again = await site.pass_time(3600)
        after = await site.pass_time(7200)

    assert (len(early), len(again), len(after)) == (1, 1, 2)


async def test_a_clock_that_is_ahead_for_seconds_fires_nothing(serve: Serve) -> None:
    """A clock that is an hour ahead for ten seconds fires no schedule before its time."""
    async with serve(HOURLY, on=True) as site:
        await site.pass_time(60)
        site.clock.jump(3600)
        ahead = await site.pass_time(10)
        site.clock.jump(-3600)
        early = await site.pass_time(60)
        due = await site.pass_time(3600)

    assert (ahead, early, len(due)) == ([], [], 1)


async def test_the_loop_fires_until_it_is_cancelled(serve: Serve) -> None:
    """The task of the server fires what is due and starts its run."""
    async with serve(HOURLY, on=True) as site:
        site.clock.advance(1800)
        running = asyncio.gather(site.triggers.run(), site.events.run())
        await until(lambda: site.state().run_id)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        runs = await site.pass_time()

    assert [run.id for run in runs] == [site.state().run_id]


async def test_a_workflow_that_is_not_served_keeps_its_event(serve: Serve) -> None:
    """A trigger of a workflow that this server does not serve is left to another one."""
    async with serve(HOURLY) as site:
        state = site.enable()
        table = site.project.workflow_triggers
        table.save([replace(state, workflow_id="p_elsewhere")])
        runs = await site.pass_time(1800)
        elsewhere = table.find("p_elsewhere/schedule")

    assert len(runs) == 1
    assert elsewhere is not None
    assert elsewhere.due == state.due


class TestSeveralServers:
    """Two servers on one database."""

    async def test_a_schedule_fires_once(self, serve: Serve, postgres_url: str) -> None:
        """Both servers see that the schedule is due; one event is stored, and one of them starts its run."""
        async with (
            serve(HOURLY, place="first", database_url=postgres_url) as first,
            serve(HOURLY, place="second", database_url=postgres_url, clock=first.clock) as second,
        ):
            first.enable()
            before = await pass_time_on(first, second, 0)
            once = await pass_time_on(first, second, 1805)
            again = await pass_time_on(first, second, 3600)

        assert before == []
        assert [run.status for run in once] == ["success"]
        assert events_of(again)[0] == events_of(once)[0]
        assert len(again) == 2

    async def test_a_schedule_fires_at_the_time_of_the_database(self, serve: Serve, postgres_url: str) -> None:
        """Of two hosts whose clocks are an hour ahead and an hour back, one fires when the time has come in the database, once."""
        async with (
            serve(HOURLY, place="first", database_url=postgres_url, clock=WrongClock(3600)) as fast,
            serve(HOURLY, place="second", database_url=postgres_url, clock=WrongClock(-3600)) as slow,
        ):
            engine = fast.context.project.sqlalchemy_engine

            def execute(sql: str) -> float:
                with engine.begin() as connection:
                    return float(connection.exec_driver_sql(sql).scalar_one())

            now = "extract(epoch from clock_timestamp())"
            fast.enable()
            for site in (fast, slow):  # reads the notebook, and computes the next time
                await site.triggers.fire_due()
            computed_s = execute(f"select due - {now} from workflow_triggers")
            execute(f"update workflow_triggers set due = {now} + 2 returning 1")
            late_s: list[float] = []
            async with asyncio.timeout(60):
                while not late_s:
                    left_s = execute(f"select due - {now} from workflow_triggers")
                    await asyncio.gather(fast.triggers.fire_due(), slow.triggers.fire_due())
                    if execute("select count(*) from trigger_events") > 0:
                        late_s.append(-left_s)
                    await asyncio.sleep(0.05)
            await asyncio.gather(fast.triggers.fire_due(), slow.triggers.fire_due())
            events = execute("select count(*) from trigger_events")
            next_s = execute(f"select due - {now} from workflow_triggers")

        assert 0 < computed_s <= 3600
        assert late_s[0] > -0.5  # smaller differences of clocks are not corrected
        assert events == 1
        assert 0 < next_s <= 3600

    async def test_a_source_is_activated_and_polled_once(self, serve: Serve, postgres_url: str) -> None:
        """The hook that activates the source runs once; each of its events starts one run."""
        async with (
            serve(PARCELS % 2, place="first", database_url=postgres_url) as first,
            serve(PARCELS % 2, place="second", database_url=postgres_url, clock=first.clock) as second,
        ):
            first.enable()
            await pass_time_on(first, second, 0)
            activations = source_log(first, "activations")
            runs = await pass_time_on(first, second, 60)
            again = await pass_time_on(first, second, 60)

        assert activations == 1
        assert events_of(runs) == [{"parcel": 1}, {"parcel": 2}]
        assert len(again) == 2


async def pass_time_on(first: Serving, second: Serving, seconds: float) -> list[Execution]:
    """Advance the clock of two servers, which fire what is due and start runs at the same time; return all runs."""
    first.clock.advance(seconds)
    sites = (first, second)
    await asyncio.gather(*(site.triggers.fire_due() for site in sites))
    for site in sites:
        await site.settle()
    await asyncio.gather(*(site.events.start_runs() for site in sites))
    for site in sites:
        await site.settle()
    return await first.context.engine.journal.list_executions()
