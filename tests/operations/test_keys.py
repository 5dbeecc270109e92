"""The replacement of the project's key: every encrypted value, and the processes that use the project."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, LargeBinary, MetaData, insert, select, update

from pdkernel.accounts import LocalDirectory
from pdkernel.common.encode import encode_json
from pdkernel.engine.restored_run import Carry, restore_run, seal_carry, seal_message, seal_payload, seal_request
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.errors import ProjectError, RequestError
from pdkernel.execution import Delivery, Execution, StepResult, StoredResponse
from pdkernel.journal import Claim, NewRun, OutboxRow, StepRow, WaitKey, WaitRow, encode_event, encode_step
from pdkernel.journal.schema import executors, steps
from pdkernel.journal.schema import metadata as journal_tables
from pdkernel.operations.keys import JOURNAL_COLUMNS, rotate_encryption_key
from pdkernel.operations.run_history import open_journal
from pdkernel.storage import (
    DeployedTrigger,
    EventTarget,
    Grant,
    Login,
    PendingSignIn,
    Project,
    Schedule,
    TriggerState,
    Vault,
)
from pdkernel.storage.folder import read_key
from pdkernel.storage.key_rotation import RotationResult
from pdkernel.storage.schema import metadata as project_tables
from pdkernel.storage.short_lived_tokens import ConnectToken, TokenTerms, hash_token
from pdkernel.storage.vault import SEALED_COLUMNS, SealedColumn
from pdkernel.workers import Effect
from tests.builders import a_workflow, python_step
from tests.server.site import site_of

NOT_ENCRYPTED = {"clients.secret_hash"}
"""Columns with bytes that are not encrypted."""
SECRET = "xoxb-planted-4711-secret"


@pytest.fixture(params=["sqlite", "postgres"])
def open_project(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Project]:
    """Opens one project on each database, as one more process does."""
    url = None if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))
    return lambda: Project.open(tmp_path / ".pdkernel", database_url=url)


async def rotate(project: Project, *, access_tokens: bool = False) -> RotationResult:
    """Replace the key of *project*."""
    return await rotate_encryption_key(project, access_tokens=access_tokens, on_progress=lambda _done, _all: None)


def fill_tables(project: Project) -> None:
    """Store a value of every kind in the project's own tables."""
    now = project.clock.now()
    LocalDirectory(project).add_account(
        app="slack", credentials={"token": SECRET}, external_user_id="ada", account_id="apn_1"
    )
    project.grants.set("apn_1", Grant(SECRET, None, now))
    project.grants.set("apn_2", Grant(None, None, now))  # null: nothing is encrypted
    project.variables.set("TOKEN", SECRET)
    project.notebook_states.save("a.ipynb", {"exports": SECRET})
    project.idempotency.add("call", StoredResponse(200, "OK", (), SECRET.encode(), "2026-01-01T00:00:00.000Z"))
    project.source_states.update('["p_a", "s"]', lambda state: state.update(cursor=SECRET))
    project.answered_requests.add("p_a/s", {"body": SECRET})
    project.secrets.set("webhooks", SECRET)
    project.connect_tokens.add(
        ConnectToken(hash_token("t"), "ada", "development", now, now + timedelta(days=1), TokenTerms("s", (SECRET,)))
    )
    project.pending_sign_ins.add("state", PendingSignIn("t", "slack", SECRET, "browser", "https://x.example"))
    client = project.oauth_clients.create("product").client
    project.access_tokens.issue(client.id, ("*",))
    project.deployed_triggers.add(
        DeployedTrigger("dc_1", "ada", "development", "k", "1", "n", {"p": SECRET}, {}, True, now, now)
    )
    project.deployed_triggers.add_events("dc_1", [{"body": SECRET}, {"body": "second"}])
    state = TriggerState("p_a", "schedule", "A", "/a.ipynb", {"token": SECRET}, True, now, Schedule(60.0))
    project.workflow_triggers.save([state])
    project.workflow_triggers.receive(state, "p_a/schedule/{1}", {"body": SECRET})  # braces: the key is any text
    assert project.login.save(Login("client", SECRET, "proj_1")) == "project"


