"""
The tables of external users, accounts, and OAuth grants of accounts: refresh tokens and renewal claims.

An external user is created with their first account in an environment and exists until deleted. `accounts` validates new
accounts. Many providers issue a new refresh token at each renewal and treat a second use of the old token as theft. So a process
claims a renewal before it starts, and only one process renews an access token at a time.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Unpack

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Connection,
    Select,
    Text,
    and_,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from pdkernel.common.clock import Clock
from pdkernel.common.identity import (
    DEFAULT_ENVIRONMENT,
    Account,
    AccountFilters,
    AccountGoneError,
    Credentials,
    Environment,
    ExternalUser,
    FoundUser,
    UserSearchResult,
    fold_text,
    is_storable,
)
from pdkernel.errors import RequestError
from pdkernel.storage.answered_requests import delete_answered_requests
from pdkernel.storage.database import Database
from pdkernel.storage.endpoint_keys import format_trigger_source
from pdkernel.storage.schema import (
    account_grants,
    accounts,
    batch_skips,
    batches,
    connect_tokens,
    deployed_events,
    deployed_triggers,
    endpoints,
    external_users,
    trigger_events,
)
from pdkernel.storage.source_states import delete_source_states
from pdkernel.storage.statements import CompiledQuery, insert_if_absent, upsert_row
from pdkernel.storage.vault import Vault, locate

RENEWAL_CLAIM_S = 30.0
"""Seconds after which a renewal claim expires, because its process is assumed to have ended."""

_OF_ACCOUNT = CompiledQuery(select(account_grants).where(account_grants.c.account == bindparam("of")))


@dataclass(frozen=True, slots=True)
class Grant:
    """
    The grant of one account.

    Attributes:
        refresh_token: The refresh token, or None if the app issued none.
        expires_at: When the access token expires, or None if unknown.
        renewed_at: When the access token was issued.
        is_refused: Whether the app responded with 401 to the access token.
        error: The reason why the last renewal failed, or None.
    """

    refresh_token: str | None = field(repr=False)
    expires_at: datetime | None
    renewed_at: datetime
    is_refused: bool = False
    error: str | None = None


class GrantTable:
    """The OAuth grants of a project, by account."""

    def __init__(self, database: Database, vault: Vault, clock: Clock) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock

    def set(self, account_id: str, grant: Grant) -> None:
        """Store *grant*, in place of an earlier grant of the account. A running renewal loses its claim."""
        sealed = None
        if grant.refresh_token is not None:
            sealed = self._vault.seal(grant.refresh_token, _grant_context(account_id))
        with self._database.write() as connection:
            upsert_row(
                connection,
                account_grants,
                "account",
                account=account_id,
                **_columns(grant),
                claimed=None,
                sealed_refresh_token=sealed,
            )

    def finish_renewal(self, account_id: str, claim: float, grant: Grant) -> bool:
        """Store the result of a renewal. False, without a change, if the renewal has lost its *claim*."""
        sealed = None
        if grant.refresh_token is not None:
            sealed = self._vault.seal(grant.refresh_token, _grant_context(account_id))
        is_claimed = (account_grants.c.account == account_id, account_grants.c.claimed == claim)
        with self._database.write() as connection:
            row = update(account_grants).where(*is_claimed)
            values = {**_columns(grant), "claimed": None, "sealed_refresh_token": sealed}
            return connection.execute(row.values(values)).rowcount > 0

    def find(self, account_id: str) -> Grant | None:
        """Return the account's grant, or None if it was not connected by OAuth."""
        with self._database.read() as connection:
            row = _OF_ACCOUNT.fetch_first(connection, of=account_id)
        if row is None:
            return None
        sealed = row.sealed_refresh_token
        return Grant(
            refresh_token=None if sealed is None else self._vault.unseal(sealed, _grant_context(account_id)),
            expires_at=None if row.expires is None else datetime.fromtimestamp(row.expires, UTC),
            renewed_at=datetime.fromtimestamp(row.renewed, UTC),
            is_refused=bool(row.refused),
            error=row.error,
        )

    def mark_refused(self, account_id: str, since: datetime) -> bool:
        """
        Record that the app responded with 401 to the access token that was valid at *since*.

        A token that was renewed later is not affected. Returns False for an account without a grant.
        """
        same_account = account_grants.c.account == account_id
        with self._database.write() as connection:
            row = update(account_grants).where(same_account, account_grants.c.renewed <= since.timestamp())
            if connection.execute(row.values(refused=True)).rowcount > 0:
                return True
            return connection.execute(select(account_grants.c.account).where(same_account)).first() is not None

    def remove(self, account_id: str) -> None:
        """Remove the account's grant, because the account has other credentials now."""
        with self._database.write() as connection:
            connection.execute(delete(account_grants).where(account_grants.c.account == account_id))

    def claim_renewal(self, account_id: str) -> float | None:
        """Claim the renewal of the account's token. Returns the claim for `finish_renewal`; None if another process has it."""
        now = self._clock.now().timestamp()
        claimed = account_grants.c.claimed
        free = or_(claimed.is_(None), claimed <= now - RENEWAL_CLAIM_S)
        with self._database.write() as connection:
            row = update(account_grants).where(account_grants.c.account == account_id, free)
            return now if connection.execute(row.values(claimed=now)).rowcount > 0 else None

    def is_renewing(self, account_id: str) -> bool:
        """Return whether a process is renewing the account's token."""
        query = select(account_grants.c.claimed).where(account_grants.c.account == account_id)
        with self._database.read() as connection:
            return connection.execute(query).scalar_one_or_none() is not None


