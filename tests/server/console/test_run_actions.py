"""Actions on a run."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pdkernel.connect import LocalDirectory
from pdkernel.egress import parse_policy
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.execution import Execution
from pdkernel.server.app_context import ServedWorkflow
from pdkernel.server.console.sessions import hash_admin_token
from pdkernel.source import WorkflowSource
from tests.builders import a_workflow, an_event, python_step
from tests.server.console.conftest import ADMIN, HTML, Console, Serve
from tests.server.served import Served, served

ASK = a_workflow(
    python_step("ask", "pd.flow.suspend(60000)"), python_step("answer", 'return pd.steps["ask"].get("$resume_data")')
)
WAIT = a_workflow(python_step("wait", "pd.flow.delay(60000)"), python_step("after"))


async def paused(console: Console) -> str:
    """A run that is paused."""
    run_id = await console.start()
    await console.wait_until(run_id, "paused")
    return run_id


async def follow(console: Console, location: str) -> str:
    """The page to which an action leads."""
    return await console.page(location)


@pytest.mark.parametrize(("action", "approved"), [("approve", True), ("reject", False)])
async def test_a_decision(serve: Serve, action: str, approved: bool) -> None:
    """The decision and the note are the suspended step's `$resume_data`, and the page confirms the decision."""
    console = await serve(ASK)
    run_id = await paused(console)
    page = await console.page(f"/-/runs/{run_id}")
    answer = await console.act(run_id, action, note="Fine & good", pause="ask 1 1")
    run = await console.wait_until(run_id, "success")
    after = await console.page(answer.headers["location"])

    assert 'name="pause" value="ask 1 1"' in page
    assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, f"/-/runs/{run_id}")
    assert run.step("answer").return_value == {"approved": approved, "note": "Fine & good"}
    assert f"The run goes on as {'approved' if approved else 'rejected'}." in after


async def test_only_a_suspend_is_approved(serve: Serve) -> None:
    """A delay has no decision: its page has none, and the action is refused. It can be resumed."""
    console = await serve(WAIT)
    run_id = await paused(console)
    page = await console.page(f"/-/runs/{run_id}")
    refused = await console.act(run_id, "approve")
    still = await console.wait_until(run_id, "paused")
    await console.act(run_id, "resume")
    run = await console.wait_until(run_id, "success")

    assert ["/approve" in page, "/resume" in page] == [False, True]
    assert (refused.status_code, still.status) == (409, "paused")
    assert "Only a run that waits in a suspend can be approved or rejected." in refused.text
    assert run.step("after").return_value == 1


async def test_an_old_page_does_not_decide_a_later_pause(serve: Serve) -> None:
    """A form that names another pause than the current one is refused; the page then shows the current one."""
    console = await serve(ASK)
    run_id = await paused(console)
    answer = await console.act(run_id, "approve", pause="before 1 1")
    run = await console.wait_until(run_id, "paused")

    assert answer.status_code == 409
    assert "The pause that the page shows has ended already." in answer.text
    assert 'value="ask 1 1"' in answer.text
    assert run.status == "paused"


async def test_a_run_of_a_terminal_goes_on_in_the_server(serve: Serve, tmp_path: Path) -> None:
    """A run that a terminal has started, and whose process has ended, is approved in the console; the server runs its next steps."""
    console = await serve(ASK)
    project = console.site.context.project
    request = RunRequest(ASK, an_event(), parse_policy("deny"), folder=tmp_path, pause_mode="park")
    async with await WorkflowEngine.start(project, LocalDirectory(project)) as terminal:
        waiting = await terminal.run(request)
    answer = await console.act(waiting.id, "approve")
    run = await console.wait_until(waiting.id, "success")

    assert (waiting.status, answer.status_code) == ("paused", 303)
    assert run.step("answer").return_value == {"approved": True, "note": ""}


async def test_a_program_gets_the_reason_of_a_refusal(serve: Serve) -> None:
    """An action of a program that is not done is answered 409 with the reason as JSON."""
    console = await serve(WAIT)
    run_id = await paused(console)
    answer = await console.site.http.post(
        f"/-/runs/{run_id}/approve", headers={"authorization": f"Bearer {ADMIN}", **HTML}
    )

    assert answer.status_code == 409
    assert answer.json()["error"]["message"].startswith("Only a run that waits in a suspend can be approved")


async def test_a_run_is_cancelled(serve: Serve) -> None:
    """A paused run is cancelled once; a second attempt reports that the run has ended."""
    console = await serve(ASK)
    run_id = await paused(console)
    first, second = await console.act(run_id, "cancel"), await console.act(run_id, "cancel")
    run = await console.wait_until(run_id, "cancelled")
    late = await console.act(run_id, "approve")

    assert "The run was cancelled." in await console.page(first.headers["location"])
    assert (second.status_code, late.status_code, run.status) == (409, 409, "cancelled")
    assert "has ended already" in second.text


