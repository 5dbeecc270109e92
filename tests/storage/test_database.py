"""Projects on a PostgreSQL server: several processes at once, and a server that does not do what is asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import jwt
import psycopg
import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from pdkernel.common.clock import ManualClock
from pdkernel.common.identity import Account
from pdkernel.errors import ProjectError, RequestError
from pdkernel.model import JSON
from pdkernel.storage import EventTarget, Grant, Project, StoreRecord
from pdkernel.storage.accounts import AccountExistsError
from pdkernel.storage.deployed_triggers import DeployedTrigger
from pdkernel.storage.postgres import translate_error, unreachable_error
from pdkernel.storage.schedule import Schedule
from tests.durability.database_proxy import proxy_of
from tests.postgres import PostgresServer
from tests.storage.conftest import Location, remove_rows
from tests.storage.test_deployed_triggers import add_trigger
from tests.storage.waiting import count_waiting, until


@pytest.fixture
def processes(
    shared_database: tuple[str, Path], tmp_path: Path, clock: ManualClock
) -> Iterator[tuple[Project, Project]]:
    """A project on Postgres that was opened twice, as two processes do."""
    with ExitStack() as opened:
        first, second = (
            opened.enter_context(Location(tmp_path / name, *shared_database).open(clock=clock)) for name in "ab"
        )
        yield first, second
        remove_rows(first)


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Run *calls* in threads at the same time, and return their results."""
    with ThreadPoolExecutor(len(calls)) as threads:
        return [future.result() for future in [threads.submit(call) for call in calls]]


def overlap(project: Project, first: Callable[[], Any], second: Callable[[], Any]) -> list[Any]:
    """The results of *first*, and of *second*, which begins when the transaction of *first* has done all but its commit."""
    with ThreadPoolExecutor(2) as threads, project.sqlalchemy_engine.connect() as holder:
        holder.execute(
            text("lock table meta in access exclusive mode")
        )  # a transaction reads the table before its commit
        calls = [threads.submit(first)]
        until(lambda: count_waiting(project.sqlalchemy_engine) == 1)
        calls.append(threads.submit(second))
        until(lambda: count_waiting(project.sqlalchemy_engine) == 2)
        holder.rollback()
        return [call.result() for call in calls]