def _columns(grant: Grant) -> dict[str, Any]:
    return {
        "expires": None if grant.expires_at is None else grant.expires_at.timestamp(),
        "renewed": grant.renewed_at.timestamp(),
        "refused": grant.is_refused,
        "error": grant.error,
    }


def _grant_context(account_id: str) -> str:
    return locate(account_grants.c.sealed_refresh_token, account=account_id)


_COLUMNS = (
    accounts.c.id,
    accounts.c.app,
    accounts.c.name,
    accounts.c.external_user,
    accounts.c.environment,
    accounts.c.created,
    accounts.c.healthy,
    accounts.c.fields,
)
_NEWEST_FIRST = (accounts.c.created.desc(), accounts.c.number.desc())


class AccountExistsError(RequestError):
    """An account with that id exists already."""

    code = "account_exists"


_BATCH = 1_000
"""External users in one query, whose number of parameters is limited."""


def _batches(users: list[str]) -> Iterator[list[str]]:
    return (users[start : start + _BATCH] for start in range(0, len(users), _BATCH))


def _build_newest_accounts_query() -> Select[Any]:
    """Return the query of `newest_accounts`."""
    place = func.row_number().over(
        partition_by=(accounts.c.external_user, accounts.c.environment, accounts.c.app), order_by=_NEWEST_FIRST
    )
    ranked = (
        select(*_COLUMNS, accounts.c.number, place.label("place"))
        .where(
            accounts.c.external_user.in_(bindparam("users", expanding=True)),
            accounts.c.environment == bindparam("environment"),
            accounts.c.app.in_(bindparam("apps", expanding=True)),
        )
        .subquery()
    )
    newest = select(ranked).where(ranked.c.place <= bindparam("limit"))
    return newest.order_by(ranked.c.created.desc(), ranked.c.number.desc())


_NEWEST_OF = CompiledQuery(_build_newest_accounts_query())
_NEWEST_OF_ONE = CompiledQuery(
    select(*_COLUMNS)
    .where(
        accounts.c.external_user == bindparam("user"),
        accounts.c.environment == bindparam("environment"),
        accounts.c.app == bindparam("app"),
    )
    .order_by(*_NEWEST_FIRST)
    .limit(bindparam("most"))
    .offset(literal_column("0"))  # for SQLite, SQLAlchemy adds an offset as a parameter of its own
)
_SEALED = CompiledQuery(
    select(accounts.c.sealed_credentials, account_grants.c.account.label("grant_of"))
    .select_from(accounts.outerjoin(account_grants, account_grants.c.account == accounts.c.id))
    .where(accounts.c.id == bindparam("of"))
)


class _ContainsText(FunctionElement[bool]):
    """Whether the first text contains the second."""

    type = Boolean()
    inherit_cache = True


@compiles(_ContainsText, "sqlite")
def _compile_for_sqlite(element: _ContainsText, compiler: SQLCompiler, **options: Any) -> str:
    return f"instr({compiler.process(element.clauses, **options)}) > 0"


@compiles(_ContainsText, "postgresql")
def _compile_for_postgres(element: _ContainsText, compiler: SQLCompiler, **options: Any) -> str:
    return f"strpos({compiler.process(element.clauses, **options)}) > 0"


