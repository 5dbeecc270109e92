"""Messages of served runs that could not be delivered at once."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.common.blocking import run_blocking
from pdkernel.common.clock import ManualClock
from pdkernel.egress import parse_policy
from pdkernel.engine.deliveries import FIRST_RETRY_S
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.errors import PdkernelError
from pdkernel.execution import Execution
from pdkernel.journal import WaitKey
from pdkernel.storage import Project
from tests.builders import a_workflow, an_event, python_step
from tests.http_servers import Answer, AnsweringServer, SentRequest, serve

Send = Callable[[int], Awaitable[Execution]]


@pytest.fixture
def clock() -> ManualClock:
    """The clock of the engine."""
    return ManualClock()


@pytest.fixture
async def runtime(project: Project, directory: LocalDirectory, clock: ManualClock) -> AsyncIterator[WorkflowEngine]:
    """The engine of a server."""
    async with await WorkflowEngine.start(project, directory, origin="serve", clock=clock) as started:
        yield started


@pytest.fixture
def destination() -> Iterator[AnsweringServer]:
    """A destination that breaks off the first connection of each message."""
    keys: list[str] = []

    def answer(request: SentRequest) -> Answer:
        keys.append(request.headers["idempotency-key"])
        if keys.count(keys[-1]) == 1:
            raise ConnectionResetError
        return 204, b""

    with serve(AnsweringServer(answer)) as server:
        yield server


@pytest.fixture
def send(runtime: WorkflowEngine, destination: AnsweringServer, tmp_path: Path) -> Send:
    """Runs a workflow of a server that sends a number to the destination."""

    async def run(number: int) -> Execution:
        step = python_step("tell", f"pd.send.http(method='POST', url={destination.url!r}, data={number})")
        request = RunRequest(
            a_workflow(step), an_event(), parse_policy("deny"), folder=tmp_path, interface="http", pause_mode="park"
        )
        return await runtime.run(request)

    return run


async def test_a_message_is_tried_again_with_the_same_key(
    runtime: WorkflowEngine, send: Send, destination: AnsweringServer, clock: ManualClock
) -> None:
    """A destination that did not answer gets the message again when its time has come, and the record shows the result."""
    execution = await send(1)
    await runtime.deliver_due()
    tries_before = len(destination.requests)
    clock.advance(FIRST_RETRY_S)
    await runtime.deliver_due()
    clock.advance(FIRST_RETRY_S)
    await runtime.deliver_due()
    kept = await runtime.journal.get_execution(execution.id)

    assert kept is not None
    assert [each.outcome for each in execution.sends] == ["failed"]
    assert tries_before == 1
    assert [request.headers["idempotency-key"] for request in destination.requests] == [f"{execution.id}:tell:1:0"] * 2
    assert [(each.outcome, each.status) for each in kept.sends] == [("sent", 204)]


async def test_the_waits_between_tries_grow(
    runtime: WorkflowEngine, clock: ManualClock, project: Project, tmp_path: Path
) -> None:
    """A message to a destination that is gone is tried after 10, 40 and 160 seconds."""
    step = python_step("tell", "pd.send.http(method='POST', url='http://127.0.0.1:9/gone', data=1)")
    await runtime.run(
        RunRequest(
            a_workflow(step), an_event(), parse_policy("deny"), folder=tmp_path, interface="http", pause_mode="park"
        )
    )
    waits = []
    for _ in range(3):
        with project.sqlalchemy_engine.connect() as connection:
            due = connection.exec_driver_sql("select due from outbox").scalar_one()
        waits.append(due - clock.now().timestamp())
        clock.advance(waits[-1])
        await runtime.deliver_due()

    assert waits == pytest.approx([10, 40, 160])


async def test_an_unreadable_message_ends_with_the_reason(
    runtime: WorkflowEngine, send: Send, destination: AnsweringServer, clock: ManualClock, project: Project
) -> None:
    """A message that cannot be decrypted fails once and for all, visibly, and the messages after it are delivered."""
    unreadable, other = await send(1), await send(2)
    assert project.sqlite_path is not None
    with closing(sqlite3.connect(project.sqlite_path)) as connection, connection:
        connection.execute("update outbox set message = x'0102' where run_id = ?", (unreadable.id,))
    destination.requests.clear()

    clock.advance(FIRST_RETRY_S)
    await runtime.deliver_due()
    kept = await runtime.journal.get_execution(other.id)
    failed = await runtime.journal.get_execution(unreadable.id)
    with project.sqlalchemy_engine.connect() as reader:
        due = reader.exec_driver_sql("select count(*) from outbox where due is not null").scalar_one()

    assert kept is not None
    assert failed is not None
    assert [request.body for request in destination.requests] == [b"2"]
    assert [each.outcome for each in kept.sends] == ["sent"]
    assert [each.outcome for each in failed.sends] == ["failed"]
    assert (failed.sends[0].note or "").startswith("Not sent: A stored value cannot be decrypted")
    assert due == 0


@pytest.mark.parametrize("public_only", [False, True])
async def test_a_continued_run_keeps_to_public_addresses(
    runtime: WorkflowEngine, destination: AnsweringServer, tmp_path: Path, public_only: bool
) -> None:
    """The policy of the process replaces that of a run, and not whether the run may call this machine."""
    ask = f"import urllib.request\nrequest = urllib.request.Request({destination.url!r}, headers={{'idempotency-key': 'a'}})\n"
    attempt = "try:\n    urllib.request.urlopen(request)\nexcept OSError:\n    pass"
    workflow = a_workflow(python_step("wait", "pd.flow.suspend(60000)"), python_step("ask", ask + attempt))
    policy = replace(parse_policy("live"), public_only=public_only)
    paused = await runtime.run(RunRequest(workflow, an_event(), policy, folder=tmp_path, pause_mode="park"))
    assert await runtime.resolve_wait(WaitKey(paused.id, "wait"), "resume") == "done"
    (claimed,) = await runtime.journal.claim_next()

    execution = await runtime.continue_run(claimed, policy=parse_policy("deny"))

    assert execution.outbound_policy is not None
    assert execution.outbound_policy.policy == "deny"
    assert len(destination.requests) == (0 if public_only else 1)


@pytest.mark.parametrize(
    ("own", "policy", "kept"),
    [
        ("deny", "allow=example.com", "deny"),
        ("live", "allow=example.com", "allow=example.com"),
        ("allow=example.com", "live", "allow=example.com"),
    ],
)
async def test_a_continued_run_keeps_its_refusal(
    runtime: WorkflowEngine, tmp_path: Path, own: str, policy: str, kept: str
) -> None:
    """The policy of the process limits a run, and does not allow calls that the run itself refuses, such as a replay."""
    workflow = a_workflow(python_step("wait", "pd.flow.suspend(60000)"), python_step("one", "return 1"))
    paused = await runtime.run(RunRequest(workflow, an_event(), parse_policy(own), folder=tmp_path, pause_mode="park"))
    await runtime.resolve_wait(WaitKey(paused.id, "wait"), "resume")
    (claimed,) = await runtime.journal.claim_next()

    execution = await runtime.continue_run(claimed, policy=parse_policy(policy))

    assert execution.outbound_policy is not None
    assert execution.outbound_policy.policy == kept


async def test_an_engine_that_cannot_start_leaves_the_project(project: Project, directory: LocalDirectory) -> None:
    """A server that is refused because the project has another key is not an executor: the next one starts."""
    change = "update meta set value = '{}' where name = 'key_fingerprint'"
    with project.sqlalchemy_engine.begin() as connection:
        key = connection.exec_driver_sql("select value from meta where name = 'key_fingerprint'").scalar_one()
        connection.exec_driver_sql(change.format("another"))
    with pytest.raises(PdkernelError, match="key"):
        await WorkflowEngine.start(project, directory, origin="serve")
    with project.sqlalchemy_engine.begin() as connection:
        left = connection.exec_driver_sql("select id from executors").all()
        connection.exec_driver_sql(change.format(key))

    async with await WorkflowEngine.start(project, directory, origin="serve"):
        assert left == []


async def test_an_engine_without_a_gateway_leaves_the_project(project: Project, directory: LocalDirectory) -> None:
    """A server whose folder of certificates cannot be made is not an executor: the next one starts."""
    place = project.folder / "egress"
    place.write_text("")
    with pytest.raises((PdkernelError, OSError)):
        await WorkflowEngine.start(project, directory, origin="serve")
    place.unlink()

    async with await WorkflowEngine.start(project, directory, origin="serve") as engine:
        with project.sqlalchemy_engine.begin() as connection:
            left = connection.exec_driver_sql("select id from executors").scalars().all()

    assert left == [engine.journal.executor_id]


async def test_a_second_try_shows_no_credential(
    runtime: WorkflowEngine,
    destination: AnsweringServer,
    clock: ManualClock,
    connect: Callable[..., str],
    tmp_path: Path,
) -> None:
    """The record of a message that is sent again has placeholders for the credentials of the run's accounts."""
    token = "xoxb-0123456789"
    connect("ada", token)
    data = "pd.inputs['slack']['$auth']['oauth_access_token']"
    step = python_step(
        "tell", f"pd.send.http(method='POST', url={destination.url!r}, data={data})", options="--app slack"
    )
    request = RunRequest(a_workflow(step), an_event(), parse_policy("deny"), external_user_id="ada", folder=tmp_path)
    execution = await runtime.run(replace(request, interface="http", pause_mode="park"))
    clock.advance(FIRST_RETRY_S)
    await runtime.deliver_due()
    kept = await runtime.journal.get_execution(execution.id)

    assert kept is not None
    assert [request.body.decode() for request in destination.requests] == [token] * 2
    assert [each.outcome for each in kept.sends] == ["sent"]
    assert "⟦secret:slack/" in str(kept.sends[0].payload)
    assert token not in str(kept.to_json())