def read_tables(project: Project) -> Mapping[str, Any]:
    """Read these values."""
    (token,) = project.oauth_clients.list_clients()
    return {
        "account": project.accounts.credentials("apn_1"),
        "grants": (project.grants.find("apn_1"), project.grants.find("apn_2")),
        "variable": project.variables.values(),
        "notebook": project.notebook_states.load("a.ipynb", dict[str, Any]),
        "answer": project.idempotency.find("call"),
        "source": project.source_states.load('["p_a", "s"]'),
        "secret": project.secrets.get("webhooks"),
        "connect": project.connect_tokens.find("t"),
        "clients": token.id,
        "deployed": project.deployed_triggers.find("dc_1"),
        "deployed events": project.deployed_triggers.list_events("dc_1", 10),
        "trigger": project.workflow_triggers.list_states(),
        "trigger events": project.trigger_events.list_waiting([EventTarget("p_a", "schedule")], 10),
        "login": project.login.load({}),
    }


async def fill_journal(project: Project) -> None:
    """Store a paused run, which has been resumed, with a value of every kind."""
    vault, workflow = project.vault, a_workflow(python_step("one", "return 1"), python_step("two", "return 2"))
    carry = Carry(exports={"$return_value": SECRET}, secrets=(("slack/apn_1/token", SECRET),))
    async with open_journal(project) as journal:
        definition = await journal.store_definition(workflow)
        sealed = seal_request(SECRET, "run", vault)
        assert await journal.accept_run(NewRun("run", "trace", "Test", definition, encode_event({}, {}), sealed))
        claim, done = Claim.first("run"), encode_step(StepResult("one", "success"))
        await journal.append_step(claim, StepRow(0, "one", done, "one", carry=seal_carry(carry, "run", "one", vault)))
        message = seal_message(Effect("http", {"url": SECRET}), "run", "one", vault)
        wait = WaitRow(1, "two", kind="suspend", data=done, carry=seal_carry(carry, "run", "two", vault))
        shown = encode_json(Delivery("one", "http", "waiting")).decode()
        sent = [OutboxRow("one", 1, 0, message, shown), OutboxRow("one", 1, 1, b"", shown)]  # empty: not encrypted
        assert await journal.park(claim, wait, outbox=sent)
        payload = seal_payload({"approved": SECRET}, "run", "two", vault)
        assert await journal.resolve_wait(WaitKey("run", "two"), "resumed", payload) == "done"


async def read_journal(project: Project) -> tuple[Execution, Any, Any]:
    """Read this run as its next executor does."""
    async with open_journal(project) as journal:
        found = await journal.load_run("run")
        assert found is not None
        return (
            found[0],
            restore_run(found[1], project.vault),
            project.vault.unseal(found[1].request or b"", "runs/run/request"),
        )


def sealed_values(project: Project) -> Iterator[tuple[str, bytes, str]]:
    """The column, the bytes and the location of every encrypted value."""
    with project.sqlalchemy_engine.connect() as connection:
        for sealed in (*SEALED_COLUMNS, *JOURNAL_COLUMNS):
            for row in connection.execute(select(sealed.column.table)).mappings():
                if row[sealed.column]:
                    yield str(sealed.column), row[sealed.column], sealed.locate(row)


def test_every_encrypted_column_is_listed() -> None:
    """Each column of bytes is in the list of a rotation, or is named as not encrypted."""
    found: list[Column[Any]] = []
    tables: tuple[MetaData, ...] = (project_tables, journal_tables)
    for table in (each for metadata in tables for each in metadata.sorted_tables):
        found += [column for column in table.columns if isinstance(column.type, LargeBinary)]

    listed: list[SealedColumn] = [*SEALED_COLUMNS, *JOURNAL_COLUMNS]

    assert sorted(map(str, found)) == sorted([*(str(sealed.column) for sealed in listed), *NOT_ENCRYPTED])
    assert all(set(sealed.names) <= set(sealed.column.table.columns.keys()) for sealed in listed)


