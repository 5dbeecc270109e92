"""
The project's tables, the same on SQLite and Postgres.

Times are seconds since 1970 as double precision, in UTC. Columns named *sealed* hold values that the vault encrypted.
The journal's tables are in the same database; see `engine.journal.schema`.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)

from pdkernel.storage.migration import Schema

metadata = MetaData()

_Text = Text().with_variant(Text(collation="C"), "postgresql")
"""Text that both databases sort and compare by its bytes, regardless of the language of a Postgres server."""

meta = Table(
    "meta",
    metadata,
    Column("name", _Text, primary_key=True),  # project_id, plan, schema_version, key_fingerprint
    Column("value", _Text, nullable=False),
)

external_users = Table(
    # a separate table, because a user stays, with `created`, when the last account is removed
    "external_users",
    metadata,
    Column("external_user", _Text, nullable=False),
    Column("environment", _Text, nullable=False),
    Column("created", Double, nullable=False),
    Column("folded_user", _Text, nullable=False),  # for the search: databases fold the case in ways of their own
    PrimaryKeyConstraint("external_user", "environment"),
)

accounts = Table(
    "accounts",
    metadata,
    # order of insertion, for accounts that were created at the same time
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("id", _Text, nullable=False, unique=True),
    Column("app", _Text, nullable=False),
    Column("name", _Text, nullable=False),
    Column("folded_name", _Text, nullable=False),
    Column("external_user", _Text),  # null: an account of your own
    Column("environment", _Text, nullable=False),
    Column("created", Double, nullable=False),
    Column("healthy", Boolean, nullable=False),
    Column("fields", _Text, nullable=False),  # JSON list of the credentials' names
    Column("sealed_credentials", LargeBinary, nullable=False),
    Index("accounts_newest", "external_user", "environment", "app", "created", "number"),
    Index("accounts_app", "app", "created", "number"),
)

variables = Table(
    "variables",
    metadata,
    Column("name", _Text, primary_key=True),
    Column("sealed_value", LargeBinary, nullable=False),
    Column("updated", Double, nullable=False),
)

notebooks = Table(
    "notebooks",
    metadata,
    Column("notebook", _Text, primary_key=True),
    Column("sealed_state", LargeBinary, nullable=False),
    Column("updated", Double, nullable=False),
)

sent = Table(
    "sent",
    metadata,
    Column("request", _Text, primary_key=True),
    Column("sealed_answer", LargeBinary, nullable=False),
    Column("created", Double, nullable=False),
)

settings = Table(
    "settings",
    metadata,
    Column("name", _Text, primary_key=True),
    Column("value", _Text, nullable=False),  # JSON
)

stores = Table(
    "stores",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("name", _Text, nullable=False, unique=True),
    Column("created", Double, nullable=False),
)

store_records = Table(
    "store_records",
    metadata,
    # order of insertion, unchanged by updates, so that paging through a changing store skips nothing
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("store", ForeignKey("stores.number", ondelete="cascade"), nullable=False),
    Column("key", _Text, nullable=False),
    Column("value", _Text, nullable=False),  # JSON, not encrypted: the user's data, like a file
    Column("expires", Double),  # null: never
    Column("updated", Double, nullable=False),
    UniqueConstraint("store", "key"),
    Index("store_records_pages", "store", "number"),
    Index("store_records_expired", "expires"),
)

source_state = Table(
    # the state of event sources between their runs
    "source_state",
    metadata,
    Column("source", _Text, primary_key=True),
    Column("sealed_state", LargeBinary, nullable=False),
    Column("updated", Double, nullable=False),
)

secrets = Table(
    # the project's own secrets, by name: an app's OAuth client secret, the key that signs webhooks
    "secrets",
    metadata,
    Column("name", _Text, primary_key=True),
    Column("sealed_value", LargeBinary, nullable=False),
)

connect_tokens = Table(
    "connect_tokens",
    metadata,
    Column("digest", _Text, primary_key=True),  # SHA-256 of the token, which is not stored
    Column("external_user", _Text, nullable=False),
    Column("environment", _Text, nullable=False),
    Column("created", Double, nullable=False),
    Column("expires", Double, nullable=False),
    Column("used", Double),  # null: no account was connected with the token yet
    Column("sealed_terms", LargeBinary, nullable=False),  # redirects, webhook, origins: URLs may contain secrets
    Index("connect_tokens_user", "external_user", "environment", "created"),
    Index("connect_tokens_expired", "expires"),
)

link_visits = Table(
    # sign-ins at an app whose callback has not arrived yet
    "link_visits",
    metadata,
    Column("digest", _Text, primary_key=True),  # SHA-256 of OAuth's state
    Column("expires", Double, nullable=False),
    Column("sealed_visit", LargeBinary, nullable=False),
)

account_grants = Table(
    # OAuth grants of accounts: refresh tokens and renewal claims
    "account_grants",
    metadata,
    Column("account", _Text, primary_key=True),
    Column("expires", Double),  # when the access token expires; null: not known
    Column("renewed", Double, nullable=False),
    Column("refused", Boolean, nullable=False),  # the app answered 401 to the access token
    Column("claimed", Double),  # when a process started a renewal
    Column("error", _Text),
    Column("sealed_refresh_token", LargeBinary),
)

clients = Table(
    # OAuth clients of the endpoint; removed rows stay, so that a removed client is still known
    "clients",
    metadata,
    Column("id", _Text, primary_key=True),
    Column("name", _Text, nullable=False),
    Column("secret_hash", LargeBinary, nullable=False),
    Column("scope", _Text, nullable=False),  # scopes with spaces between
    Column("created", Double, nullable=False),
    Column("removed", Double),  # null: the client is active
)

signing_keys = Table(
    # keys of access tokens: the newest key signs, the others verify until their tokens have expired
    "signing_keys",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("id", _Text, nullable=False, unique=True),
    Column("sealed_key", LargeBinary, nullable=False),
    Column("created", Double, nullable=False),
    Column("expires", Double),  # null: the key that signs
)

client_keys = Table(
    # public keys of clients without a secret
    "client_keys",
    metadata,
    Column("client", _Text, primary_key=True),
    Column("public_key", _Text, nullable=False),  # PEM
)
used_assertions = Table(
    # assertions that these clients have used, until the assertions expire
    "used_assertions",
    metadata,
    Column("id", _Text, primary_key=True),  # a digest of the client's id and the assertion's
    Column("expires", Double, nullable=False),
)
revoked_tokens = Table(
    "revoked_tokens",
    metadata,
    Column("id", _Text, primary_key=True),  # the token's jti, not the token
    Column("expires", Double, nullable=False),
)

issued_tokens = Table(
    # access tokens that Pipedream issued through this server
    "issued_tokens",
    metadata,
    Column("digest", _Text, primary_key=True),  # SHA-256 of the token, which is not stored
    Column("client", _Text, nullable=False),
    Column("workspace", _Text),
    Column("scope", _Text, nullable=False),  # scopes with spaces between
    Column("expires", Double, nullable=False),
)

endpoints = Table(
    # endpoint keys and workflow ids that no file sets; they are created when a workflow is first served
    "endpoints",
    metadata,
    Column("source", _Text, primary_key=True),
    Column("key", _Text, nullable=False, unique=True),
    Column("created", Double, nullable=False),
)

deployed_triggers = Table(
    # event sources that run for an external user
    "deployed_triggers",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("id", _Text, nullable=False, unique=True),
    Column("external_user", _Text, nullable=False),
    Column("environment", _Text, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("created", Double, nullable=False),
    Column("updated", Double, nullable=False),
    Column("due", Double),  # when the trigger's timer is due; null: no timer
    Column("ticked", Double),  # the time of the timer for which the source ran last
    Column("sealed_settings", LargeBinary, nullable=False),
    Index("deployed_triggers_user", "external_user", "environment"),
    Index("deployed_triggers_due", "due"),
)

deployed_events = Table(
    # the newest events of each deployed trigger
    "deployed_events",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("trigger", _Text, nullable=False),
    Column("sealed_event", LargeBinary, nullable=False),
    Index("deployed_events_trigger", "trigger", "number"),
)

workflow_triggers = Table(
    # triggers of served workflows that were ever enabled
    "workflow_triggers",
    metadata,
    Column("workflow", _Text, nullable=False),  # p_...
    Column("trigger", _Text, nullable=False),
    Column("name", _Text, nullable=False),
    Column("source", _Text, nullable=False),
    Column("sealed_settings", LargeBinary, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("since", Double, nullable=False),
    Column("due", Double),  # null: no timer
    Column("ticked", Double),  # the time of the timer that has fired last
    Column("active", Boolean, nullable=False),  # the source's activate hook has run
    Column("fired", Double),
    Column("run", _Text),
    Column("result", _Text),
    PrimaryKeyConstraint("workflow", "trigger"),
)

trigger_events = Table(
    # events of these triggers and of deployed triggers, whose runs have not started yet, or which a webhook has not received yet
    "trigger_events",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("workflow", _Text, nullable=False),  # or a webhook, wh_...
    Column("trigger", _Text, nullable=False),  # trigger:dc_... for a deployed trigger
    Column("dedupe_key", _Text, nullable=False, unique=True),
    Column("sealed_event", LargeBinary, nullable=False),
)

batches = Table(
    # ticks of schedules that run a workflow for each external user; the runs are in the journal
    "batches",
    metadata,
    Column("id", _Text, primary_key=True),
    Column("workflow", _Text, nullable=False),  # p_..., or the workflow's source for a command
    Column("trigger", _Text, nullable=False),  # empty for a command
    Column("name", _Text, nullable=False),
    Column("environment", _Text, nullable=False),
    Column("origin", _Text, nullable=False),  # serve, terminal
    Column("at", Double, nullable=False),  # the time of the tick
    Column("state", _Text, nullable=False),  # listing, running, retrying, done
    Column("listed_to", _Text),  # the last external user whose run is recorded; null: none yet
    Column("round", Integer, nullable=False),  # 0, then the number of retries
    Column("problem", _Text),  # why it has no runs, or not all
    Column("executor", _Text),  # of the command that records the runs; null for a server
    Index("batches_newest", "at", "id"),
)

batch_skips = Table(
    # external users of a batch who have no run
    "batch_skips",
    metadata,
    Column("batch", _Text, nullable=False),
    Column("external_user", _Text, nullable=False),
    Column(
        "missing", _Text, nullable=False
    ),  # apps without an account, with commas between; empty: there is no such user
    PrimaryKeyConstraint("batch", "external_user"),
)

source_turns = Table(
    # which server runs a source now
    "source_turns",
    metadata,
    Column("source", _Text, primary_key=True),
    Column("owner", _Text, nullable=False),
    Column("until", Double, nullable=False),  # by the database's clock
)

answered_requests = Table(
    # requests to event sources that have a response, and whose sources have not ended
    "answered_requests",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("id", _Text, nullable=False, unique=True),
    Column("trigger", _Text, nullable=False),  # <workflow>/<trigger>, or dc_... of a deployed trigger
    Column("sealed_event", LargeBinary, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("due", Double, nullable=False),
)

console_logins = Table(
    # one-time codes and sessions of the console
    "console_logins",
    metadata,
    Column("digest", _Text, primary_key=True),  # SHA-256 of the code or of the cookie's value, which are not stored
    Column("kind", _Text, nullable=False),  # code, session
    Column("created", Double, nullable=False),
    Column("expires", Double, nullable=False),
)

PROJECT_SCHEMA = Schema(metadata, 10)
"""The first released version; earlier ones were changed without a way to upgrade."""