async def test_a_running_step_is_cancelled(serve: Serve) -> None:
    """Cancelling a run ends the step that runs."""
    console = await serve(a_workflow(python_step("sleep", "import time; time.sleep(60)"), python_step("after")))
    run_id = await console.start()
    await console.wait_until(run_id, "executing")
    await console.act(run_id, "cancel")
    run = await console.wait_until(run_id, "cancelled")
    async with asyncio.timeout(60):  # the step would run for a minute
        while run_id in console.state.runs.active_run_ids:
            await asyncio.sleep(0.01)

    assert run.step("after").status == "not_run"


async def test_a_replay(serve: Serve) -> None:
    """A replay runs the same event as the same user, and the page of the new run confirms that."""
    console = await serve(a_workflow(python_step("echo", "return pd.steps['trigger']['event']['body']")))
    run_id = await console.start(body={"n": 7}, **{"x-pd-external-user-id": "ada"})
    await console.wait_until(run_id, "success")
    answer = await console.act(run_id, "replay")
    new_id = answer.headers["location"].partition("?")[0].rpartition("/")[2]
    run = await console.wait_until(new_id, "success")

    assert "This is the new run on the same event." in await console.page(answer.headers["location"])
    assert (run.replay_of, run.external_user, run.step("echo").return_value) == (run_id, "ada", {"n": 7})


async def test_a_fork(serve: Serve) -> None:
    """A fork keeps the exports of the steps above the chosen step; an unknown step is refused."""
    console = await serve(
        a_workflow(
            python_step("first", "import time; return time.time()"), python_step("second", "return pd.steps['first']")
        )
    )
    run_id = await console.start()
    original = await console.wait_until(run_id, "success")
    answer = await console.act(run_id, "fork", step="second")
    new_id = answer.headers["location"].partition("?")[0].rpartition("/")[2]
    run = await console.wait_until(new_id, "success")
    refused = await console.act(run_id, "fork", step="third")

    assert run.replay_of == run_id
    assert run.step("first").status == "pinned"
    assert run.step("second").return_value == original.step("second").return_value
    assert (refused.status_code, "third" in refused.text) == (409, True)


async def test_a_replay_sends_outbound_calls_only_if_chosen(serve: Serve) -> None:
    """Without the check mark, outbound calls of the new run are refused, also those of a fork."""
    console = await serve(a_workflow(python_step("first"), python_step("second")))
    run_id = await console.start()
    await console.wait_until(run_id, "success")
    engine, sent = console.site.context.engine, []
    for action, fields in (("replay", {}), ("fork", {"step": "second"})):
        for mark in ({"sends": "on"}, {}):
            answer = await console.act(run_id, action, **fields, **mark)
            loaded = await engine.journal.load_run(answer.headers["location"].partition("?")[0].rpartition("/")[2])
            assert loaded is not None
            sent.append(engine.restore_request(loaded[1]).resend)

    assert sent == [True, False, True, False]


@pytest.mark.parametrize("action", ["approve", "cancel", "fork", "replay", "reject", "resume"])
async def test_an_unknown_run(serve: Serve, action: str) -> None:
    """An action on an unknown run is not found; a GET of an action does nothing."""
    console = await serve()
    answer = await console.act("none", action)
    got = await console.http.get(f"/-/runs/none/{action}", headers=HTML)

    assert (answer.status_code, got.status_code) == (404, 404)


async def test_a_replay_in_a_server_that_leaves_no_runs(tmp_path: Path) -> None:
    """The server of a notebook, whose runs end with it, runs the replay itself."""
    workflow = a_workflow(python_step("greet"))
    source = ServedWorkflow("p_test", "eotest", WorkflowSource(tmp_path / "work.ipynb", "notebook", workflow))
    token = {"authorization": f"Bearer {ADMIN}"}
    async with served(tmp_path, source, admin_token_hash=hash_admin_token(ADMIN)) as site:
        run_id = (await site.http.post("/eotest")).json()["event_id"]
        await ended(site, run_id)
        answer = await site.http.post(f"/-/runs/{run_id}/replay", headers=token)
        replay = await ended(site, answer.json()["id"])

    assert (replay.status, replay.replay_of) == ("success", run_id)


async def test_a_replay_of_a_notebooks_server_has_its_urls(tmp_path: Path) -> None:
    """A replayed run that suspends gives out URLs of the server that runs it."""
    workflow = a_workflow(python_step("ask", "print(pd.flow.suspend(3600_000)['resume_url'])\nraise ValueError"))
    source = ServedWorkflow("p_test", "eotest", WorkflowSource(tmp_path / "work.ipynb", "notebook", workflow))
    token = {"authorization": f"Bearer {ADMIN}"}
    async with served(tmp_path, source, admin_token_hash=hash_admin_token(ADMIN)) as site:
        run_id = (await site.http.post("/eotest")).json()["event_id"]
        first = await ended(site, run_id)
        answer = await site.http.post(f"/-/runs/{run_id}/replay", headers=token)
        replay = await ended(site, answer.json()["id"])

    urls = [run.step("ask").logs[0].text.partition("/-/")[0] for run in (first, replay)]
    assert urls == [site.context.settings.base_url] * 2


async def ended(site: Served, run_id: str) -> Execution:
    """The run, as soon as it has ended."""
    async with asyncio.timeout(60):
        while True:
            run = await site.context.engine.journal.get_execution(run_id)
            if run is not None and run.finished_at is not None:
                return run
            await asyncio.sleep(0.02)
