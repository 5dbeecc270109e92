"""The record of a run in the journal: what it shows of secrets, and what it leaves to the next process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from pdkernel.common.clock import SYSTEM_CLOCK
from pdkernel.egress import parse_policy
from pdkernel.engine.http_response import NO_RESPONSE
from pdkernel.engine.pauses import RerunState
from pdkernel.engine.restored_run import RestoredRun
from pdkernel.engine.run_record import RunRecord
from pdkernel.engine.run_request import UNWATCHED, RequestRefusal, RunRequest
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.errors import RequestError
from pdkernel.execution import Execution, StepResult
from pdkernel.journal import Claim, Journal, SqliteBackend
from pdkernel.model import Step
from pdkernel.storage import Project
from pdkernel.storage.schema import accounts
from pdkernel.workers import StepOutcome
from tests.builders import a_workflow, an_event, node_step, python_step
from tests.engine.conftest import Run, error_of

TOKEN = "xoxb-event-token-0123456789"
EVENT = an_event({"said": f"my token is {TOKEN}"})
SHOWN = {"said": "my token is ⟦secret:slack/{}/oauth_access_token⟧"}
PRINTS = "print('waits', flush=True)\nreturn 1"

Connect = Callable[..., str]


def shown(account: str) -> dict[str, str]:
    """The body with the placeholder for the token of *account*."""
    return {"said": SHOWN["said"].format(account)}


class Disk:
    """Reads the project's database files, including the write-ahead log."""

    def __init__(self, path: Path, copies: Path) -> None:
        self.path = path
        self.copies = copies

    def read(self) -> bytes:
        """Return the bytes of all files."""
        return b"".join(file.read_bytes() for file in sorted(self.path.parent.glob(f"{self.path.name}*")))

    def copy(self) -> Path:
        """Return a copy of the files: the state after a crash at this moment."""
        shutil.copytree(self.path.parent, self.copies, ignore=lambda _, names: [n for n in names if "project" not in n])
        return self.copies / self.path.name


@pytest.fixture
def disk(project: Project, tmp_path: Path) -> Disk:
    """The files of the project's database."""
    assert project.sqlite_path is not None
    return Disk(project.sqlite_path, tmp_path / "copy")


async def kept(runtime: WorkflowEngine, run_id: str) -> Execution:
    """Return the run from the journal."""
    found = await runtime.journal.get_execution(run_id)
    assert found is not None
    return found


def when_it_waits(act: Callable[[], Any]) -> Callable[[Execution], None]:
    """Do *act* once, when a step has printed output."""
    left = [act]

    def on_change(execution: Execution) -> None:
        if left and any(step.logs for step in execution.steps):
            left.pop()()

    return on_change


@pytest.mark.parametrize(
    "steps",
    [
        [python_step("one", PRINTS, options="--app slack")],
        [python_step("one", PRINTS, options="--app slack"), python_step("two", "return 2")],
        [node_step("one", "console.log('waits')", props='{ slack: { type: "app", app: "slack" } }')],
    ],
    ids=["one step", "two steps", "declared in code"],
)
async def test_token_in_an_event_is_never_in_the_database(
    run: Run, runtime: WorkflowEngine, connect: Connect, disk: Disk, steps: list[Any]
) -> None:
    """No file contains the token during or after the run; the event is shown with a placeholder."""
    account = connect("ada", TOKEN)
    during: list[bytes] = []

    execution = await run(
        *steps,
        event=EVENT,
        external_user_id="ada",
        on_change=when_it_waits(lambda: during.append(disk.read())),
    )

    assert execution.status == "success", execution.error
    assert execution.id.encode() in during[0]
    assert TOKEN.encode() not in during[0] + disk.read()
    assert execution.event["body"] == shown(account)
    assert (await kept(runtime, execution.id)).event == execution.event
    assert not (await kept(runtime, execution.id)).trigger.sealed


@pytest.mark.parametrize(
    "steps",
    [
        [python_step("one", PRINTS, options="--app slack")],
        [python_step("one", "return 1", options="--app slack"), python_step("two", PRINTS)],
    ],
    ids=["during the first step", "during the second step"],
)
async def test_event_after_a_crash(run: Run, connect: Connect, disk: Disk, steps: list[Step]) -> None:
    """After a crash during the first step, the journal has the event encrypted and does not show it; later it has a placeholder."""
    account = connect("ada", TOKEN)
    copies: list[Path] = []

    execution = await run(
        *steps, event=EVENT, external_user_id="ada", on_change=when_it_waits(lambda: copies.append(disk.copy()))
    )
    journal = Journal.open(SqliteBackend(copies[0]))
    left = await journal.get_execution(execution.id)
    await journal.close()

    assert left is not None
    assert left.status == "executing"
    if len(steps) == 1:
        assert left.trigger.sealed
        assert left.to_json()["trigger"] == {"event": {}, "context": dict(execution.context), "sealed": True}
    else:
        assert left.event["body"] == shown(account)


async def test_event_of_a_paused_run_is_redacted(
    run: Run, runtime: WorkflowEngine, connect: Connect, disk: Disk
) -> None:
    """A run paused in its first step has its event with a placeholder in the journal."""
    account = connect("ada", TOKEN)
    step = node_step("one", "$.flow.delay(60_000)", props='{ slack: { type: "app", app: "slack" } }')

    execution = await run(step, event=EVENT, external_user_id="ada", pause_mode="park")

    assert execution.status == "paused"
    assert (await kept(runtime, execution.id)).event["body"] == shown(account)
    assert TOKEN.encode() not in disk.read()


