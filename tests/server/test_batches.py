"""A schedule with `for_each: external_user` runs its workflow once for each user who has the accounts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pdkernel.common.identity import Environment
from pdkernel.execution import BatchSummary, Execution
from pdkernel.journal import ExecutionQuery
from pdkernel.operations.batches import cancel_batch, load_summary, request_retry
from pdkernel.operations.run_history import list_runs
from pdkernel.server.batches import Batches
from tests.server.test_workflow_triggers import HOURLY, Serve, Serving, serve, write

__all__ = ["serve"]

STEP = """\
%%pdstep notify --app slack
def handler(pd):
    user = pd.steps["trigger"]["context"]["external_user_id"]
    token = pd.inputs["slack"]["$auth"]["oauth_access_token"]
    if token == "bad":
        raise ValueError(f"no such channel for {user}")
    return {"user": user, "token": token}
"""
EACH = "trigger: {type: schedule, cron: '30 * * * *', for_each: external_user}"
PLAIN = "%%pdstep notify\ndef handler(pd):\n    return 1"
HALF_HOUR_S = 1800


def connect(
    site: Serving, user: str, token: str | None = None, *, app: str = "slack", environment: Environment = "development"
) -> None:
    """Connect an account of *app* for the user."""
    site.context.directory.add_account(
        app=app,
        credentials={"oauth_access_token": token or f"token-of-{user}"},
        external_user_id=user,
        environment=environment,
    )


class Batched:
    """A served schedule and its batches."""

    def __init__(self, site: Serving, dispatching: asyncio.Task[None] | None = None) -> None:
        self.site, self.project = site, site.project
        self.directory, self.journal = site.context.directory, site.context.engine.journal
        self._dispatching = dispatching
        self.batches = Batches(site.context, site.registry)

    def stop_dispatch(self) -> None:
        """Let recorded runs wait."""
        assert self._dispatching is not None
        self._dispatching.cancel()

    async def tick(self, seconds: float = HALF_HOUR_S) -> None:
        """Let the next time of the schedule come."""
        self.site.clock.advance(seconds)
        await self.site.triggers.fire_due()

    async def look(self) -> None:
        """Record what is due, as the server does, and wait until it is recorded."""
        await self.batches.continue_open()
        while pending := [*self.site.registry._sources]:
            await asyncio.wait(pending)

    async def record(self) -> None:
        """Let the next time of the schedule come, and record its runs, which wait."""
        self.stop_dispatch()
        await self.tick()
        await self.look()

    async def finish(self) -> BatchSummary:
        """Let the server work until the newest batch is done; return its summary."""
        async with asyncio.timeout(30):
            while (found := await self.summary()).state != "done":
                await self.look()
                await asyncio.sleep(0.01)
        return found

    async def complete(self, seconds: float = HALF_HOUR_S) -> BatchSummary:
        """Let the next time of the schedule come, and its batch be done."""
        await self.tick(seconds)
        return await self.finish()

    async def summary(self) -> BatchSummary:
        """The summary of the newest batch."""
        (newest,) = self.project.batches.list_newest(limit=1)
        return await load_summary(self.project, self.journal, newest.id)

    async def runs(self) -> list[Execution]:
        """All runs of the project, oldest first."""
        return (await self.journal.list_executions(limit=1000))[::-1]


@asynccontextmanager
async def batched(
    serve: Serve, header: str = EACH, step: str = STEP, *, users: Mapping[str, str | None] | None = None, **options: Any
) -> AsyncIterator[Batched]:
    """A served schedule for these users, each with the token of their Slack account; its dispatcher works."""
    async with serve(header, steps={"Work": step}, **options) as site:
        for user, token in (users or {}).items():
            connect(site, user, token)
        site.enable()
        dispatching = asyncio.create_task(site.registry.dispatch.run())
        try:
            yield Batched(site, dispatching)
        finally:
            dispatching.cancel()


class TestRuns:
    """One tick makes one batch."""

    async def test_each_user_has_a_run_with_their_own_account(self, serve: Serve) -> None:
        """A run sees the account of its user, and the batch counts them."""
        async with batched(serve, users={"ada": None, "bob": None}) as each:
            summary = await each.complete()
            runs = await each.runs()

            owned = {account.id: account.external_user_id for account in each.directory.accounts(own=False)}

        values: list[Any] = [run.step("notify").return_value for run in runs]
        assert {value["user"] for value in values} == {"ada", "bob"}
        for run in runs:
            assert [owned[account.id] for account in run.step("notify").accounts] == [run.external_user]
        assert {run.batch for run in runs} == {summary.id}
        assert (summary.users, summary.succeeded, summary.failed, summary.skipped) == (2, 2, (), ())

    async def test_a_user_without_an_account_is_skipped_with_the_app(self, serve: Serve) -> None:
        """No run is recorded for that user, and the summary names what is missing."""
        async with batched(serve, users={"ada": None}) as each:
            connect(each.site, "bob", app="github")
            summary = await each.complete()

        assert [(user.external_user, user.missing) for user in summary.skipped] == [("bob", ("slack",))]
        assert (summary.users, summary.succeeded) == (2, 1)

    async def test_a_batch_waits_for_paused_runs(self, serve: Serve) -> None:
        """A batch whose only run is paused is not done, and counts the run as one in progress."""
        pausing = STEP.replace("def handler(pd):\n", "def handler(pd):\n    pd.flow.delay(60_000)\n")
        async with batched(serve, step=pausing, users={"ada": None}) as each:
            await each.tick()
            async with asyncio.timeout(30):
                while [run.status for run in await each.runs()] != ["paused"]:
                    await each.look()
                    await asyncio.sleep(0.01)
            await each.look()
            summary = await each.summary()

        assert (summary.state, summary.in_progress) == ("running", 1)

    async def test_a_list_names_the_users(self, serve: Serve) -> None:
        """Only they have runs; a user who does not exist is skipped without an app."""
        header = EACH.replace("external_user}", "{external_user: [ada, zoe], except: [bob]}}")
        async with batched(serve, header, users={"ada": None, "bob": None, "eve": None}) as each:
            summary = await each.complete()
            runs = await each.runs()

        assert [run.external_user for run in runs] == ["ada"]
        assert [(user.external_user, user.missing) for user in summary.skipped] == [("zoe", ())]

    async def test_a_filter_leaves_users_out(self, serve: Serve) -> None:
        """Users without the apps of `having`, users of `except` and users of another environment are not counted."""
        setting = "{external_user: all, having: [github], except: [eve], environment: production}}"
        async with batched(serve, EACH.replace("external_user}", setting), users={"dev": None}) as each:
            for user in ("ada", "bob", "eve"):
                connect(each.site, user, environment="production")
            for user in ("ada", "eve"):
                connect(each.site, user, app="github", environment="production")
            summary = await each.complete()
            runs = await each.runs()

        assert [(run.external_user, run.environment) for run in runs] == [("ada", "production")]
        assert (summary.users, summary.skipped) == (1, ())

    async def test_a_workflow_without_accounts_runs_for_all_users(self, serve: Serve) -> None:
        """Users with any account are users of the project."""
        async with batched(serve, step=PLAIN, users={"ada": None, "bob": None}) as each:
            assert (await each.complete()).succeeded == 2

    async def test_the_free_plan_has_no_runs_in_production(self, serve: Serve) -> None:
        """The batch has the reason, instead of a failed run for each user."""
        setting = "{external_user: all, environment: production}}"
        async with batched(serve, EACH.replace("external_user}", setting)) as each:
            connect(each.site, "ada", environment="production")
            each.project.set_plan("free")
            summary = await each.complete()

            assert "higher tier plan" in (summary.problem or "")
            assert not await each.runs()

    async def test_other_schedules_have_one_run_without_a_user(self, serve: Serve) -> None:
        """Without the key nothing changes."""
        async with serve(HOURLY) as site:
            site.enable()
            (run,) = await site.pass_time(HALF_HOUR_S)

            assert (run.external_user, run.batch) == (None, None)
            assert not site.context.project.batches.list_newest()


class TestLimits:
    """`at_once`, and the limits of the workflow."""

    @pytest.mark.parametrize(("at_once", "more", "begins"), [(2, "", 2), (5, "\nsettings: {concurrency: 1}", 1)])
    async def test_the_stricter_limit_holds(self, serve: Serve, at_once: int, more: str, begins: int) -> None:
        """No more runs execute than `at_once` and the `concurrency` of the workflow permit; the others wait in the journal's queue."""
        header = EACH.replace("external_user}", f"{{external_user: all, at_once: {at_once}}}}}") + more
        async with batched(serve, header, users={f"user-{n}": None for n in range(6)}) as each:
            await each.record()
            claimed = [len(await each.journal.claim_ready(100)) for _ in range(2)]
            counts = await each.journal.count_batch((await each.summary()).id)
            wakes = await each.journal.next_wake()

        assert (claimed, wakes) == ([begins, 0], None)
        assert counts == {"ready": 6 - begins, "running": begins}

    async def test_a_tick_is_left_out_while_runs_wait(self, serve: Serve) -> None:
        """A schedule that is faster than its runs does not store more and more of them."""
        async with batched(serve, users={"ada": None}) as each:
            await each.record()
            await each.tick(2 * HALF_HOUR_S)
            await each.look()

            assert len(await each.runs()) == 1
            assert "left out" in (each.site.state().result or "")


