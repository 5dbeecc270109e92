"""
An open project: one folder, one key, one database.

Because of the order of creation and checks, nothing is overwritten, and two processes that start at the same time open the same
project: the key in the key file is checked against the database, and is created only with it. Each table has its own module.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import Self, cast, get_args

from sqlalchemy import Engine, select, update

from pdkernel.common.clock import RANDOM_IDS, SYSTEM_CLOCK, Clock, IdGenerator, SteadyClock
from pdkernel.common.identity import Plan
from pdkernel.errors import ProjectError, RequestError
from pdkernel.model import JSON
from pdkernel.storage.accounts import AccountTable, GrantTable
from pdkernel.storage.answered_requests import AnsweredRequestTable, IdempotencyTable
from pdkernel.storage.batches import BatchTable
from pdkernel.storage.data_stores import DataStoreTable
from pdkernel.storage.database import Database
from pdkernel.storage.deployed_triggers import DeployedTriggerTable
from pdkernel.storage.endpoint_keys import EndpointKeyTable
from pdkernel.storage.folder import KEY_NAME, ensure_folder, ensure_key, read_key
from pdkernel.storage.journal_mark import JournalMark, check_mark, read_mark
from pdkernel.storage.key_rotation import (
    RotationResult,
    RotationScope,
    load_earlier_keys,
    rotate_key,
    settle_rotation,
)
from pdkernel.storage.login import LoginTable
from pdkernel.storage.migration import Ask, Schema
from pdkernel.storage.oauth_clients import AccessTokens, ClientKeyTable, OAuthClientTable
from pdkernel.storage.schema import PROJECT_SCHEMA, meta
from pdkernel.storage.settings import NotebookStateTable, SecretTable, SettingsTable, VariableTable
from pdkernel.storage.short_lived_tokens import (
    ConnectTokenTable,
    ConsoleLoginTable,
    PendingSignInTable,
    PipedreamTokenTable,
)
from pdkernel.storage.source_states import SourceStateTable, SourceTurnTable
from pdkernel.storage.trigger_events import TriggerEventTable
from pdkernel.storage.vault import Vault, sign_text
from pdkernel.storage.workflow_triggers import WorkflowTriggerTable

DEFAULT_PLAN: Plan = "business"
_CONNECT_DATA_STORES = "connect_data_stores"


class Project:
    """
    An open project with its tables. It is thread-safe; each process opens the project itself.

    Attributes:
        folder: `.../.pdkernel`.
        project_id: `proj_...`.
        is_new: Whether this call created the project.
        key_file: The file with the key.
        clock: The clock of all times in the database; an executor of the journal corrects it to the time of a server.
    """

    def __init__(
        self,
        folder: Path,
        project_id: str,
        database: Database,
        vault: Vault,
        *,
        created: bool,
        clock: Clock,
        ids: IdGenerator,
        key_file: Path,
    ) -> None:
        self.folder = folder
        self.key_file = key_file
        self.project_id = project_id
        self.is_new = created
        self.clock = SteadyClock.of(clock)
        self.ids = ids
        self._database = database
        self._vault = vault

    @property
    def vault(self) -> Vault:
        """Encrypts values that are stored outside these tables, such as events in the journal."""
        return self._vault

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        database_url: str | None = None,
        key_file: Path | None = None,
        clock: Clock = SYSTEM_CLOCK,
        ids: IdGenerator = RANDOM_IDS,
        ask: Ask | None = None,
    ) -> Self:
        """
        Open the project in *folder* (`.../.pdkernel`); create it if it does not exist.

        Args:
            folder: The project's folder; it contains only caches if *database_url* names a server.
            database_url: A URL (`sqlite:///...`, `postgresql://...`), or None for `project.db` in the folder.
            key_file: The file with the key, or None for `key` in the folder.
            clock: Gives the time.
            ids: Generates ids.
            ask: Asks whether tables may be changed while other processes use the database; None refuses.

        Raises:
            ProjectError: Folder, key or database cannot be used; all three are left unchanged.
            RequestError: Another process is replacing the key, and has not ended within `OPENING_WAIT_S` seconds; or tables of an
                earlier version must not be changed now.
        """
        folder = folder.absolute()
        ensure_folder(folder)
        key_path = (key_file or folder / KEY_NAME).absolute()
        opened = Database.open(folder, database_url)
        opened.ask = ask
        try:
            key = read_key(key_path)
            mark = None
            if key is not None and opened.sqlite_path is not None:  # before the database, which is ahead of its mark
                mark = read_mark(key_path, opened.sqlite_path)
                if mark is not None:
                    check_mark(mark, key_path, opened.sqlite_path)
            facts = opened.read_meta()
            if facts is not None:
                PROJECT_SCHEMA.check(int(facts["schema_version"]), opened.location)
                if settle_rotation(key_path, facts["project_id"], opened) or not fits_database(key, facts):
                    # another process has replaced the key meanwhile
                    key, facts = read_key(key_path), opened.read_meta()
            if key is None:
                key = create_key(key_path, opened)
            vault = Vault(key)
            created = False
            if facts is None:
                facts, created = _create_tables(opened, ids.new("proj_", 7), vault)
            check_key(vault, facts["key_fingerprint"], key_path, opened.location)
            opened.migrate()
            opened.key_fingerprint = vault.fingerprint
            if mark is None and opened.sqlite_path is not None:
                JournalMark(key_path, opened.sqlite_path, facts["project_id"]).write(0)
        except BaseException:
            opened.close()
            raise
        return cls(folder, facts["project_id"], opened, vault, created=created, clock=clock, ids=ids, key_file=key_path)

    @staticmethod
    def find_sqlite(folder: Path, database_url: str | None) -> Path | None:
        """Return the SQLite file of the project in *folder*, which need not exist; None on Postgres. Arguments and errors as in `open`."""
        return Database.open(folder.absolute(), database_url).sqlite_path

    def __repr__(self) -> str:
        return f"Project({self.project_id}, {self._database.location})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def sqlalchemy_engine(self) -> Engine:
        """SQLAlchemy's engine; on SQLite its transactions take the write lock when they begin."""
        return self._database.engine

    @property
    def location(self) -> str:
        """The database as a URL, without passwords."""
        path = self._database.sqlite_path
        return self._database.location if path is None else f"sqlite:///{path}"

    @property
    def sqlite_path(self) -> Path | None:
        """The SQLite file that the journal shares, or None on Postgres."""
        return self._database.sqlite_path

    @property
    def is_shared(self) -> bool:
        """Whether several servers, also on several hosts, may use the database at once."""
        return self.sqlite_path is None

    @property
    def journal_mark(self) -> JournalMark | None:
        """The mark of the journal; None on Postgres."""
        path = self._database.sqlite_path
        return None if path is None else JournalMark(self.key_file, path, self.project_id)

    def create_tables(self, schema: Schema, name: str) -> None:
        """Create the tables of another package in the project's database; see `Database.create_tables`."""
        self._database.create_tables(schema, name)

    def permit_migration(self) -> None:
        """Raise `RequestError` if tables must not be changed now; see `Database.permit_migration`."""
        self._database.permit_migration()

    def shared_read_connection(self) -> AbstractContextManager[None]:
        """Return a context in which all reads of this thread share one connection: opening one is slower than most queries."""
        return self._database.shared_read_connection()

    def one_transaction(self, name: str | None = None) -> AbstractContextManager[None]:
        """Return a block of changes of which all or none are stored; see `Database.one_transaction`."""
        return self._database.one_transaction(name)

    def ping(self) -> int | None:
        """Ask the database for an answer, as `Database.ping` does; one thread at a time calls this. Raises `ProjectError`."""
        return self._database.ping()

    def check_key(self) -> None:
        """
        Check that the key was not replaced since this process opened the project.

        An executor of the journal calls this after it is registered: a rotation refuses to start while an executor lives.

        Raises:
            RequestError: The key was replaced.
        """
        with self._database.read() as connection:
            self._database.check_key(connection)

    def expect_key(self, fingerprint: str | None) -> None:
        """Do what `check_key` does, with the fingerprint of the key that the caller has read."""
        self._database.expect_key(fingerprint)

    def rotate_key(
        self,
        scope: RotationScope,
        *,
        access_tokens: bool = False,
        on_progress: Callable[[int, int], object] = lambda _done, _all: None,
    ) -> RotationResult:
        """
        Replace the key, and encrypt every value again; see `key_rotation.rotate_key`. This object cannot be used after that.

        Args:
            scope: What belongs to the key in the journal.
            access_tokens: Whether to replace the key that signs access tokens, too.
            on_progress: Gets the number of values that were encrypted again, and of all values.
        """
        return rotate_key(
            self._database,
            self._vault,
            self.key_file,
            self.project_id,
            now=self.clock.now().timestamp(),
            scope=scope,
            replace_token_key=self.access_tokens.replace_signing_key if access_tokens else None,
            on_progress=on_progress,
        )

    @cached_property
    def earlier_signers(self) -> Sequence[tuple[Callable[[str], bytes], float]]:
        """`Vault.sign` of keys that were replaced, and when in seconds since 1970: each verifies URLs of runs that began before."""
        with self._database.read() as connection:
            keys = load_earlier_keys(connection, self._vault, self.clock.now().timestamp())
        return [(partial(sign_text, base64.b64decode(each.key)), each.replaced) for each in keys]

    @property
    def plan(self) -> Plan:
        """The plan, which decides whether production may be used; read from the database at every call."""
        with self._database.read() as connection:
            value = connection.execute(select(meta.c.value).where(meta.c.name == "plan")).scalar_one()
        return cast("Plan", value)

    @property
    def connect_data_stores(self) -> frozenset[str]:
        """Names of the data stores that Connect tokens may use; read from the database at every call."""
        names = self.settings.get(_CONNECT_DATA_STORES)
        return frozenset(map(str, names)) if isinstance(names, list) else frozenset()

    def set_connect_data_stores(self, names: Iterable[str]) -> None:
        """Let Connect tokens use the data stores *names*, and no others."""
        chosen = sorted(set(names))
        if chosen:
            self.settings.set(_CONNECT_DATA_STORES, list[JSON](chosen))
        else:
            self.settings.remove(_CONNECT_DATA_STORES)

    def set_plan(self, plan: str) -> None:
        """
        Change the plan.

        Raises:
            RequestError: *plan* is neither free nor business.
        """
        if plan not in get_args(Plan):
            raise RequestError(f"{plan!r} is not a plan.", fix="Use business or free.")
        with self._database.write() as connection:
            connection.execute(update(meta).where(meta.c.name == "plan").values(value=plan))

    @cached_property
    def accounts(self) -> AccountTable:
        """External users, accounts and their credentials."""
        return AccountTable(self._database, self._vault)

    @cached_property
    def variables(self) -> VariableTable:
        """Environment variables."""
        return VariableTable(self._database, self._vault, self.clock)

    @cached_property
    def notebook_states(self) -> NotebookStateTable:
        """The state of each notebook's session."""
        return NotebookStateTable(self._database, self._vault, self.clock)

    @cached_property
    def idempotency(self) -> IdempotencyTable:
        """Stored responses to outbound calls that are sent once."""
        return IdempotencyTable(self._database, self._vault, self.clock)

    @cached_property
    def source_states(self) -> SourceStateTable:
        """The state of event sources between their runs."""
        return SourceStateTable(self._database, self._vault, self.clock)

    @cached_property
    def settings(self) -> SettingsTable:
        """Settings of the project by name."""
        return SettingsTable(self._database)

    @cached_property
    def login(self) -> LoginTable:
        """The login at Pipedream: a Connect project and its OAuth client, if set."""
        return LoginTable(self.settings, self._vault, self.project_id)

    @cached_property
    def data_stores(self) -> DataStoreTable:
        """Data stores."""
        return DataStoreTable(self._database, self.clock)

    @cached_property
    def secrets(self) -> SecretTable:
        """The project's own secrets, by name."""
        return SecretTable(self._database, self._vault)

    @cached_property
    def connect_tokens(self) -> ConnectTokenTable:
        """Tokens with which external users connect accounts."""
        return ConnectTokenTable(self._database, self._vault, self.clock)

    @cached_property
    def pending_sign_ins(self) -> PendingSignInTable:
        """Sign-ins at an app whose callback has not arrived yet."""
        return PendingSignInTable(self._database, self._vault, self.clock)

    @cached_property
    def grants(self) -> GrantTable:
        """OAuth grants, which renew access tokens."""
        return GrantTable(self._database, self._vault, self.clock)

    @cached_property
    def deployed_triggers(self) -> DeployedTriggerTable:
        """Event sources that run for external users."""
        return DeployedTriggerTable(self._database, self._vault, self.clock)

    @cached_property
    def source_turns(self) -> SourceTurnTable | None:
        """Which server runs a source now; None on SQLite, where one server runs all."""
        return SourceTurnTable(self._database) if self.is_shared else None

    @cached_property
    def workflow_triggers(self) -> WorkflowTriggerTable:
        """Triggers of served workflows."""
        return WorkflowTriggerTable(self._database, self._vault, self.clock)

    @cached_property
    def batches(self) -> BatchTable:
        """Ticks of schedules that run a workflow for each external user."""
        return BatchTable(self._database)

    @cached_property
    def trigger_events(self) -> TriggerEventTable:
        """Events of triggers that wait."""
        return TriggerEventTable(self._database, self._vault)

    @cached_property
    def answered_requests(self) -> AnsweredRequestTable:
        """Requests to event sources that have a response, and whose sources have not ended."""
        return AnsweredRequestTable(self._database, self._vault, self.clock, self.ids)

    @cached_property
    def console_logins(self) -> ConsoleLoginTable:
        """One-time codes and sessions of the console."""
        return ConsoleLoginTable(self._database, self.clock)

    @cached_property
    def oauth_clients(self) -> OAuthClientTable:
        """OAuth clients of the endpoint."""
        return OAuthClientTable(self._database, self.clock, self.ids)

    @cached_property
    def client_keys(self) -> ClientKeyTable:
        """Public keys of OAuth clients without a secret."""
        return ClientKeyTable(self._database, self.clock)

    @cached_property
    def access_tokens(self) -> AccessTokens:
        """Access tokens of OAuth clients."""
        return AccessTokens(self._database, self._vault, self.clock, project_id=self.project_id)

    @cached_property
    def pipedream_tokens(self) -> PipedreamTokenTable:
        """Access tokens that Pipedream issued through this project's server."""
        return PipedreamTokenTable(self._database, self.clock)

    @cached_property
    def endpoint_keys(self) -> EndpointKeyTable:
        """Endpoint keys of workflows and deployed triggers."""
        return EndpointKeyTable(self._database, self.clock, self.folder.parent)

    def disconnect(self) -> None:
        """Close the connections that are not in use; a later call opens new ones. Call it before a fork."""
        self._database.disconnect()

    def close(self) -> None:
        """Close every connection."""
        self._database.close()


