"""Runs of a server: limits, retries after errors, notifications, messages that are tried again, and acts of other processes."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import statistics
import threading
from contextlib import AsyncExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from pdkernel.accounts import LocalDirectory
from pdkernel.common.clock import ManualClock
from pdkernel.engine.dispatch import POLL_INTERVAL_S
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.execution import Delivery
from pdkernel.model import Trigger
from pdkernel.operations.run_history import cancel_run, open_journal, resume_run
from pdkernel.operations.run_replay import prepare_replay, start_replay
from pdkernel.operations.triggers import enable_triggers
from pdkernel.server.endpoint.request_body import MAX_BODY_BYTES
from pdkernel.server.run_registry import _FOLLOW_INTERVAL_S, MAX_UNFINISHED_RUNS, RunRegistry
from tests.builders import Gate, a_workflow, node_step, python_step
from tests.http_servers import Answer, AnsweringServer, SentRequest, serve
from tests.notebook_files import notebook_of
from tests.server.served import served
from tests.server.site import Site, site_of
from tests.waiting import until, until_awaited


async def wait_for_successes(site: Site, count: int) -> None:
    """Wait until so many runs have succeeded."""

    async def have_succeeded() -> bool:
        return [run.status for run in await site.journal.list_executions()].count("success") >= count

    await until_awaited(have_succeeded)


def log_of(path: Path) -> str:
    """A handler's body that logs its begin and end."""
    return (
        f"import time\nlog = open({str(path)!r}, 'a', buffering=1)\nlog.write('begin\\n')\n"
        "time.sleep(0.05)\nlog.write('end\\n')"
    )


@pytest.mark.parametrize(
    ("before", "settings"),
    [
        pytest.param("", {}, id="at once"),
        pytest.param("if pd.context['run']['runs'] == 1: pd.flow.rerun(1)\n", {}, id="after a pause"),
        pytest.param("", {"concurrency": 1}, id="from the queue"),
    ],
)
async def test_a_step_starts_a_served_workflow_by_its_id(tmp_path: Path, before: str, settings: dict[str, Any]) -> None:
    """A run finds the id that the server gave to another workflow, also when it continues or waited for its start."""
    call = python_step("call", f"{before}return pd.flow.trigger(pd.steps['trigger']['event']['body'])")
    other = replace(a_workflow(python_step("one", "return 1"), name="Other"), triggers=(Trigger("schedule"),))

    async with site_of(tmp_path, a_workflow(call, **settings), other) as site:
        (served,) = (each for each in site.context.workflows.list_workflows() if each.source.workflow == other)
        await site.http.post(site.path(), json=served.id)
        runs = {run.workflow: run for run in await site.runs()}

    assert runs["Test"].step("call").return_value == 1, runs["Test"].error
    assert runs["Other"].status == "success"


PASS_ON = "body = pd.steps['trigger']['event']['body']\nreturn pd.flow.trigger(body['name'], body.get('payload'), body.get('options'))"
"""A step that passes on what its caller sends, as workflows do."""


async def child_users(site: Site) -> list[tuple[str | None, str]]:
    """The external users and environments of the runs of the other workflow, after all runs have ended."""
    return sorted((run.external_user or "", run.environment) for run in await site.runs() if run.workflow == "Other")


OTHER = a_workflow(python_step("one", "return pd.steps['trigger']['event'].get('headers')"), name="Other")