def run_sql(url: str, statement: str) -> None:
    """Run *statement* in the database at *url*."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[call-overload, unused-ignore]  # text of this module


def refusal(folder: Path, url: str, key_file: Path | None = None) -> ProjectError:
    """The error of opening the project at *url*."""
    with pytest.raises(ProjectError) as caught:
        Project.open(folder, database_url=url, key_file=key_file)
    return caught.value


def test_processes_that_start_together_create_one_project(postgres_url: str, tmp_path: Path) -> None:
    """Processes that create a project at the same time share one id; the folder holds no database."""
    key = tmp_path / "key"
    projects = together(
        *[lambda n=n: Project.open(tmp_path / str(n), database_url=postgres_url, key_file=key) for n in range(3)]
    )

    assert len({project.project_id for project in projects}) == 1
    assert sorted(project.is_new for project in projects) == [False, False, True]
    assert [path.name for path in projects[0].folder.iterdir()] == [".gitignore"]
    for project in projects:
        project.close()


def test_no_change_of_a_sources_state_is_lost(processes: tuple[Project, Project]) -> None:
    """Two processes that change the state of one source take turns."""

    def count(state: dict[str, Any]) -> None:
        state["count"] = state.get("count", 0) + 1

    def work(project: Project) -> None:
        for _ in range(20):
            project.source_states.update("source", count)

    together(*[lambda project=project: work(project) for project in processes])

    assert processes[0].source_states.load("source") == {"count": 40}


def test_processes_get_one_secret(processes: tuple[Project, Project]) -> None:
    """Two processes that set a missing secret, or create the key of an endpoint, at the same time get the same one."""
    for number in range(20):
        calls = [partial(project.secrets.get_or_set, f"name{number}", f"of {project.folder}") for project in processes]
        assert len(set(together(*calls))) == 1
        keys = [partial(project.endpoint_keys.ensure_trigger_key, f"dc_{number}") for project in processes]
        assert len(set(together(*keys))) == 1


def test_a_store_is_removed_while_others_write(processes: tuple[Project, Project]) -> None:
    """A process that removes a store and one that writes to the store do not disturb each other."""

    def write() -> None:
        for number in range(40):
            processes[0].data_stores.set("contended", "key", number)

    def remove() -> None:
        for _ in range(40):
            processes[1].data_stores.remove("contended")

    together(write, remove)

    record = processes[0].data_stores.find("contended", "key")
    assert record is None or record.value == 39


def test_a_write_of_records_waits_for_another_one(processes: tuple[Project, Project]) -> None:
    """The second of two processes that write records of one store locks no record before the first has ended."""
    first, second = processes
    records = {key: StoreRecord(key, 1, None) for key in "abxy"}
    first.data_stores.put_records("both", list(records.values()))

    with ThreadPoolExecutor(2) as threads, first.sqlalchemy_engine.connect() as holder:
        holder.execute(text("select 1 from store_records where key in ('x', 'y') for update"))
        writes = [threads.submit(first.data_stores.put_records, "both", [records[key] for key in "axb"])]
        until(lambda: count_waiting(first.sqlalchemy_engine) == 1)
        writes.append(threads.submit(second.data_stores.put_records, "both", [records[key] for key in "bya"]))
        until(lambda: count_waiting(first.sqlalchemy_engine) == 2)

    assert [write.exception() for write in writes] == [None, None]


def test_an_expired_record_that_another_process_changes_is_left(
    processes: tuple[Project, Project], clock: ManualClock
) -> None:
    """A write that removes expired records does not wait for a process that has locked one of them."""
    first, second = processes
    first.data_stores.set("expired", "old", 1, ttl=1)
    clock.advance(2)

    with ThreadPoolExecutor(1) as thread, first.sqlalchemy_engine.connect() as holder:
        holder.execute(text("select 1 from store_records where key = 'old' for update"))
        writing = thread.submit(second.data_stores.set, "other", "new", 2)
        until(lambda: writing.done() or count_waiting(first.sqlalchemy_engine) > 0)
        is_done = writing.done()

    assert (is_done, writing.exception()) == (True, None)


def test_a_renewal_that_stores_its_token_ends_before_another_connection(processes: tuple[Project, Project]) -> None:
    """A user who connects an account again waits for a renewal that has its claim, so that their grant is the last one."""
    first, second = processes
    now = datetime(2026, 1, 1, tzinfo=UTC)
    first.accounts.add(Account("apn_again", "crm", "", "eve", "development", now, True, ()), {"token": "old"})
    first.grants.set("apn_again", Grant("refresh-1", now, now))
    claim = first.grants.claim_renewal("apn_again")

    with ThreadPoolExecutor(2) as threads, first.sqlalchemy_engine.connect() as holder:
        holder.execute(text("select 1 from accounts where id = 'apn_again' for update"))
        renewing = threads.submit(
            first.accounts.replace_credentials, "apn_again", {"token": "new"}, renewal_claim=claim
        )
        until(lambda: count_waiting(first.sqlalchemy_engine) == 1)
        connecting = threads.submit(second.grants.set, "apn_again", Grant("refresh-2", now, now))
        until(lambda: connecting.done() or count_waiting(first.sqlalchemy_engine) == 2)
        waits = not connecting.done()

    assert (waits, renewing.result(), connecting.result()) == (True, True, None)


def test_one_process_gets_an_account_id(processes: tuple[Project, Project], clock: ManualClock) -> None:
    """Of two processes that add an account with one id, one is refused, and the account has the credentials of the other."""

    def add(project: Project, account_id: str) -> str | None:
        name = project.folder.name
        account = Account(account_id, "slack", name, f"user {name}", "development", clock.now())
        try:
            project.accounts.add(account, {"t": name})
        except AccountExistsError:
            return None
        return name

    for number in range(10):
        account_id = f"apn_one{number}"
        winners = together(*[partial(add, project, account_id) for project in processes])

        (winner,) = filter(None, winners)
        found = processes[0].accounts.find(account_id)
        assert found is not None
        assert (found.name, dict(processes[0].accounts.credentials(account_id))) == (winner, {"t": winner})
        assert {name: processes[0].accounts.remove(account_id) for name in winners if name} == {winner: True}


def test_one_process_claims_a_renewal(processes: tuple[Project, Project], clock: ManualClock) -> None:
    """Of two processes that refresh a token at the same time, one has the claim; after that the other may claim too."""
    grant = Grant("refresh", None, clock.now())
    for number in range(10):
        account_id = f"apn_claim{number}"
        processes[0].grants.set(account_id, grant)

        claims = together(*[partial(project.grants.claim_renewal, account_id) for project in processes])

        (claim,) = [each for each in claims if each is not None]
        assert processes[1].grants.finish_renewal(account_id, claim, grant)
        assert processes[1].grants.claim_renewal(account_id) is not None


def test_items_of_a_setting_are_added_by_two_processes(processes: tuple[Project, Project]) -> None:
    """Two processes that add items to one setting, such as registered apps, lose none; an item is replaced by its key."""

    def add(project: Project) -> None:
        for number in range(10):
            project.settings.set_item("items", f"{project.folder.name}{number}", number)

    together(*[partial(add, project) for project in processes])
    processes[0].settings.set_item("items", "a0", "again")

    items = {f"{name}{number}": number for name in "ab" for number in range(10)}
    assert processes[1].settings.get("items") == {**items, "a0": "again"}


def test_an_event_waits_once(processes: tuple[Project, Project]) -> None:
    """An event that two processes store under one key waits once, and either process may finish the event."""
    target = EventTarget("p_once", "timer")
    keys = [f"once/{number}" for number in range(20)]

    def store(project: Project) -> None:
        for key in keys:
            with project.sqlalchemy_engine.begin() as connection:
                project.trigger_events.add(connection, target, [(key, {"by": project.folder.name})])

    together(*[partial(store, project) for project in processes])

    waiting = processes[0].trigger_events.list_waiting([target], 100)
    assert sorted(event.dedupe_key for event in waiting) == sorted(keys)
    together(*[partial(list, map(project.trigger_events.finish, waiting)) for project in processes])
    assert processes[1].trigger_events.list_waiting([target], 100) == []


def test_one_process_moves_a_due_trigger(processes: tuple[Project, Project], clock: ManualClock) -> None:
    """Two processes that have run due triggers at the same time move each of them once."""
    ids = [f"dc_due{number}" for number in range(6)]
    for trigger_id in ids:
        add_trigger(processes[0], trigger_id, Schedule(interval_s=60))
    clock.advance(60)
    found = processes[0].deployed_triggers.list_due()
    upcoming = clock.now() + timedelta(seconds=60)

    def move(project: Project) -> list[str]:
        return [each.id for each, due in found if project.deployed_triggers.move_due(each.id, due, upcoming)]

    moved = together(*[partial(move, project) for project in processes])

    assert sorted(each for ids_of_one in moved for each in ids_of_one if each in ids) == ids
    for trigger_id in ids:
        processes[0].deployed_triggers.remove(trigger_id)


def test_no_change_of_a_deployed_trigger_is_lost(processes: tuple[Project, Project]) -> None:
    """A change that begins while another process changes the same trigger begins with the result of that change."""
    first, second = processes
    add_trigger(first, "dc_changed")

    with ThreadPoolExecutor(1) as thread:

        def rename(found: DeployedTrigger) -> DeployedTrigger:
            other = thread.submit(second.deployed_triggers.record_delivery, found.id, "wh_1", "status 500")
            until(lambda: other.done() or count_waiting(first.sqlalchemy_engine) == 1)
            return replace(found, name="Renamed")

        first.deployed_triggers.update("dc_changed", rename)

    stored = second.deployed_triggers.find("dc_changed")
    first.deployed_triggers.remove("dc_changed")
    assert stored is not None
    assert (stored.name, [hook.failures for hook in stored.webhooks]) == ("Renamed", [1, 0])


@pytest.mark.parametrize("removed", ["trigger", "user"])
def test_a_trigger_that_is_removed_while_it_emits_leaves_nothing(
    processes: tuple[Project, Project], removed: str
) -> None:
    """Events and the state that a source is about to store are removed with its trigger, alone or with its external user."""
    first, second = processes
    add_trigger(first, "dc_gone", user="grace")
    state_key = '["dc_gone", "key"]'
    event: dict[str, JSON] = {"e": {"n": 1}, "k": "emit", "ts": 1, "id": "1"}

    def store(connection: Connection, _: object) -> None:
        first.deployed_triggers.add_events("dc_gone", [event], ["p_gone"], connection=connection)

    def emit() -> None:
        first.source_states.update(state_key, lambda state: state.update(db=1), store)

    remove = {
        "trigger": partial(second.deployed_triggers.remove, "dc_gone"),
        "user": partial(second.accounts.delete_user, "grace", "development"),
    }
    overlap(first, emit, remove[removed])

    assert second.deployed_triggers.find("dc_gone") is None
    assert second.deployed_triggers.list_events("dc_gone", 10) == []
    assert "p_gone" not in [target.id for target in second.trigger_events.list_targets()]
    assert second.source_states.load(state_key) == {}


def test_a_user_is_deleted_with_an_account_that_is_being_added(processes: tuple[Project, Project]) -> None:
    """An account that a process adds while another one deletes its user is deleted, too."""
    first, second = processes
    created = datetime(2026, 1, 1, tzinfo=UTC)
    kept, added = (Account(name, "slack", "", "lin", "development", created, True, ()) for name in ("apn_x", "apn_y"))
    first.accounts.add(kept, {})

    overlap(first, partial(first.accounts.add, added, {}), partial(second.accounts.delete_user, "lin", "development"))

    assert second.accounts.find_user("lin", "development") is None
    assert second.accounts.list_accounts(external_user_id="lin") == []


def test_codes_of_two_processes_have_an_interval(processes: tuple[Project, Project]) -> None:
    """Of two codes that two processes store at the same time, the second is refused."""
    add = [partial(each.console_logins.add_code, f"code {n}", 60, interval_s=30) for n, each in enumerate(processes)]

    assert overlap(processes[0], *add) == [True, False]


def test_a_second_process_signs_with_the_key_of_the_first(processes: tuple[Project, Project]) -> None:
    """A process that issues its first token while another one creates the key signs with that key."""
    with processes[0].sqlalchemy_engine.begin() as connection:
        connection.execute(text("delete from signing_keys"))

    tokens = overlap(processes[0], *(partial(each.access_tokens.issue, "pdc_1", ["*"]) for each in processes))

    assert len({jwt.get_unverified_header(token)["kid"] for token in tokens}) == 1
    with processes[0].sqlalchemy_engine.connect() as connection:
        assert connection.execute(text("select count(*) from signing_keys")).scalar_one() == 1


def test_a_named_transaction_excludes_other_processes(processes: tuple[Project, Project]) -> None:
    """Blocks with one name run one after the other, and see what the block before them has stored."""

    def count(project: Project) -> None:
        for _ in range(10):
            with project.one_transaction("count"):
                number = project.settings.get("number", 0)
                assert isinstance(number, int)
                project.settings.set("number", number + 1)

    together(*[partial(count, project) for project in processes])

    assert processes[0].settings.get("number") == 20


@pytest.mark.parametrize("is_nested", [False, True])
def test_one_transaction_stores_all_or_nothing(project: Project, is_nested: bool) -> None:
    """An error undoes all writes of the block, which its own reads have seen, and later writes are stored again."""
    project.settings.set("kept", 1)

    def change() -> None:
        project.settings.set("kept", 2)
        project.variables.set("NEW", "value")
        assert (project.settings.get("kept"), project.variables.list()) == (2, ["NEW"])

    def crash() -> None:
        with project.one_transaction():
            with project.one_transaction("inner") if is_nested else nullcontext():
                change()
            raise ValueError("crash")

    with pytest.raises(ValueError, match="crash"):
        crash()
    undone = project.settings.get("kept"), project.variables.list()
    with project.one_transaction():
        change()

    assert undone == (1, [])
    assert (project.settings.get("kept"), project.variables.list()) == (2, ["NEW"])


def test_text_is_sorted_by_its_bytes(processes: tuple[Project, Project]) -> None:
    """Lists have the order that they have on SQLite, regardless of the language of the server."""
    for name in ("b", "B", "a_", "aB", "_a"):
        processes[0].variables.set(name, "1")

    assert processes[0].variables.list() == ["B", "_a", "aB", "a_", "b"]


def test_nul_is_refused(processes: tuple[Project, Project]) -> None:
    """A text that Postgres cannot store is refused with the reason."""
    with pytest.raises(RequestError, match="contains a NUL character"):
        processes[0].accounts.find("apn_\0")


def test_closed_connections_are_replaced(processes: tuple[Project, Project], shared_database: tuple[str, Path]) -> None:
    """After the server has closed all connections, as a restart does, the next call opens a new one."""
    project = processes[0]
    project.variables.set("KEPT", "1")
    run_sql(
        shared_database[0],
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()",
    )

    assert project.variables.values()["KEPT"] == "1"


def test_a_transaction_that_loses_its_connection(
    processes: tuple[Project, Project], shared_database: tuple[str, Path]
) -> None:
    """A transaction whose connection is closed fails with one message, and changes nothing."""

    def change(state: dict[str, Any]) -> None:
        state["lost"] = True
        run_sql(
            shared_database[0],
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()",
        )

    with pytest.raises(ProjectError, match="cannot be reached: terminating connection due to administrator command"):
        processes[0].source_states.update("lost", change)

    assert processes[0].source_states.load("lost") == {}


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada:pw-4711@127.0.0.1:1/db",
        "postgresql://127.0.0.1:1/db?user=ada&password=pw-4711",
        "postgres://ada:pw-4711@127.0.0.1:1/db",
    ],
)
def test_a_server_that_is_gone(tmp_path: Path, url: str) -> None:
    """The error names the database and the reason, in one line, without the password; the exit status is 3."""
    error = refusal(tmp_path, url)

    assert error.message.startswith(f"The project's database {url.partition(':')[0]}://")
    assert "cannot be reached: connection failed: " in error.message
    assert "\n" not in error.message
    assert "pw-4711" not in f"{error} {error!r}"
    assert "PDKERNEL_DATABASE" in error.fix
    assert error.exit_status == 3
    assert not (tmp_path / "key").exists()


@pytest.mark.parametrize("url", ["postgresql://u:pw-4711@host:port/db", "postgresql://u:pw-4711@[::1/db"])
def test_a_url_with_a_mistake(tmp_path: Path, url: str) -> None:
    """A URL that cannot be parsed is refused without showing its password."""
    error = refusal(tmp_path, url)

    assert error.message == "The value of --database (PDKERNEL_DATABASE) is not a URL."
    assert "pw-4711" not in str(error)


def test_a_user_without_rights(postgres: PostgresServer, postgres_url: str, tmp_path: Path) -> None:
    """A database user who may not create tables gets the server's reason."""
    name = f"role_{tmp_path.name[-20:].replace('-', '_')}"
    postgres.execute(f"create role {name} login")
    try:
        error = refusal(tmp_path, postgres_url.replace("//postgres@", f"//{name}@"))
    finally:
        postgres.execute(f"drop role {name}")

    assert "cannot be used: permission denied for schema public" in error.message