async def test_a_process_that_was_taken_for_dead_runs_again(postgres_url: str, tmp_path: Path) -> None:
    """A notebook's process whose lease lapsed, like that of a machine that slept, joins again with its next run."""
    request = RunRequest(a_workflow(python_step("one", "return 1")), an_event(), parse_policy("deny"), folder=tmp_path)
    with Project.open(tmp_path / ".pdkernel", database_url=postgres_url) as project:
        async with await WorkflowEngine.start(project, LocalDirectory(project), origin="notebook") as engine:
            first = await engine.run(request)
            with psycopg.connect(postgres_url, autocommit=True) as connection:
                connection.execute("update executors set alive = false")
            while not engine.journal.is_lost:
                await asyncio.sleep(0.05)
            second = await engine.run(request)
            kept = [run.id for run in await engine.journal.list_executions()]

    assert (first.status, second.status) == ("success", "success")
    assert kept == [second.id, first.id]


async def test_few_mails_wait_for_a_mail_server_that_hangs(
    runtime: WorkflowEngine, project: Project, tmp_path: Path
) -> None:
    """Mails wait in threads that the server needs for other work, so two runs try to send theirs; those of the others are due later."""
    connections: list[asyncio.StreamWriter] = []
    hanging = await asyncio.start_server(lambda _, writer: connections.append(writer), "127.0.0.1", 0)
    await run_blocking(project.settings.set, "mail_to", "me@example.com")
    await run_blocking(project.settings.set, "mail_server", f"127.0.0.1:{hanging.sockets[0].getsockname()[1]}")
    request = RunRequest(
        a_workflow(python_step("tell", "pd.send.email(subject='Hello', text='There')")),
        an_event(),
        parse_policy("live"),
        folder=tmp_path,
        interface="http",
        pause_mode="park",
    )

    runs = [asyncio.create_task(runtime.run(request)) for _ in range(6)]
    done: set[asyncio.Task[Execution]] = set()
    while len(done) < 4:
        done, _ = await asyncio.wait(runs, return_when=asyncio.FIRST_COMPLETED, timeout=0.05)
    await asyncio.sleep(0.1)
    count = len(connections)
    for writer in connections:
        writer.close()
    await asyncio.gather(*runs)
    hanging.close()

    assert count == 2
    assert len(await runtime.journal.claim_deliveries()) == 3  # one lane gives three at a time