class TestPromises:
    """An accepted tick gives each user one run, whatever dies."""

    async def test_a_server_that_dies_between_pages_is_followed(self, serve: Serve) -> None:
        """The next process records the rest: no user is lost, and none has two runs."""
        users = {f"user-{n:04}": None for n in range(450)}
        async with batched(serve, step=PLAIN, users=users) as each:
            each.stop_dispatch()
            await each.tick()
            await each.batches.continue_open()
            while len(await each.journal.list_executions(limit=1000)) < 210:
                await asyncio.sleep(0)
            for task in each.site.registry._sources:
                task.cancel()
            await asyncio.gather(*each.site.registry._sources, return_exceptions=True)
            between = await each.summary()
            next_process = Batched(each.site)
            await next_process.look()
            after = await next_process.summary()
            runs = await each.runs()

        assert (between.state, after.state) == ("listing", "running")
        assert Counter(run.external_user for run in runs) == Counter(list(users))

    async def test_two_servers_record_each_user_once(self, serve: Serve) -> None:
        """Both find the same batch, and share nothing but the database."""
        users = {f"user-{n:04}": None for n in range(250)}
        async with batched(serve, step=PLAIN, users=users) as each:
            each.stop_dispatch()
            await each.tick()
            (batch,) = each.project.batches.list_open()
            other = Batches(each.site.context, each.site.restarted_registry())
            served = each.site.context.workflows.find_id(batch.workflow_id)
            assert served is not None
            await asyncio.gather(*(one._record(batch.id, served) for one in (each.batches, other)))
            runs = await each.runs()

        assert Counter(run.external_user for run in runs) == Counter(list(users))

    async def test_users_who_come_later_have_no_run_of_the_tick(self, serve: Serve) -> None:
        """The users are those of the moment at which the tick is listed; the next tick has the new one."""
        async with batched(serve, users={"ada": None}) as each:
            await each.complete()
            connect(each.site, "bob")
            first = await each.finish()
            second = await each.complete(2 * HALF_HOUR_S)

        assert (first.users, second.users) == (1, 2)

    async def test_a_schedule_that_was_removed_ends_its_batch(self, serve: Serve) -> None:
        """The batch says why it has no runs."""
        async with batched(serve, users={"ada": None}) as each:
            await each.tick()
            write(each.site.folder, HOURLY, step=STEP)
            each.site.clock.advance(60)
            summary = await each.finish()

            assert "removed" in (summary.problem or "")
            assert not await each.runs()