def _build_search_query(*, has_text: bool) -> Select[Any]:
    """Return the query of `search_users`: each matching user, and when the user last connected an account."""
    connected = (
        select(accounts.c.external_user, func.max(accounts.c.created).label("connected"))
        .where(accounts.c.environment == bindparam("environment"), accounts.c.external_user.is_not(None))
        .group_by(accounts.c.external_user)
        .subquery()
    )
    users = external_users.outerjoin(connected, connected.c.external_user == external_users.c.external_user)
    query = (
        select(external_users.c.external_user, external_users.c.created, connected.c.connected)
        .select_from(users)
        .where(external_users.c.environment == bindparam("environment"))
    )
    if not has_text:
        return query
    text = bindparam("text", type_=Text())
    named = select(accounts.c.external_user).where(
        accounts.c.environment == bindparam("environment"),
        accounts.c.external_user.is_not(None),
        _ContainsText(accounts.c.folded_name, text),
    )
    return query.where(
        or_(_ContainsText(external_users.c.folded_user, text), external_users.c.external_user.in_(named))
    )


_SEARCH = {has_text: CompiledQuery(_build_search_query(has_text=has_text)) for has_text in (False, True)}
_ACCOUNTS_OF = CompiledQuery(
    select(*_COLUMNS)
    .where(
        accounts.c.external_user.in_(bindparam("users", expanding=True)),
        accounts.c.environment == bindparam("environment"),
    )
    .order_by(*_NEWEST_FIRST)
)