class TestChildRuns:
    """`$.flow.trigger` in a run of the server."""

    async def test_a_caller_does_not_choose_the_user_of_a_child_run(self, tmp_path: Path) -> None:
        """Neither headers of the payload nor the option lead to another user's run or to another environment."""
        ada = {"x-pd-external-user-id": "ada"}
        bob = {"x-pd-external-user-id": "bob", "X-PD-Environment": "production"}
        async with site_of(tmp_path, a_workflow(python_step("call", PASS_ON)), OTHER) as site:
            path = site.path()
            await site.http.post(path, headers=ada, json={"name": "Other", "payload": {"headers": bob}})
            await site.http.post(path, headers=ada, json={"name": "Other", "options": {"externalUserId": "bob"}})
            await site.http.post(path, json={"name": "Other", "payload": {"headers": bob}})
            users = await child_users(site)
            runs = await site.runs()

        shown = [run.step("one").return_value for run in runs if run.external_user and run.workflow == "Other"]
        assert users == [("", "development"), ("ada", "development")]
        assert shown == [{"x-pd-environment": "development", "x-pd-external-user-id": "ada"}]
        assert ["cannot name another one" in run.error.message for run in runs if run.error is not None] == [True]

    async def test_a_run_without_a_user_starts_a_workflow_for_each_user(self, tmp_path: Path) -> None:
        """A run of a schedule, or of a caller without a user, fans out to users."""
        fan_out = python_step(
            "call", "for user in ('ada', 'bob'):\n    pd.flow.trigger('Other', {}, external_user_id=user)"
        )
        async with site_of(tmp_path, a_workflow(fan_out), OTHER) as site:
            await site.http.post(site.path())
            users = await child_users(site)

        assert users == [("ada", "development"), ("bob", "development")]

    async def test_a_step_calls_an_endpoint_without_auth(self, tmp_path: Path) -> None:
        """A call of a run for a user starts a run for that user, or is refused; one of a run without a user may name one."""
        call = node_step(
            "call",
            "const { url, user } = steps.trigger.event.body;\n"
            "const headers = user ? { 'x-pd-external-user-id': user, 'x-pd-environment': 'production' } : {};\n"
            "return (await fetch(url, { method: 'POST', headers })).status;",
        )
        async with site_of(tmp_path, a_workflow(call), OTHER) as site:
            url = f"{site.url}{site.path('Other')}"
            for caller, user in (("ada", "bob"), ("ada", "ada"), ("ada", None), (None, "bob")):
                headers = {"x-pd-external-user-id": caller} if caller else {}
                await site.http.post(site.path(), headers=headers, json={"url": url, "user": user})
                await site.runs()
            runs = await site.runs()

        assert [run.steps[0].return_value for run in runs if run.workflow == "Test"] == [403, 200, 200, 200]
        assert [(run.external_user, run.environment) for run in runs if run.workflow == "Other"] == [
            ("ada", "development"),
            ("ada", "development"),
            ("bob", "production"),
        ]

    async def test_a_workflow_that_is_not_served_is_not_started(self, tmp_path: Path) -> None:
        """A step names a notebook beside its own that is not served, or paths of it, and a served one by its path."""
        notebook_of(tmp_path / "hidden.ipynb", "%%pdstep one\ndef handler(pd):\n    return 1\n")
        names = [
            "hidden",
            "hidden.ipynb",
            "../hidden.ipynb",
            *(str(tmp_path / f"{name}.ipynb") for name in ("hidden", "Other")),
        ]
        async with site_of(tmp_path, a_workflow(python_step("call", PASS_ON)), OTHER) as site:
            path = site.path()
            for name in [*names, "Other", "Other.ipynb"]:
                await site.http.post(path, json={"name": name})
            runs = await site.runs()

        messages = [run.error.message for run in runs if run.error is not None]
        assert all("There is no workflow" in message for message in messages)
        assert (len(messages), [run.workflow for run in runs].count("Other")) == (len(names), 2)


def most_at_once(log: Path) -> int:
    """The most runs that were between their begin and their end in a log of `log_of`."""
    now = most = 0
    for line in log.read_text().split():
        now += 1 if line == "begin" else -1
        most = max(most, now)
    return most


class TestPlaces:
    """Runs that execute at once, and runs that wait for a place."""

    async def test_child_runs_obey_the_limit_of_runs(self, tmp_path: Path) -> None:
        """Of twelve runs that one step starts at once, two execute at a time while the step waits for them."""
        log = tmp_path / "log"
        call = node_step(
            "call", "return await Promise.all([...Array(12).keys()].map(n => $.flow.trigger('Other', {n})));"
        )
        other = a_workflow(python_step("one", f"{log_of(log)}\nreturn 1"), name="Other")
        async with site_of(tmp_path, a_workflow(call), other, size=2) as site:
            await site.http.post(site.path())
            runs = await site.runs()

        assert [run.status for run in runs] == ["success"] * 13, [run.error for run in runs]
        assert most_at_once(log) == 2

    async def test_chains_of_child_runs_end_with_one_place(self, tmp_path: Path) -> None:
        """Two chains of ten workflows, each of which waits for the next one, end although one run executes at a time."""
        step = python_step(
            "call",
            "n = pd.steps['trigger']['event']['body']['n']\n"
            "return n + (pd.flow.trigger('Test', {'body': {'n': n - 1}}) if n else 0)",
        )
        async with site_of(tmp_path, a_workflow(step), size=1) as site:
            await asyncio.gather(*(site.http.post(site.path(), json={"n": 9}) for _ in range(2)))
            runs = await site.runs()

        assert [run.status for run in runs] == ["success"] * 20, [run.error for run in runs]
        assert [run.steps[0].return_value for run in runs].count(45) == 2

    async def test_users_take_turns(self, tmp_path: Path) -> None:
        """A run of another user begins before the runs of a user who has sent many."""
        gate = Gate(tmp_path)
        async with site_of(tmp_path, a_workflow(python_step("work", gate.code)), size=1) as site:
            for user, count in (("ada", 6), ("bob", 1)):
                for _ in range(count):
                    await site.http.post(site.path(), headers={"x-pd-external-user-id": user})
            gate.open()
            runs = await site.runs()

        order = [run.external_user for run in sorted(runs, key=lambda run: run.steps[0].started_at or "")]
        assert order.index("bob") < 4, order
        assert len(order) == 7

    @pytest.mark.parametrize("settings", [{}, {"concurrency": 1}], ids=["plain", "from a queue"])
    async def test_the_next_server_continues_a_run_and_its_child_run(
        self, tmp_path: Path, settings: dict[str, Any]
    ) -> None:
        """Both are continued, in any order, although one run executes at a time."""
        gate = Gate(tmp_path)
        call = python_step("call", "return pd.flow.trigger('Other', {})")
        workflows = (
            a_workflow(call),
            a_workflow(python_step("one", f"{gate.code}\nreturn 1"), name="Other", **settings),
        )
        async with site_of(tmp_path, *workflows, size=1) as site:
            await site.http.post(site.path())
            await gate.wait_until_reached()
        gate.open()

        async with site_of(tmp_path, *workflows, size=1) as site:
            runs = await site.runs()

        assert [(run.workflow, run.status, run.steps[0].return_value) for run in runs] == [
            ("Test", "success", 1),
            ("Other", "success", 1),
        ]

    async def test_a_cancelled_run_ends_the_runs_that_it_waits_for(self, tmp_path: Path) -> None:
        """The child run that executes and one that waits for its workflow's limit are cancelled, and the places are free again."""
        gate = Gate(tmp_path)
        call = node_step("call", "return await Promise.all(['Held', 'Held'].map(name => $.flow.trigger(name, {})));")
        held = a_workflow(python_step("one", gate.code), name="Held", concurrency=1)
        async with site_of(tmp_path, a_workflow(call), held, a_workflow(python_step(), name="Next"), size=1) as site:
            parent = (await site.http.post(site.path())).json()["event_id"]
            await gate.wait_until_reached()
            assert await site.registry.cancel(parent)
            await site.http.post(site.path("Next"))
            runs = await site.runs()

        ended = sorted((run.workflow, run.status) for run in runs)
        assert ended == [*[("Held", "cancelled")] * 2, ("Next", "success"), ("Test", "cancelled")]


