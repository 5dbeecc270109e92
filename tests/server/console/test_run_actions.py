"""Actions on a run."""

from __future__ import annotations

import asyncio
import html
import re
from pathlib import Path

import httpx
import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.egress import parse_policy
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.execution import Execution
from pdkernel.files.source import WorkflowSource
from pdkernel.journal import MAX_NOTE_CHARACTERS
from pdkernel.server.app_context import ServedWorkflow
from pdkernel.server.console.sessions import hash_admin_token
from tests.builders import a_workflow, an_event, python_step
from tests.server.console.conftest import ADMIN, HTML, Console, Serve, app_state, log_in
from tests.server.served import Served, served

ASK = a_workflow(
    python_step("ask", "pd.flow.suspend(60000)"), python_step("answer", 'return pd.steps["ask"].get("$resume_data")')
)
PAY = a_workflow(python_step("ask", "pd.flow.suspend(60000)"), python_step("pay", 'return "posted"'))
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
async def test_a_decision_that_a_step_reads(serve: Serve, action: str, approved: bool) -> None:
    """The decision and the note are the suspended step's `$resume_data`; the page says so before, and confirms it."""
    console = await serve(ASK)
    run_id = await paused(console)
    page = await console.page(f"/-/runs/{run_id}")
    answer = await console.act(run_id, action, note="Fine & good", pause="ask 1 1")
    run = await console.wait_until(run_id, "success")
    after = await console.page(answer.headers["location"])

    assert 'name="pause" value="ask 1 1"' in page
    assert "Reject: the run goes on, and step answer gets the answer</button>" in page
    assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, f"/-/runs/{run_id}")
    assert run.step("answer").return_value == {"approved": approved, "note": "Fine & good"}
    assert f"The run was {'approved' if approved else 'rejected'}" in after


async def test_a_rejection_that_no_step_reads(serve: Serve) -> None:
    """Reject cancels the run, and no further step starts: the page says so before, and the step would act as after an approval."""
    console = await serve(PAY)
    run_id = await paused(console)
    page = await console.page(f"/-/runs/{run_id}")
    answer = await console.act(run_id, "reject", note="Too much", pause="ask 1 1")
    run = await console.wait_until(run_id, "cancelled")
    after = await console.page(answer.headers["location"])

    assert "Reject and cancel the run</button>" in page
    assert "The run was rejected and cancelled. No further step starts." in after
    assert run.step("pay").status == "not_run"
    assert run.error is not None
    assert (run.error.code, run.response) == ("rejected", None)
    assert [(each.verdict, each.step, each.note) for each in run.decisions] == [("rejected", "ask", "Too much")]
    assert "Too much" in after


async def test_an_approval_that_no_step_reads(serve: Serve) -> None:
    """An approved run goes on, and keeps the decision with its note."""
    console = await serve(PAY)
    run_id = await paused(console)
    await console.act(run_id, "approve", note="Checked")
    run = await console.wait_until(run_id, "success")
    (session,) = {each.by for each in run.decisions}

    assert run.step("pay").return_value == "posted"
    assert [(each.verdict, each.step, each.note) for each in run.decisions] == [("approved", "ask", "Checked")]
    assert re.fullmatch(r"console session [0-9a-f]{6}", session)


async def test_a_program_rejects(serve: Serve) -> None:
    """A program without a form rejects by the same rule; the record names the admin token."""
    console = await serve(PAY)
    run_id = await paused(console)
    answer = await console.site.http.post(f"/-/runs/{run_id}/reject", headers={"authorization": f"Bearer {ADMIN}"})
    run = answer.json()

    assert (run["status"], run["error"]["code"]) == ("cancelled", "rejected")
    assert [(each["verdict"], each["by"], "note" in each) for each in run["decisions"]] == [
        ("rejected", "admin token", False)
    ]


@pytest.mark.parametrize("workflow", ["read", "unread"])
@pytest.mark.parametrize("first", ["approve", "reject", "cancel"])
async def test_the_first_of_two_persons_decides(serve: Serve, workflow: str, first: str) -> None:
    """The second of two persons is told who has decided, what and when; the first decision stays."""
    console = await serve(ASK if workflow == "read" else PAY)
    run_id = await paused(console)
    app_state(console.site).console.print_new_code()
    async with httpx.AsyncClient(base_url=console.site.url, timeout=60) as other:
        await log_in(console.site, app_state(console.site).console.create_code(), other)
        token = re.search(r'name="csrf" value="([^"]+)"', (await other.get("/-/users", headers=HTML)).text)
        assert token
        await console.act(run_id, first, pause="ask 1 1")
        run = await console.wait_until(run_id, "success", "cancelled")
        late = await other.post(
            f"/-/runs/{run_id}/reject", data={"csrf": html.unescape(token[1]), "pause": "ask 1 1"}, headers=HTML
        )
    (decision,) = (await console.wait_until(run_id, run.status)).decisions

    assert late.status_code == 409
    assert f"was {decision.verdict} by {decision.by} at " in html.unescape(late.text)
    assert decision.verdict == {"approve": "approved", "reject": "rejected", "cancel": "cancelled"}[first]


async def test_two_decisions_at_once(serve: Serve) -> None:
    """Of decisions that arrive at once exactly one is done, and it alone is recorded."""
    console = await serve(PAY)
    run_id = await paused(console)
    token = {"authorization": f"Bearer {ADMIN}"}
    actions = ("approve", "reject") * 4
    answers = await asyncio.gather(
        *(console.site.http.post(f"/-/runs/{run_id}/{action}", headers=token) for action in actions)
    )
    run = await console.wait_until(run_id, "success", "cancelled")
    done = [action for action, answer in zip(actions, answers, strict=True) if answer.status_code == 200]

    assert len(done) == len(run.decisions) == 1
    assert run.decisions[0].verdict == {"approve": "approved", "reject": "rejected"}[done[0]]
    assert run.status == {"approve": "success", "reject": "cancelled"}[done[0]]


async def test_a_long_note_is_refused(serve: Serve) -> None:
    """A note that the record would cut is refused, and decides nothing."""
    console = await serve(PAY)
    run_id = await paused(console)
    answer = await console.act(run_id, "approve", note="x" * (MAX_NOTE_CHARACTERS + 1))
    run = await console.wait_until(run_id, "paused")

    assert (answer.status_code, run.decisions) == (409, ())
    assert f"more than {MAX_NOTE_CHARACTERS} characters" in answer.text


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
    assert f"The pause of the run {run_id} has ended already." in answer.text
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