class AccountTable:
    """External users and their accounts, and your own accounts."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    def add(self, account: Account, credentials: Mapping[str, str]) -> None:
        """
        Store *account* with its credentials, and its user if new.

        Raises:
            AccountExistsError: An account has this id already.
        """
        created = account.created_at.timestamp()
        row = insert(accounts).values(
            id=account.id,
            app=account.app,
            name=account.name,
            folded_name=fold_text(account.name),
            external_user=account.external_user_id,
            environment=account.environment,
            created=created,
            healthy=account.healthy,
            fields=json.dumps(account.credential_fields),
            sealed_credentials=self._vault.seal_json(dict(credentials), _vault_context(account.id)),
        )
        try:
            with self._database.write() as connection:
                if account.external_user_id is not None:  # the user may be deleted at the same time
                    self._lock_user(connection, account.external_user_id, account.environment)
                connection.execute(row)
                if account.external_user_id is not None:
                    insert_if_absent(
                        connection,
                        external_users,
                        external_user=account.external_user_id,
                        environment=account.environment,
                        created=created,
                        folded_user=fold_text(account.external_user_id),
                    )
        except IntegrityError:
            raise AccountExistsError(
                f"The account {account.id} exists already.", fix="Choose another id, or remove that account first."
            ) from None

    def list_accounts(self, *, limit: int | None = None, **filters: Unpack[AccountFilters]) -> Sequence[Account]:
        """Return the accounts that match all filters, newest first, at most *limit*."""
        query = select(*_COLUMNS).where(*_conditions(filters))
        with self._database.read() as connection:
            return [_account(row) for row in connection.execute(query.order_by(*_NEWEST_FIRST).limit(limit))]

    def account_ids(self, **filters: Unpack[AccountFilters]) -> Sequence[str]:
        """Return the ids of the accounts that `list_accounts` returns, in the same order."""
        query = select(accounts.c.id).where(*_conditions(filters))
        with self._database.read() as connection:
            return connection.execute(query.order_by(*_NEWEST_FIRST)).scalars().all()

    def connected_apps(self) -> Collection[str]:
        """Return the slugs of the apps with an account."""
        with self._database.read() as connection:
            return set(connection.execute(select(accounts.c.app).distinct()).scalars())

    def newest_account(self, external_user_id: str, environment: Environment, app: str) -> Account | None:
        """Return the account of *app* that this user connected last, or None."""
        query = select(*_COLUMNS).where(
            accounts.c.external_user == external_user_id,
            accounts.c.environment == environment,
            accounts.c.app == app,
        )
        with self._database.read() as connection:
            row = connection.execute(query.order_by(*_NEWEST_FIRST).limit(1)).first()
        return _account(row) if row else None

    def app_users(self, app: str, environment: Environment) -> frozenset[str]:
        """Return the ids of the external users with an account of *app*."""
        query = select(accounts.c.external_user).distinct().filter_by(app=app, environment=environment)
        with self._database.read() as connection:
            found = connection.execute(query.where(accounts.c.external_user.is_not(None))).scalars()
            return frozenset(found)

    def newest_accounts(
        self, external_user_ids: Collection[str], environment: Environment, apps: Collection[str], *, limit: int
    ) -> Sequence[Account]:
        """For each of these users and apps, the newest accounts, at most *limit*; newest first."""
        users, slugs = list(external_user_ids), list(apps)
        with self._database.read() as connection:
            if len(users) == len(slugs) == 1:  # as in most runs; a query without ranks takes a third of the time
                rows = _NEWEST_OF_ONE.fetch_all(
                    connection, user=users[0], environment=environment, app=slugs[0], most=limit
                )
            elif len(users) <= _BATCH:
                rows = _NEWEST_OF.fetch_all(connection, users=users, environment=environment, apps=slugs, limit=limit)
            else:
                values = {"environment": environment, "apps": slugs, "limit": limit}
                rows = [
                    row for some in _batches(users) for row in _NEWEST_OF.fetch_all(connection, users=some, **values)
                ]
                rows.sort(key=lambda row: (row.created, row.number), reverse=True)
            return [_account(row) for row in rows]

    def find(self, account_id: str) -> Account | None:
        """Return the account with the id *account_id*, or None."""
        with self._database.read() as connection:
            row = connection.execute(select(*_COLUMNS).where(accounts.c.id == account_id)).first()
        return _account(row) if row else None

    def credentials(self, account_id: str) -> Credentials:
        """
        Return the account's `$auth`.

        Raises:
            AccountGoneError: No account has this id.
        """
        return self.credentials_and_grant(account_id)[0]

    def credentials_and_grant(self, account_id: str) -> tuple[Credentials, bool]:
        """Return the account's `$auth`, and whether the account has a grant. Raises `AccountGoneError` as `credentials` does."""
        with self._database.read() as connection:
            row = _SEALED.fetch_first(connection, of=account_id)
        if row is None:
            raise AccountGoneError(account_id)
        fields = self._vault.unseal_json(row.sealed_credentials, _vault_context(account_id), dict[str, str])
        return Credentials(fields), row.grant_of is not None

    def replace_credentials(
        self, account_id: str, credentials: Mapping[str, str], *, renewal_claim: float | None = None
    ) -> bool:
        """
        Replace the account's credentials and mark the account healthy; False if nothing was changed.

        With *renewal_claim*, the credentials are replaced only while the account's grant has that claim. A user who connects
        the account again removes the claim.
        """
        sealed = self._vault.seal_json(dict(credentials), _vault_context(account_id))
        values = {"sealed_credentials": sealed, "fields": json.dumps(list(credentials)), "healthy": True}
        return self._change(account_id, renewal_claim, values)

    def mark_unhealthy(self, account_id: str, *, renewal_claim: float | None = None) -> bool:
        """Record that the credentials do not work; *renewal_claim* as for `replace_credentials`."""
        return self._change(account_id, renewal_claim, {"healthy": False})

    def _change(self, account_id: str, claim: float | None, values: Mapping[str, Any]) -> bool:
        with self._database.write() as connection:
            if claim is not None:
                claimed = select(account_grants.c.claimed).where(account_grants.c.account == account_id)
                # for update: a process that removes the claim waits until this transaction ends
                if connection.execute(claimed.with_for_update()).scalar_one_or_none() != claim:
                    return False
            row = update(accounts).where(accounts.c.id == account_id)
            return connection.execute(row.values(values)).rowcount > 0

    def remove(self, account_id: str) -> bool:
        """Remove the account and its grant, but not its user. False if the account does not exist."""
        with self._database.write() as connection:
            connection.execute(delete(account_grants).where(account_grants.c.account == account_id))
            return connection.execute(delete(accounts).where(accounts.c.id == account_id)).rowcount > 0

    def users(self, environment: Environment, *, limit: int | None = None) -> Sequence[ExternalUser]:
        """Return the external users of *environment*, sorted by id; at most *limit*."""
        query = select(external_users).where(external_users.c.environment == environment)
        with self._database.read() as connection:
            return [
                _user(row) for row in connection.execute(query.order_by(external_users.c.external_user).limit(limit))
            ]

    def search_users(
        self, environment: Environment, text: str, *, limit: int, last_runs: Mapping[str, float]
    ) -> UserSearchResult:
        """Return the external users with *text* in their id or in the name of an account; arguments as of `Directory.search_users`."""
        folded = fold_text(text.strip())
        if not is_storable(folded):
            return UserSearchResult(())
        values: dict[str, str] = {"environment": environment}
        if folded:
            values["text"] = folded
        with self._database.read() as connection:
            rows = {row[0]: row for row in _SEARCH[bool(folded)].fetch_all(connection, **values)}
            active = {
                user: max(created, connected or 0.0, last_runs.get(user, 0.0))
                for user, created, connected in rows.values()
            }
            newest = heapq.nsmallest(limit, active, key=lambda user: (-active[user], user))
            accounts_of: dict[str, list[Account]] = {user: [] for user in newest}
            for some in _batches(newest):
                for row in _ACCOUNTS_OF.fetch_all(connection, users=some, environment=environment):
                    accounts_of[row.external_user].append(_account(row))
        found = (
            FoundUser(
                ExternalUser(user, environment, _to_time(rows[user][1])),
                _to_time(active[user]),
                tuple(accounts_of[user]),
            )
            for user in newest
        )
        return UserSearchResult(tuple(found), more=len(active) - len(newest))

    def find_user(self, external_user_id: str, environment: Environment) -> ExternalUser | None:
        """Return the external user with that id in *environment*, or None."""
        query = select(external_users).filter_by(external_user=external_user_id, environment=environment)
        with self._database.read() as connection:
            row = connection.execute(query).first()
        return _user(row) if row else None

    def delete_user(self, external_user_id: str, environment: Environment) -> bool:
        """Delete all rows about the user in *environment*, with accounts and deployed triggers; False if the user does not exist."""
        key = {"external_user": external_user_id, "environment": environment}
        with self._database.write() as connection:
            self._lock_user(connection, external_user_id, environment)
            found = connection.execute(delete(external_users).filter_by(**key)).rowcount > 0
            account_ids = select(accounts.c.id).filter_by(**key)
            connection.execute(delete(account_grants).where(account_grants.c.account.in_(account_ids)))
            connection.execute(delete(accounts).filter_by(**key))
            # for update: it waits for transactions that store events of the triggers, so that they are removed, too
            stored = connection.execute(select(deployed_triggers.c.id).filter_by(**key).with_for_update())
            trigger_ids = stored.scalars().all()
            connection.execute(delete(deployed_events).where(deployed_events.c.trigger.in_(trigger_ids)))
            for trigger in trigger_ids:
                delete_source_states(connection, trigger)
            delete_answered_requests(connection, trigger_ids)
            in_environment = select(batches.c.id).where(batches.c.environment == environment)
            skipped = and_(batch_skips.c.external_user == external_user_id, batch_skips.c.batch.in_(in_environment))
            connection.execute(delete(batch_skips).where(skipped))
            connection.execute(delete(connect_tokens).filter_by(**key))
            trigger_sources = [format_trigger_source(each) for each in trigger_ids]
            connection.execute(delete(endpoints).where(endpoints.c.source.in_(trigger_sources)))
            connection.execute(delete(trigger_events).where(trigger_events.c.trigger.in_(trigger_sources)))
            connection.execute(delete(deployed_triggers).filter_by(**key))
        return found

    def _lock_user(self, connection: Connection, external_user_id: str, environment: Environment) -> None:
        self._database.lock(connection, f"external_users/{environment}/{external_user_id}")