def create_key(path: Path, database: Database) -> bytes:
    """
    Return a new key in *path*, unless the database holds values that were encrypted with another key.

    Raises:
        ProjectError: The database has values, or the file cannot be written.
    """
    facts = database.read_meta()
    if facts is None:
        return ensure_key(path)
    key = read_key(path)  # read again: another new process creates the key first, then the database
    if key is None:
        raise ProjectError(
            f"The project's key file {path} is missing. The database {database.location} contains values that were encrypted "
            "with it, so no new key was created.",
            fix="Restore the key file, or name it in PDKERNEL_KEY_FILE. If the key is lost, "
            + ("use an empty database" if database.sqlite_path is None else "move the database to another folder")
            + ": the next command creates a new project, in which accounts and variables must be added again.",
        )
    return key


def fits_database(key: bytes | None, facts: Mapping[str, str]) -> bool:
    """Return whether *key* is the key of the database with these values of `meta`."""
    return key is not None and Vault(key).fingerprint == facts["key_fingerprint"]


def check_key(vault: Vault, fingerprint: str, path: Path, where: str) -> None:
    """Raise `ProjectError` if the key in *path*, whose vault is *vault*, is not the one of the database *where*."""
    if vault.fingerprint != fingerprint:
        raise ProjectError(
            f"The database {where} was created with another key than the one in {path}. Neither was changed.",
            fix="Name the key file of this project in PDKERNEL_KEY_FILE, or choose the project of this key: --project FOLDER. "
            "If `pdkernel keys rotate` ran on another host, copy the key file of that host.",
        )


def _create_tables(database: Database, project_id: str, vault: Vault) -> tuple[Mapping[str, str], bool]:
    """Return the values of `meta`, and whether this process and not another one has created the tables."""
    fresh = {
        "project_id": project_id,
        "plan": DEFAULT_PLAN,
        "schema_version": str(PROJECT_SCHEMA.version),
        "key_fingerprint": vault.fingerprint,
    }
    if database.create(fresh):
        return fresh, True
    facts = database.read_meta()
    if facts is None:
        raise ProjectError(
            f"The project in {database.location} was removed while it was opened.", fix="Run the command again."
        )
    return facts, False