class TestLimits:
    """`settings: concurrency`, `throttle` and `queue`."""

    @pytest.mark.parametrize("servers", [1, 2])
    async def test_a_concurrency_of_one_holds_for_all_servers(
        self, tmp_path: Path, postgres_url: str, servers: int
    ) -> None:
        """Each server of a database starts runs that any has accepted, one at a time; each caller gets its response."""
        log, shared = tmp_path / "log", dict[str, Any](database_url=postgres_url, key_file=tmp_path / "key")
        answer = python_step(
            "answer", "pd.respond(status=200, body=pd.steps['trigger']['event']['body'], immediate=True)"
        )
        workflow = a_workflow(python_step("work", log_of(log)), answer, response="custom", concurrency=1)
        async with AsyncExitStack() as stack:
            sites = []
            for number in range(servers):
                (tmp_path / str(number)).mkdir()
                served = site_of(tmp_path / str(number), workflow, **(shared if servers > 1 else {}))
                sites.append(await stack.enter_async_context(served))
            path = sites[0].path()
            answers = await asyncio.gather(*(sites[n % servers].http.post(path, json={"n": n}) for n in range(10)))
            runs = await sites[0].runs()

        assert [answer.json() for answer in answers] == [{"n": n} for n in range(10)]
        assert log.read_text().splitlines() == ["begin", "end"] * 10
        assert [run.status for run in runs] == ["success"] * 10

    async def test_a_paused_run_holds_no_slot(self, tmp_path: Path) -> None:
        """A run that waits lets the next run of a workflow with a concurrency of 1 start."""
        step = node_step("ask", "if (steps.trigger.event.body.wait) { $.flow.suspend(60000) }\nreturn 1")
        async with site_of(tmp_path, a_workflow(step, concurrency=1)) as site:
            await site.http.post(site.path(), json={"wait": True})
            await site.wait_for_run("paused")
            await site.http.post(site.path(), json={"wait": False})
            await site.wait_for_run("success")

    async def test_an_event_that_is_refused_does_not_wait(self, tmp_path: Path) -> None:
        """An event with a large body is recorded with its error, and its steps do not run, also with a limit."""
        async with site_of(tmp_path, a_workflow(python_step("one", "return 1"), concurrency=1)) as site:
            answer = await site.http.post(site.path(), content=b"x" * (MAX_BODY_BYTES + 1))
            (run,) = await site.runs()

        assert (answer.status_code, run.status, run.step("one").status) == (413, "error", "not_run")

    async def test_a_full_queue_refuses_the_event(self, tmp_path: Path) -> None:
        """If the queue is full the caller gets 429 and the platform's words, and the run is recorded as refused."""
        gate = Gate(tmp_path)
        async with site_of(tmp_path, a_workflow(python_step("work", gate.code), concurrency=1, queue=1)) as site:
            await site.http.post(site.path(), json={"n": 0})
            await gate.wait_until_reached()
            answers = [await site.http.post(site.path(), json={"n": n}) for n in range(1, 4)]
            gate.open()
            runs = await site.runs()

        refused = [run for run in runs if run.error is not None]
        assert [answer.status_code for answer in answers] == [200, 429, 429]
        assert len(refused) == 2
        assert {run.error.code for run in refused if run.error} == {"queue_full"}
        assert all("Event Queue Full" in answer.text for answer in answers[1:])

    async def test_a_full_queue_refuses_an_event_that_is_not_stored(self, tmp_path: Path) -> None:
        """Such events wait in the server, as many as the queue has room for; nothing of them is recorded."""
        gate, log, nostore = Gate(tmp_path), tmp_path / "log", {"x-pd-nostore": "1"}
        work = python_step("work", f"{log_of(log)}\n{gate.code}")
        async with site_of(tmp_path, a_workflow(work, concurrency=1, queue=1)) as site:
            await site.http.post(site.path(), headers=nostore)
            await gate.wait_until_reached()
            answers = [await site.http.post(site.path(), headers=nostore) for _ in range(2)]
            gate.open()
            while site.registry.active_run_ids:
                await asyncio.sleep(0.02)
            runs = await site.runs()

        assert [answer.status_code for answer in answers] == [200, 429]
        assert "Event Queue Full" in answers[1].text
        assert (runs, most_at_once(log)) == ([], 1)

    async def test_a_lost_server_answers_an_event_that_is_not_stored(self, tmp_path: Path) -> None:
        """The caller of an event that enters the queue while the server loses its lease gets an answer."""
        async with site_of(tmp_path, a_workflow(python_step(), concurrency=1)) as site:
            calling = asyncio.create_task(site.http.post(site.path(), headers={"x-pd-nostore": "1"}))
            while not site.registry._sources:
                await asyncio.sleep(0)
            await site.registry.abandon_runs()
            async with asyncio.timeout(20):
                answer = await calling

        assert answer.status_code == 503
        assert "retry-after" in answer.headers

    async def test_child_runs_obey_the_limits_of_their_workflow(self, tmp_path: Path) -> None:
        """Runs that steps of several runs start at once, and a run that a request starts, execute one at a time."""
        log = tmp_path / "log"
        call = node_step("call", "return await Promise.all([1, 2].map(n => $.flow.trigger('Other', {n})));")
        other = a_workflow(python_step("one", f"{log_of(log)}\nreturn 7"), name="Other", concurrency=1)
        async with site_of(tmp_path, a_workflow(call), other) as site:
            paths = [site.path(), site.path(), site.path("Other")]
            await asyncio.gather(*map(site.http.post, paths))
            runs = await site.runs()

        assert [run.status for run in runs] == ["success"] * 7, [run.error for run in runs]
        assert [run.steps[0].return_value for run in runs if run.workflow == "Test"] == [[7, 7]] * 2
        assert most_at_once(log) == 1

    async def test_a_child_run_of_a_full_queue_fails_its_step(self, tmp_path: Path) -> None:
        """The step gets the error at once."""
        gate = Gate(tmp_path)
        call = python_step("call", "return pd.flow.trigger('Other', {})")
        other = a_workflow(python_step("one", gate.code), name="Other", concurrency=1, queue=1)
        async with site_of(tmp_path, a_workflow(call), other) as site:
            await site.http.post(site.path("Other"))
            await gate.wait_until_reached()
            await site.http.post(site.path("Other"))
            run_id = (await site.http.post(site.path())).json()["event_id"]
            run = await site.wait_for_run("error", run_id=run_id)
            gate.open()
            await site.runs()

        assert "Event Queue Full" in (run.error.message if run.error else "")

    @pytest.mark.parametrize("concurrency", [1, 2])
    async def test_a_run_that_waits_for_its_own_workflow_fails_at_once(self, tmp_path: Path, concurrency: int) -> None:
        """A run would wait for a run above it to end: the step fails, directly and through another workflow."""
        direct = python_step("call", "return pd.flow.trigger(pd.steps['trigger']['event']['body'], {'body': 'Test'})")
        between = a_workflow(python_step("on", "return pd.flow.trigger('Test', {'body': 'Test'})"), name="Between")
        async with site_of(tmp_path, a_workflow(direct, concurrency=concurrency), between) as site:
            for name in ("Test", "Between"):
                await site.http.post(site.path(), json=name)
            runs = await site.runs()

        assert [run.status for run in runs] == ["error"] * 3
        assert all("`concurrency`" in run.error.message for run in runs if run.error)

    async def test_the_limit_of_runs_in_progress(self, tmp_path: Path) -> None:
        """At the limit of runs and sources in progress, an endpoint responds 429 and starts no run, until one of them has ended."""
        ends, last = asyncio.Event(), asyncio.Event()
        async with site_of(tmp_path, a_workflow(python_step())) as site:
            for _ in range(MAX_UNFINISHED_RUNS - 1):
                site.registry.start_source(ends.wait())
            last_source = site.registry.start_source(last.wait())
            full, refused = not site.registry.has_room("ada"), await site.http.post(site.path())
            last.set()
            await last_source
            accepted = await site.http.post(site.path())
            ends.set()
            runs = await site.runs()

        assert (full, refused.status_code, refused.headers["retry-after"]) == (True, 429, "1")
        assert (accepted.status_code, len(runs)) == (200, 1)

    async def test_the_runs_in_progress_of_one_user_do_not_refuse_another(self, tmp_path: Path) -> None:
        """A user has at most half of the limit; then the user's events get 429, however the header is written, and others do not."""
        ends, user = asyncio.Event(), "x-pd-external-user-id"
        async with site_of(tmp_path, a_workflow(python_step())) as site:
            for _ in range(MAX_UNFINISHED_RUNS // 2):
                site.registry._launch("run", "ada", None, lambda _: ends.wait())  # type: ignore[arg-type, return-value]
            named = [{user: "ada"}, {user.title(): "ada"}, {user: "bob"}, {}]
            statuses = [(await site.http.post(site.path(), headers=each)).status_code for each in named]
            ends.set()
            await asyncio.sleep(0.01)
            later = await site.http.post(site.path(), headers={user: "ada"})

        assert (statuses, later.status_code) == ([429, 429, 200, 200], 200)

    async def test_a_throttle_limits_the_starts_of_a_period(self, tmp_path: Path) -> None:
        """Of four events at a throttle of two in a second, two start in the first second, and two in the next one."""
        clock = ManualClock()
        async with site_of(
            tmp_path, a_workflow(python_step(), throttle={"limit": 2, "interval": 1}), clock=clock
        ) as site:
            await asyncio.gather(*(site.http.post(site.path(), json={"n": n}) for n in range(4)))
            await wait_for_successes(site, 2)
            clock.advance(0.9)
            await asyncio.sleep(2.5 * POLL_INTERVAL_S)  # the server has looked for due runs
            first = sorted(run.status for run in await site.journal.list_executions())
            clock.advance(0.3)
            await wait_for_successes(site, 4)

        assert first == ["queued", "queued", "success", "success"]


class TestRetries:
    """`settings: auto_retry`."""

    async def test_a_failed_step_is_retried_later(self, tmp_path: Path) -> None:
        """The run pauses with the error in `$attempt`; a call of `rerun_url` retries the step, and earlier steps stay."""
        calls: list[str] = []

        def answer(request: SentRequest) -> tuple[int, str]:
            calls.append(request.path)
            return (503, "no") if len(calls) == 1 else (200, "ok")

        body = (
            "const answer = await fetch(steps.trigger.event.body.url)\n"
            "if (!answer.ok) { throw new Error('not yet') }\nreturn $.context.run.runs"
        )
        first = python_step("first", "return 'once'")
        with serve(AnsweringServer(answer)) as remote:
            async with site_of(tmp_path, a_workflow(first, node_step("flaky", body), auto_retry=True)) as site:
                await site.http.post(site.path(), json={"url": remote.url})
                paused = await site.wait_for_run("paused", "error")
                attempt: Any = paused.step("flaky").exports["$attempt"]
                await site.http.post(attempt["rerun_url"])
                (run,) = await site.runs()

        assert paused.status == "paused"
        assert attempt["error"] == {"name": "Error", "message": "not yet"}
        assert set(attempt) == {"error", "cancel_url", "rerun_url", "resume_ts"}
        assert (run.status, run.step("flaky").return_value, run.step("flaky").attempt) == ("success", 1, 2)

    async def test_a_timeout_is_not_retried(self, tmp_path: Path) -> None:
        """A step that exceeds its time fails the run at once, as on the platform."""
        slow = python_step("slow", "import time\ntime.sleep(30)", options="--timeout 1")
        async with site_of(tmp_path, a_workflow(slow, auto_retry=True)) as site:
            await site.http.post(site.path())
            (run,) = await site.runs()

        assert (run.status, run.error and run.error.code) == ("error", "timeout")


async def test_a_failed_run_is_reported_once(tmp_path: Path) -> None:
    """The address of `error_notification` receives the workflow, user, step, cause and the next command."""
    with serve(AnsweringServer(lambda _: (200, "ok"))) as receiver:
        async with site_of(tmp_path, a_workflow(node_step("bad", "throw new Error('broken')"))) as site:
            site.context.project.settings.set("error_notification", f"{receiver.url}/hook")
            await site.http.post(site.path())
            (run,) = await site.runs()
            await until(lambda: receiver.requests)

    (facts,) = (request.json() for request in receiver.requests)
    assert (facts["workflow"], facts["run"], facts["step"]) == ("Test", run.id, "bad")
    assert facts["error"] == {"name": "Error", "message": "broken"}
    assert facts["command"] == f"pdkernel runs show {run.id}"


async def test_a_message_is_tried_again_with_the_same_key(tmp_path: Path) -> None:
    """If a destination does not answer, the message waits for its next try, which has the same Idempotency-Key."""
    keys: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().splitlines()
        keys.append(next(line.partition(": ")[2] for line in head if line.startswith("idempotency-key")))
        if len(keys) > 1:
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    receiver = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = receiver.sockets[0].getsockname()[1]
    send = f"$.send.http({{ method: 'POST', url: 'http://127.0.0.1:{port}/hook', data: {{ n: 1 }} }})"
    async with receiver, site_of(tmp_path, a_workflow(node_step("send", send))) as site:
        await site.http.post(site.path())
        first = await until_sent(site, "failed")
        execute(site, "update outbox set due = 1 where due is not null")  # the time of the next try has come
        again = await until_sent(site, "sent")

    assert "Not sent" in (first.note or "")
    assert again.status == 204
    assert len(keys) == 2
    assert len(set(keys)) == 1


async def until_sent(site: Site, outcome: str) -> Delivery:
    """Return the only message of the only run as soon as it has *outcome*."""

    async def find() -> Delivery | None:
        (run,) = await site.runs()
        return next((each for each in run.sends if each.outcome == outcome), None)

    return await until_awaited(find)


async def test_another_process_cancels_a_long_step(tmp_path: Path) -> None:
    """A served run that is cancelled through the database ends, although its step would run on."""
    gate = Gate(tmp_path)
    async with (
        site_of(tmp_path, a_workflow(python_step("long", gate.code))) as site,
        open_journal(site.context.project) as other,
    ):
        run_id = (await site.http.post(site.path())).json()["event_id"]
        await gate.wait_until_reached()
        await cancel_run(other, run_id)
        (line,) = await site.wait_for_lines(1)
        (ended,) = await other.list_executions()

    assert "cancelled" in line
    assert ended.status == "cancelled"


async def test_a_run_that_is_cancelled_twice_is_recorded(tmp_path: Path) -> None:
    """The run's page and the server's look for cancelled runs may cancel a run at once: it is interrupted once, and both wait."""
    gate = Gate(tmp_path)
    async with site_of(tmp_path, a_workflow(python_step("long", gate.code))) as site:
        run_id = (await site.http.post(site.path())).json()["event_id"]
        await gate.wait_until_reached()
        with closing(sqlite3.connect(str(site.context.project.sqlite_path), isolation_level=None)) as other:
            other.execute("begin immediate")  # the record of the run's end waits for it
            cancelling = []
            for _ in range(2):
                cancelling.append(asyncio.create_task(site.registry.cancel(run_id)))
                await asyncio.sleep(0.3)
            were_done = [each.done() for each in cancelling]
            other.execute("rollback")
        await asyncio.gather(*cancelling)
        (line,) = await site.wait_for_lines(1)
        (run,) = await site.runs()

    assert were_done == [False, False]
    assert "cancelled" in line
    assert run.status == "cancelled"


async def test_another_process_resumes_and_replays_runs(tmp_path: Path) -> None:
    """A served run that a terminal resumes goes on in the server, and so does its replay."""
    workflow = a_workflow(
        python_step("wait", "pd.flow.suspend(3600_000)"), python_step("after", "return pd.steps['wait']")
    )
    async with site_of(tmp_path, workflow) as site:
        project = site.context.project
        run_id = (await site.http.post(site.path())).json()["event_id"]
        await site.wait_for_run("paused", run_id=run_id)
        async with await WorkflowEngine.start(project, LocalDirectory(project)) as terminal:
            resumed = await resume_run(terminal, run_id, {"ok": True})
            await site.wait_for_run("executing", "success", run_id=run_id)
            ended = await site.wait_for_run("success", run_id=run_id)
            queued = await start_replay(terminal, await prepare_replay(terminal, run_id))
        again = await site.wait_for_run("paused", run_id=queued.id)

    assert (resumed.claimed, resumed.is_continued) == (None, True)
    assert ended.step("after").return_value == {"$resume_data": {"ok": True}}
    assert (again.replay_of, again.trace_id) == (run_id, ended.trace_id)


async def test_a_second_signal_does_not_interrupt_a_clean_up(tmp_path: Path) -> None:
    """Work that is cancelled twice is interrupted once: its clean-up finishes, and both callers wait for that."""
    begun, is_cleaning, may_end = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            is_cleaning.set()
            await may_end.wait()
            ended.append("cleaned up")
        return ""

    ended: list[str] = []
    async with served(tmp_path) as site:
        registry = RunRegistry(site.context)
        registry.start_source(work())
        await begun.wait()
        first = asyncio.create_task(registry.close(0))
        await is_cleaning.wait()
        second = asyncio.create_task(registry.close(0))
        await asyncio.sleep(0)
        during = (first.done(), second.done())
        may_end.set()
        await asyncio.gather(first, second)

    assert during == (False, False)
    assert ended == ["cleaned up"]


@pytest.mark.parametrize(
    ("before", "after", "status", "calls"),
    [
        pytest.param("stand-in={url}", "deny", "error", 0, id="a policy that denies calls"),
        pytest.param("live via=http://127.0.0.1:9", "live via={url}", "success", 1, id="another proxy"),
    ],
)
async def test_a_run_goes_on_under_the_policy_of_its_server(
    tmp_path: Path, before: str, after: str, status: str, calls: int
) -> None:
    """A run that paused in a server with another policy, or proxy, calls as the next server permits, and through its proxy."""
    call = "import urllib.request\nurllib.request.urlopen('http://api.example.com/').read()"
    workflow = a_workflow(python_step("wait", "pd.flow.suspend(3600_000)"), python_step("call", call))
    with serve(AnsweringServer(lambda _: (204, b""))) as destination:
        async with site_of(tmp_path, workflow, egress=before.format(url=destination.url)) as first:
            await first.http.post(first.path())
            paused = await first.wait_for_run("paused")
        async with site_of(tmp_path, workflow, egress=after.format(url=destination.url)) as second:
            await resume_run(second.context.engine, paused.id, {})
            second.registry.dispatch.notify()
            (run,) = await second.runs()

    assert (run.status, len(destination.requests)) == (status, calls), run.error


async def test_a_message_is_tried_again_under_the_policy_of_its_server(tmp_path: Path) -> None:
    """A message that a destination did not take is not sent by the next server, which denies outbound calls."""
    with serve(AnsweringServer(lambda _: (503, b""))) as destination:
        workflow = a_workflow(python_step("tell", "pd.send.http(method='POST', url='http://api.example.com/', data=1)"))
        async with site_of(tmp_path, workflow, egress=f"stand-in={destination.url}") as first:
            await first.http.post(first.path())
            await until_sent(first, "sent")
        async with site_of(tmp_path, workflow, egress="deny") as second:
            project = second.context.project
            with project.sqlalchemy_engine.begin() as connection:
                connection.execute(text("update outbox set due = 1"))
            second.registry.deliver_due()
            while pending := [*second.registry._sources]:
                await asyncio.wait(pending)
            (run,) = await second.runs()

    assert len(destination.requests) == 1
    assert (run.sends[0].outcome, run.sends[0].status) != ("sent", 503)


async def test_a_run_that_goes_on_while_its_messages_are_sent_is_in_progress(tmp_path: Path) -> None:
    """A run whose pause ends while a destination is slow is known as running, so that a shutdown waits for it."""
    gate, slow = Gate(tmp_path), threading.Event()

    def answer(_: SentRequest) -> Answer:
        slow.wait(3)
        return 204, b""

    with serve(AnsweringServer(answer)) as destination:
        send = f"pd.send.http(method='POST', url={destination.url!r}, data=1)\npd.flow.delay(1)"
        async with site_of(tmp_path, a_workflow(python_step("tell", send), python_step("held", gate.code))) as site:
            run_id = (await site.http.post(site.path())).json()["event_id"]
            runs = site.registry
            await until(lambda: destination.requests)
            await asyncio.sleep(0.6)  # the server has looked for due runs
            slow.set()
            await gate.wait_until_reached()
            await asyncio.sleep(0.2)  # the first part of the run has ended
            active = set(runs.active_run_ids)
            gate.open()
            (run,) = await site.runs()

    assert active == {run_id}
    assert run.status == "success"
    assert len(destination.requests) == 1


async def test_a_run_that_goes_on_has_the_urls_of_its_server(tmp_path: Path) -> None:
    """A run that paused in a server with another public URL gives out URLs of the server that continues it."""
    ask = python_step("ask", "print(pd.flow.suspend(3600_000)['resume_url'])\nraise ValueError")
    workflow = a_workflow(python_step("wait", "pd.flow.suspend(3600_000)"), ask)
    async with site_of(tmp_path, workflow, base_url="https://before.example.com") as first:
        await first.http.post(first.path())
        paused = await first.wait_for_run("paused")
    async with site_of(tmp_path, workflow, base_url="https://after.example.com") as second:
        await resume_run(second.context.engine, paused.id, {})
        second.registry.dispatch.notify()
        run = await second.wait_for_run("error")

    assert run.step("ask").logs[0].text.startswith("https://after.example.com/")


def execute(site: Site, sql: str) -> list[Any]:
    """Run SQL in the file of the site's project, and return its rows."""
    with closing(sqlite3.connect(str(site.context.project.sqlite_path), isolation_level=None)) as connection:
        return connection.execute(sql).fetchall()


async def test_what_has_begun_is_on_disk_before_the_first_step(tmp_path: Path) -> None:
    """A run that starts at once has begun with the commit that accepts it; one that waits for its place begins when it gets it."""
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    first, second = map(Gate, folders)
    code = f"if pd.steps['trigger']['event']['body']['n'] == 1:\n    {first.code}\nelse:\n    {second.code}"
    begun = "select begun from runs order by created"
    async with site_of(tmp_path, a_workflow(python_step("work", code)), size=1) as site:
        await site.http.post(site.path(), json={"n": 1})
        await first.wait_until_reached()
        await site.http.post(site.path(), json={"n": 2})
        before = execute(site, begun)
        first.open()
        await second.wait_until_reached()
        after = execute(site, begun)
        second.open()
        await site.runs()

    assert (before, after[1:]) == ([(1,), (0,)], [(1,)])


@pytest.mark.parametrize(("settings", "expected"), [({}, 3), ({"concurrency": 1}, 5)])
async def test_a_warm_run_has_no_commit_for_its_begin(tmp_path: Path, settings: dict[str, Any], expected: int) -> None:
    """The commits of a run of two steps: its acceptance, the first step, and its end; with limits also their claim and the start."""
    workflow = a_workflow(python_step("one", "return 1"), python_step("two", "return 2"), **settings)
    async with site_of(tmp_path, workflow) as site:
        journal = site.journal
        commits = []
        for _ in range(5):
            before = journal.commits
            await site.http.post(site.path(), json={})
            await site.runs()
            commits.append(journal.commits - before)

    assert statistics.median(commits) == expected  # a commit may fall between two runs


async def test_an_unexpected_error_ends_the_run_and_its_queue_goes_on(tmp_path: Path) -> None:
    """A run that fails by an unexpected error does not stay in progress: the next run of its limited workflow starts."""
    gate = Gate(tmp_path)
    async with site_of(tmp_path, a_workflow(python_step("work", gate.code), concurrency=1)) as site:
        for number in range(3):
            await site.http.post(site.path(), json={"n": number})
        await gate.wait_until_reached()
        execute(
            site, "update runs set created = 'damaged' where id = (select min(id) from runs where status = 'ready')"
        )
        gate.open()
        await until(lambda: not execute(site, "select 1 from runs where ended is null"))
        ended = execute(site, "select status, created = 'damaged', output from runs order by 1, 2")

    assert [row[:2] for row in ended] == [("error", 1), ("success", 0), ("success", 0)]
    error = json.loads(ended[0][2])["error"]
    assert (error["code"], "An unexpected error of pdkernel ended the run" in error["message"]) == ("internal", True)


async def test_a_caller_that_waits_for_a_run_of_others_outlives_an_unexpected_error(tmp_path: Path) -> None:
    """The caller of a repeated event gets the response of the first one, although the run could not be read for a while."""
    gate = Gate(tmp_path)
    code = f"{gate.code}\npd.respond({{'status': 201, 'body': 'made'}})"
    headers = {"idempotency-key": "a-key"}
    async with site_of(tmp_path, a_workflow(python_step("work", code), response="custom")) as site:
        first = asyncio.ensure_future(site.http.post(site.path(), json={}, headers=headers))
        await gate.wait_until_reached()
        execute(site, "update runs set begun = 99")  # no version of pdkernel writes it
        second = asyncio.ensure_future(site.http.post(site.path(), json={}, headers=headers))
        await asyncio.sleep(4 * _FOLLOW_INTERVAL_S)
        execute(site, "update runs set begun = 1")
        gate.open()
        async with asyncio.timeout(30):
            answers = await asyncio.gather(first, second)

    assert [answer.status_code for answer in answers] == [201, 201]


@pytest.mark.parametrize("damage", ["request = x'00'", "request = null", "definition = 'gone'"])
async def test_a_run_that_cannot_be_continued_is_reported(tmp_path: Path, damage: str) -> None:
    """If the record of a run that waits cannot be read, its caller, the notification and the workflow for errors get to know that."""
    gate = Gate(tmp_path)
    work = a_workflow(python_step("work", gate.code), response="custom", concurrency=1)
    ears = replace(
        a_workflow(node_step("heard", "return steps.trigger.event.error"), name="Ears"), triggers=(Trigger("errors"),)
    )
    with serve(AnsweringServer(lambda _: (200, "ok"))) as receiver:
        async with site_of(tmp_path, work, ears) as site:
            site.context.project.settings.set("error_notification", f"{receiver.url}/hook")
            notebook_of(tmp_path / "Ears.ipynb", "%%pdworkflow\nname: Ears\ntrigger: {type: errors}")
            enable_triggers(site.context.project, "Ears", tmp_path)
            first = asyncio.ensure_future(site.http.post(site.path(), json={"n": 1}))
            await gate.wait_until_reached()
            second = asyncio.ensure_future(site.http.post(site.path(), json={"n": 2}))
            await until(lambda: execute(site, "select 1 from runs where status = 'ready'"))
            execute(site, f"update runs set {damage} where status = 'ready'")
            gate.open()
            answers = await asyncio.gather(first, second)
            heard = "select 1 from runs where workflow = 'Ears' and ended > 0"
            await until(lambda: receiver.requests and execute(site, heard))
            runs = {run.workflow: run for run in await site.runs() if run.status == "error" or run.workflow == "Ears"}

    (facts,) = (request.json() for request in receiver.requests)
    error = runs["Test"].error
    assert [answer.status_code for answer in answers] == [400, 400]  # neither run responds
    assert error is not None
    assert error.code == "project"
    assert (facts["run"], facts["error"]["message"]) == (runs["Test"].id, error.message)
    assert runs["Ears"].status == "success"