async def test_every_value_opens_with_the_new_key(open_project: Callable[[], Project]) -> None:
    """After a rotation all values are read as before, and the old key opens nothing that is stored."""
    with open_project() as project:
        fill_tables(project)
        await fill_journal(project)
        before, run_before = read_tables(project), await read_journal(project)
        old, stored = project.vault, len(list(sealed_values(project)))

        result = await rotate(project, access_tokens=True)

    with open_project() as project:
        assert read_tables(project) == before
        assert await read_journal(project) == run_before
        values = list(sealed_values(project))
        assert {column for column, _, _ in values} == {
            str(sealed.column) for sealed in (*SEALED_COLUMNS, *JOURNAL_COLUMNS)
        }
        assert result.values == stored + 2  # the new key of access tokens, and the secret of the login
        assert len(values) == stored + 2  # the new key of access tokens, and the earlier signing key
        for _, sealed, location in values:
            assert project.vault.unseal(sealed, location)
            with pytest.raises(ProjectError):
                old.unseal(sealed, location)
        assert project.pending_sign_ins.consume("state", "browser") is not None
        login = project.settings.get("login")
        assert isinstance(login, dict)
        with pytest.raises(ProjectError):
            old.unseal(base64.b64decode(str(login["secret"])), "settings/login/client_secret")


async def test_nothing_encrypted_with_the_old_key_is_in_the_files(tmp_path: Path) -> None:
    """After a rotation no file has the bytes of a value as the old key encrypted it, or the old key."""
    with Project.open(tmp_path / ".pdkernel") as project:
        fill_tables(project)
        await fill_journal(project)
        key, values = (project.folder / "key").read_bytes(), [value for _, value, _ in sealed_values(project)]
        await rotate(project)

        files = [path.read_bytes() for path in project.folder.rglob("*") if path.is_file()]

    assert not [value for value in values if any(value in content for content in files)]
    assert not any(key.strip() in content for content in files)


async def test_a_damaged_value_of_a_run_is_named(tmp_path: Path) -> None:
    """A value that cannot be decrypted stops the rotation; the message names table and row, and nothing has changed."""
    with Project.open(tmp_path / ".pdkernel") as project:
        fill_tables(project)
        await fill_journal(project)
        with project.sqlalchemy_engine.begin() as connection:
            connection.execute(update(steps).values(carry=b"\x01damaged"))
        before, key = read_tables(project), (project.folder / "key").read_bytes()

        with pytest.raises(ProjectError) as refused:
            await rotate(project, access_tokens=True)

        assert "steps.carry in the row with run_id run, path one, iteration 1" in refused.value.message
        assert SECRET not in str(refused.value)
        assert ((project.folder / "key").read_bytes(), read_tables(project)) == (key, before)
        assert not list(project.folder.glob("*.new"))
        project.variables.set("AFTER", "1")


@asynccontextmanager
async def an_executor(project: Project, origin: str) -> AsyncIterator[None]:
    """A process that runs workflows of the project."""
    async with await WorkflowEngine.start(project, LocalDirectory(project), origin=origin):
        yield


@pytest.mark.parametrize(("origin", "named"), [("serve", "`pdkernel serve`"), ("notebook", "a notebook")])
async def test_a_rotation_is_refused_while_another_process_runs_workflows(
    open_project: Callable[[], Project], origin: str, named: str
) -> None:
    """While a server or a notebook has the project, the key stays; afterwards it can be replaced."""
    with open_project() as project:
        key = read_key(project.key_file)
        with open_project() as other:
            async with an_executor(other, origin):
                with pytest.raises(RequestError) as refused:
                    await rotate(project)
        kept = read_key(project.key_file)
        await rotate(project)

        assert named in refused.value.message
        assert "--only access-tokens" in refused.value.fix
        assert refused.value.exit_status == 2
        assert (kept == key, read_key(project.key_file) == key) == (True, False)


async def test_a_process_that_was_killed_does_not_keep_the_key(open_project: Callable[[], Project]) -> None:
    """A server that has ended without a word, on this machine or long ago on another, does not refuse the rotation."""
    with open_project() as project:
        async with an_executor(project, "serve"):
            pass
        with project.sqlalchemy_engine.begin() as connection:
            connection.execute(insert(executors).values(id="dead", origin="serve", lease_until=1.0, alive=True))
        key = read_key(project.key_file)

        await rotate(project)

        assert read_key(project.key_file) != key