@pytest.mark.parametrize(
    ("options", "user"),
    [("--app slack --app github", "ada"), ("--app slack --app github=apn_missing", "ada"), ("--app slack=OWN", None)],
    ids=["an account is missing", "an account of your own is missing", "not an account of your own"],
)
async def test_event_of_a_run_refused_by_the_lookup_is_redacted(
    run: Run, runtime: WorkflowEngine, connect: Connect, disk: Disk, options: str, user: str | None
) -> None:
    """A run refused by the lookup has the tokens of existing accounts redacted."""
    account = connect("ada", TOKEN)
    step = python_step("one", options=options.replace("OWN", account))

    execution = await run(step, event=EVENT, external_user_id=user)

    assert execution.error is not None
    assert execution.event["body"] == shown(account)
    assert (await kept(runtime, execution.id)).event["body"] == shown(account)
    assert TOKEN.encode() not in disk.read()


async def test_event_of_a_run_refused_before_the_lookup_stays_sealed(
    run: Run, runtime: WorkflowEngine, connect: Connect, disk: Disk
) -> None:
    """If the accounts were not looked up, the journal does not show the event."""
    connect("ada", TOKEN)
    step = python_step("one", "# pipedream add-package no==\nreturn 1", options="--app slack --prop x={{nothing")

    execution = await run(step, event=EVENT, external_user_id="ada")

    left = await kept(runtime, execution.id)
    assert execution.error is not None
    assert execution.lookup is None
    assert (left.trigger.sealed, left.event) == (True, {})
    assert TOKEN.encode() not in disk.read()


async def test_event_of_a_run_whose_credentials_are_damaged_stays_sealed(
    run: Run, runtime: WorkflowEngine, project: Project, connect: Connect, disk: Disk
) -> None:
    """If the lookup refuses a run and the tokens of its other accounts cannot be decrypted, the journal does not show the event."""
    connect("ada", TOKEN)
    with project.sqlalchemy_engine.begin() as connection:
        connection.execute(update(accounts).values(sealed_credentials=b"damaged"))

    execution = await run(python_step("one", options="--app slack --app github"), event=EVENT, external_user_id="ada")

    left = await kept(runtime, execution.id)
    assert execution.error is not None
    assert execution.error.code == "account_not_found"
    assert (left.trigger.sealed, left.event) == (True, {})
    assert TOKEN.encode() not in disk.read()


async def test_event_of_a_workflow_without_apps_is_not_sealed(run: Run, disk: Disk) -> None:
    """If the workflow uses no account, the event is in the journal from the start, not encrypted."""
    during: list[bytes] = []

    await run(
        python_step("one", PRINTS),
        event=an_event({"said": "hello-hello"}),
        on_change=when_it_waits(lambda: during.append(disk.read())),
    )

    assert json.dumps({"said": "hello-hello"}, separators=(",", ":")).encode() in during[0]


async def test_a_refusal_shows_no_secret(run: Run) -> None:
    """The error of a refused run has placeholders for the secrets of the run."""
    refusal = RequestRefusal(RequestError("No key-0123456789.", fix="Replace key-0123456789."), NO_RESPONSE)

    error = error_of(await run(python_step("one"), variables={"KEY": "key-0123456789"}, refusal=refusal))

    assert error.message == "No ⟦secret:env/KEY⟧.\nReplace ⟦secret:env/KEY⟧."


def started_record(runtime: WorkflowEngine, project: Project, root: Path) -> RunRecord:
    """The record of a run of two steps that has begun."""
    record = RunRecord(
        RunRequest(a_workflow(python_step("one"), python_step("two")), an_event(), parse_policy("deny")),
        state=RestoredRun(Claim.first("run"), "trace", {}),
        watcher=UNWATCHED,
        journal=runtime.journal,
        clock=SYSTEM_CLOCK,
        vault=project.vault,
        root=root,
        may_have_accounts=False,
    )
    record.record_start()
    return record


async def test_a_run_that_is_left_has_its_last_step(runtime: WorkflowEngine, project: Project, tmp_path: Path) -> None:
    """If the process leaves a run between its last step and its end, the next process does not run the step again."""
    record = started_record(runtime, project, tmp_path)
    for step in ("one", "two"):
        record.record_step(StepResult(step, "success"))

    left = await record.hand_over()
    claimed = await runtime.journal.claim("run")

    assert left.status == "executing"
    assert claimed is not None
    assert [step.name for step in claimed.steps] == ["one", "two"]


async def test_a_run_whose_pause_is_on_disk_stays_paused(
    runtime: WorkflowEngine, project: Project, tmp_path: Path
) -> None:
    """A run whose task is cancelled after its pause was recorded is paused, as the next process finds it."""
    record = started_record(runtime, project, tmp_path)
    record.park(StepResult("one", "success"), StepOutcome(), "suspend", RerunState(), wake_at=4e9)
    await record.commit_pause()

    record.set_final_status("cancelled")
    ended = await record.finish()

    stored = await runtime.journal.get_execution("run")
    assert stored is not None
    assert (ended.status, stored.status) == ("paused", "paused")