def test_another_key_is_refused(postgres_url: str, tmp_path: Path) -> None:
    """A database whose values were encrypted with another key is refused, and named without its password."""
    with_password = postgres_url.replace("//postgres@", "//postgres:pw-4711@")
    Project.open(tmp_path / "a", database_url=with_password).close()
    Project.open(tmp_path / "b").close()

    error = refusal(tmp_path / "b", with_password)

    assert "was created with another key than the one in" in error.message
    assert "PDKERNEL_KEY_FILE" in error.fix
    assert "pw-4711" not in str(error)


def test_a_missing_key_is_not_replaced(postgres_url: str, tmp_path: Path) -> None:
    """A second host without the key file gets no new key."""
    Project.open(tmp_path / "a", database_url=postgres_url).close()

    error = refusal(tmp_path / "b", postgres_url)

    assert error.message.startswith(f"The project's key file {tmp_path}/b/key is missing")
    assert "use an empty database" in error.fix
    assert not (tmp_path / "b" / "key").exists()


def test_foreign_tables_are_left_alone(postgres_url: str, tmp_path: Path) -> None:
    """A database with a foreign table under one of pdkernel's names is refused unchanged."""
    run_sql(postgres_url, "create table accounts (iban text)")

    error = refusal(tmp_path, postgres_url)

    assert "has tables with the same names: accounts" in error.message
    engine = create_engine(postgres_url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        assert connection.execute(text("select count(*) from pg_tables where schemaname = 'public'")).scalar() == 1
    engine.dispose()


def test_the_location_shows_no_password(postgres_url: str, tmp_path: Path) -> None:
    """A project shows its database without the password."""
    url = postgres_url.replace("//postgres@", "//postgres:pw-4711@")

    with Project.open(tmp_path, database_url=f"{url}&sslpassword=pw-4712") as project:
        shown = f"{project!r} {project.location}"

    assert project.location.startswith("postgresql://postgres:***@/test_")
    assert "pw-471" not in shown


def test_the_reason_of_an_error_shows_no_password() -> None:
    """An error of the driver that repeats the password is shown without the password, and only its first line."""
    url = make_url("postgresql://ada:planted-password@server/name")

    error = unreachable_error("the location", "bad planted-password\nin the second line", url)

    assert error.message == "The project's database the location cannot be reached: bad ***"


@pytest.mark.filterwarnings("error::ResourceWarning")
def test_a_pool_without_a_free_connection_is_named() -> None:
    """If every connection of the process is in use for too long, the error gives that reason."""
    url = make_url("postgresql://ada:pw-4712@db.example/shop")

    found = translate_error(PoolTimeoutError("QueuePool limit of size 5 overflow 60 reached"), "postgresql://db", url)

    assert found is not None
    assert found.message == (
        "The project's database postgresql://db cannot be used: all connections of this process are in use"
    )


def test_a_connection_in_use_is_closed_later(postgres_url: str, tmp_path: Path) -> None:
    """A connection that a thread uses while the project is closed is closed when the thread returns it."""
    project = Project.open(tmp_path, database_url=postgres_url)

    def close(state: dict[str, Any]) -> None:
        project.close()

    project.source_states.update("source", close)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        query = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        ends = time.monotonic() + 60
        while connection.execute(query).fetchone() != (0,):
            assert time.monotonic() < ends
            time.sleep(0.01)


@pytest.mark.parametrize("is_committed", [True, False])
def test_a_commit_without_a_reply_has_one_outcome(postgres: PostgresServer, tmp_path: Path, is_committed: bool) -> None:
    """A write whose connection is lost at its commit succeeds if the server has committed it, and fails if nothing is stored."""
    with (
        postgres.new_database() as url,
        proxy_of(postgres.sockets, make_url(url).database or "") as proxy,
        Project.open(tmp_path, database_url=proxy.url) as project,
    ):
        with (
            nullcontext() if is_committed else pytest.raises(ProjectError, match="cannot be reached"),
            proxy.losing(lambda _: is_committed) as lost,
            project._database.one_transaction(),
        ):
            project.variables.set("A", "1")
            if not is_committed:
                query = "select pg_terminate_backend(pid) from pg_stat_activity where state = 'idle in transaction'"
                with psycopg.connect(url) as other:
                    other.execute(query)
                proxy.cut()
                proxy.heal()
        values = project.variables.values()

    assert lost == ([1] if is_committed else [])
    assert values == ({"A": "1"} if is_committed else {})