async def test_a_process_that_opened_the_project_before_starts_no_run(open_project: Callable[[], Project]) -> None:
    """A server that opened the project before the rotation, and starts after it, is refused: it has the old key."""
    with open_project() as project, open_project() as late:
        await rotate(project)

        with pytest.raises(RequestError, match="was replaced"):
            await WorkflowEngine.start(late, LocalDirectory(late), origin="serve")
        with pytest.raises(RequestError, match="was replaced"):
            async with open_journal(late):
                pass
    with open_project() as again:
        async with an_executor(again, "serve"):
            pass


ASKS = python_step("ask", "pd.respond(status=200, body=pd.flow.suspend(60000), immediate=True)")
ANSWERS = python_step("answer", 'return [pd.steps["ask"]["$resume_data"], pd.steps["trigger"]["event"]["body"]]')


async def test_a_url_that_was_sent_resumes_its_run(tmp_path: Path) -> None:
    """A paused run goes on by the URL from before two rotations; the URL of a key that was replaced opens no later run."""
    workflow = a_workflow(ASKS, ANSWERS, response="custom")
    async with site_of(tmp_path, workflow) as site:
        urls = (await site.http.post(site.path(), json={"order": 1})).json()
        await site.wait_for_run("paused")
        stolen = site.context.project.vault
    for _ in range(2):
        with Project.open(tmp_path / ".pdkernel") as project:
            assert (await rotate(project)).keeps_signing_key
    async with site_of(tmp_path, workflow) as site:
        later = (await site.http.post(site.path(), json={"order": 2})).json()
        run_id, token = later["resume_url"].split("/")[-3], later["resume_url"].rsplit(".", 1)
        forged = f"{token[0]}.{stolen.sign(f'flow/{run_id}/ask/1/1')[:16].hex()}"
        refused = await site.http.post(f"{site.url}{forged.removeprefix(site.url)}")
        answers = [
            await site.http.post(f"{site.url}/-/{url.split('/-/')[1]}", json={"approved": True})
            for url in (urls["resume_url"], urls["resume_url"], later["resume_url"])
        ]
        runs = await site.runs()

    assert refused.status_code == 404
    assert [answer.status_code for answer in answers] == [200, 409, 200]
    assert [run.step("answer").return_value for run in runs] == [[{"approved": True}, {"order": 1}], [{"approved": True}, {"order": 2}]]  # fmt: skip


async def test_a_signing_key_without_runs_is_forgotten(tmp_path: Path) -> None:
    """A rotation keeps no signing key if no run waits."""
    with Project.open(tmp_path / ".pdkernel") as project:
        await fill_journal(project)
        waiting = await rotate(project)
    with Project.open(tmp_path / ".pdkernel") as project:
        kept = len(project.earlier_signers)
        async with open_journal(project) as journal:
            await journal.cancel("run")
        done = await rotate(project)
    with Project.open(tmp_path / ".pdkernel") as project:
        forgotten = len(project.earlier_signers)

    assert (waiting.keeps_signing_key, kept, done.keeps_signing_key, forgotten) == (True, 1, False, 0)


async def test_rotations_at_the_same_time(tmp_path: Path) -> None:
    """Of rotations that start together, each succeeds or is refused; the project opens with the last key."""
    with Project.open(tmp_path / ".pdkernel") as project:
        project.variables.set("A", SECRET)

    def run() -> str:
        with Project.open(tmp_path / ".pdkernel") as opened:
            try:
                asyncio.run(rotate(opened))
            except RequestError as refused:
                return refused.message
            return "done"

    results = await asyncio.gather(*(asyncio.to_thread(run) for _ in range(4)))

    assert "done" in results
    assert all(result == "done" or "replace" in result for result in results), results
    with Project.open(tmp_path / ".pdkernel") as project:
        assert project.variables.values() == {"A": SECRET}
        assert project.vault.fingerprint == Vault(read_key(project.key_file) or b"").fingerprint