async def test_the_runs_of_a_batch_are_cancelled_together(serve: Serve) -> None:
    """Those that wait do not start, and the batch ends; users whose runs have ended keep them."""
    async with batched(serve, users={f"user-{n}": None for n in range(5)}) as each:
        await each.record()
        (batch,) = each.project.batches.list_open()
        cancelled = [await cancel_batch(each.project, each.journal, batch.id, by="ada") for _ in range(2)]
        summary = await each.finish()

    assert cancelled == [5, 0]
    assert {user.status for user in summary.failed} == {"cancelled"}


class TestFailures:
    """Failed runs are reported once, and run again alone."""

    async def test_failed_users_are_listed_with_the_cause(self, serve: Serve) -> None:
        """The summary has the run and the message of each."""
        async with batched(serve, users={"ada": None, "bob": "bad"}) as each:
            summary = await each.complete()

        (failed,) = summary.failed
        assert (failed.external_user, failed.status) == ("bob", "error")
        assert "no such channel for bob" in (failed.error or "")
        assert summary.succeeded == 1

    async def test_one_notification_reports_all_failures(self, serve: Serve) -> None:
        """A thousand failed users are one message, with the numbers and the first ones."""
        async with batched(serve, users={f"user-{n:02}": "bad" for n in range(15)}) as each:
            each.project.settings.set("error_notification", "https://alerts.example.com/pd")
            await each.complete()
            await each.look()
            sends = [send for run in await each.runs() for send in run.sends]

        (only,) = sends
        payload: Any = only.payload
        facts = payload["data"]
        assert (facts["failed"], facts["users"], len(facts["first_failed"])) == (15, 15, 10)

    async def test_an_errors_trigger_fires_once(self, serve: Serve) -> None:
        """The workflow that listens gets the event of the first failed run."""
        async with serve(EACH, "trigger: {type: errors}", steps={"Work": STEP}) as site:
            for user in ("ada", "bob", "eve"):
                connect(site, user, "bad")
            site.enable()
            site.enable("Work 2")
            dispatching = asyncio.create_task(site.registry.dispatch.run())
            each = Batched(site)
            await each.complete()
            await site.context.engine.deliver_due()
            await site.events.start_runs()
            await site.settle()
            dispatching.cancel()
            handled = [run for run in await each.runs() if run.workflow == "Work 2"]

        assert len(handled) == 1
        assert handled[0].external_user == "ada"

    async def test_a_retry_runs_the_failed_users_only(self, serve: Serve) -> None:
        """Their new runs are of the same batch, and the summary counts the newest run of each user."""
        async with batched(serve, users={"ada": None, "bob": "bad"}) as each:
            first = await each.complete()
            (account,) = each.directory.accounts(external_user_id="bob")
            each.directory.reconnect_account(account.id, {"oauth_access_token": "good"})
            each.site.clock.advance(1)  # a list has the newest run first
            count = await request_retry(each.project, each.journal, first.id)
            second = await each.finish()
            again = await each.journal.list_executions(external_user_id="bob")
            listed = await each.journal.list_executions(external_user_id="ada")

        assert (count, second.succeeded, second.failed, second.retries) == (1, 2, (), 1)
        assert [run.status for run in again] == ["success", "error"]
        assert again[0].replay_of == again[1].id
        assert len(listed) == 1

    async def test_a_retry_that_is_interrupted_starts_no_run_twice(self, serve: Serve) -> None:
        """The retry of a failed run has a dedupe key of its own."""
        async with batched(serve, users={"ada": "bad", "bob": "bad"}) as each:
            first = await each.complete()
            await request_retry(each.project, each.journal, first.id)
            each.stop_dispatch()
            (batch,) = each.project.batches.list_open()
            await each.look()
            each.project.batches.set_state(batch, "retrying")
            await each.look()
            runs = await each.runs()

        assert batch.state == "retrying"
        assert Counter(run.external_user for run in runs) == {"ada": 2, "bob": 2}


async def test_runs_of_a_batch_are_found_by_its_id(serve: Serve) -> None:
    """The query of lists has a filter for the batch."""
    async with batched(serve, users={"ada": None, "bob": None}) as each:
        summary = await each.complete()
        await each.complete(2 * HALF_HOUR_S)
        found = await list_runs(each.project, ExecutionQuery(batch=summary.id))

    assert {run.external_user for run in found} == {"ada", "bob"}
    assert len(found) == 2