def _conditions(filters: AccountFilters) -> list[ColumnElement[bool]]:
    external_user_id, environment = filters.get("external_user_id"), filters.get("environment")
    app, own = filters.get("app"), filters.get("own")
    conditions: list[ColumnElement[bool]] = []
    if external_user_id is not None:
        conditions.append(accounts.c.external_user == external_user_id)
    if environment is not None:
        valid = accounts.c.environment == environment
        conditions.append(valid if external_user_id is not None else or_(valid, accounts.c.external_user.is_(None)))
    if app is not None:
        conditions.append(accounts.c.app == app)
    if own:
        # your own accounts all have the environment development; the condition makes the query use the index
        conditions += [accounts.c.external_user.is_(None), accounts.c.environment == DEFAULT_ENVIRONMENT]
    elif own is not None:
        conditions.append(accounts.c.external_user.is_not(None))
    return conditions


def _account(row: Any) -> Account:
    return Account(
        id=row.id,
        app=row.app,
        name=row.name,
        external_user_id=row.external_user,
        environment=row.environment,
        created_at=_to_time(row.created),
        healthy=bool(row.healthy),
        credential_fields=_decode_names(row.fields),
    )


@lru_cache(maxsize=1000)
def _decode_names(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


def _user(row: Any) -> ExternalUser:
    return ExternalUser(row.external_user, row.environment, _to_time(row.created))


def _to_time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _vault_context(account_id: str) -> str:
    return locate(accounts.c.sealed_credentials, id=account_id)
