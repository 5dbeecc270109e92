"""
The project's tables, the same on SQLite and Postgres.

Times are seconds since 1970 as double precision, in UTC. Columns called *sealed* went through the vault.
The journal's tables stand beside these in the same database and are `engine.journal.schema`.
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

SCHEMA_VERSION = 5
"""Goes up with every change to a table; an older database is migrated, a newer one refused."""

INTRODUCED_IN = "since"
"""In a table's `info`: the version that it came with, unless that was the first."""

metadata = MetaData()

meta = Table(
    "meta",
    metadata,
    Column("name", Text, primary_key=True),  # project_id, plan, schema_version, key_fingerprint
    Column("value", Text, nullable=False),
)

external_users = Table(
    # a table, not derived from accounts: a user stays when the last account is removed, and keeps created
    "external_users",
    metadata,
    Column("external_user", Text, nullable=False),
    Column("environment", Text, nullable=False),
    Column("created", Double, nullable=False),
    PrimaryKeyConstraint("external_user", "environment"),
)

accounts = Table(
    "accounts",
    metadata,
    # order of insertion: decides between accounts that were created in the same instant
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("app", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("external_user", Text),  # null: an account of your own
    Column("environment", Text, nullable=False),
    Column("created", Double, nullable=False),
    Column("healthy", Boolean, nullable=False),
    Column("fields", Text, nullable=False),  # JSON list of the credentials' names
    Column("sealed_credentials", LargeBinary, nullable=False),
    Index("accounts_newest", "external_user", "environment", "app", "created", "number"),
    Index("accounts_app", "app", "created", "number"),
)

variables = Table(
    "variables",
    metadata,
    Column("name", Text, primary_key=True),
    Column("sealed_value", LargeBinary, nullable=False),
    Column("updated", Double, nullable=False),
)

notebooks = Table(
    "notebooks",
    metadata,
    Column("notebook", Text, primary_key=True),
    Column("sealed_state", LargeBinary, nullable=False),
    Column("updated", Double, nullable=False),
)

sent = Table(
    "sent",
    metadata,
    Column("request", Text, primary_key=True),
    Column("sealed_answer", LargeBinary, nullable=False),
    Column("created", Double, nullable=False),
)

settings = Table(
    "settings",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),  # JSON
)

stores = Table(
    "stores",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("name", Text, nullable=False, unique=True),
    Column("created", Double, nullable=False),
    info={INTRODUCED_IN: 2},
)

store_records = Table(
    "store_records",
    metadata,
    # order of insertion, which a new value leaves alone: pages of a store that is written to meanwhile skip nothing
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("store", ForeignKey("stores.number", ondelete="cascade"), nullable=False),
    Column("key", Text, nullable=False),
    Column("value", Text, nullable=False),  # JSON, not sealed: it is the user's data, as a file of theirs would be
    Column("expires", Double),  # null: never
    Column("updated", Double, nullable=False),
    UniqueConstraint("store", "key"),
    Index("store_records_pages", "store", "number"),
    Index("store_records_expired", "expires"),
    info={INTRODUCED_IN: 2},
)

source_state = Table(
    # what each event source of a workflow remembers between its runs
    "source_state",
    metadata,
    Column("source", Text, primary_key=True),
    Column("sealed_state", LargeBinary, nullable=False),
    Column("updated", Double, nullable=False),
    info={INTRODUCED_IN: 2},
)

secrets = Table(
    # secrets of the project's own, by name: an app's OAuth client secret, the key that signs webhooks
    "secrets",
    metadata,
    Column("name", Text, primary_key=True),
    Column("sealed_value", LargeBinary, nullable=False),
    info={INTRODUCED_IN: 3},
)

connect_tokens = Table(
    "connect_tokens",
    metadata,
    Column("digest", Text, primary_key=True),  # SHA-256 of the token, which itself is not kept
    Column("external_user", Text, nullable=False),
    Column("environment", Text, nullable=False),
    Column("created", Double, nullable=False),
    Column("expires", Double, nullable=False),
    Column("used", Double),  # null: no account was connected with it yet
    Column("sealed_terms", LargeBinary, nullable=False),  # redirects, webhook, origins: URLs may hold secrets
    Index("connect_tokens_user", "external_user", "environment", "created"),
    Index("connect_tokens_expired", "expires"),
    info={INTRODUCED_IN: 3},
)

link_visits = Table(
    # people who were sent to an app's own sign-in page and are expected back
    "link_visits",
    metadata,
    Column("digest", Text, primary_key=True),  # SHA-256 of OAuth's state
    Column("expires", Double, nullable=False),
    Column("sealed_visit", LargeBinary, nullable=False),
    info={INTRODUCED_IN: 3},
)

account_grants = Table(
    # what renews the access token of an account that was connected by OAuth
    "account_grants",
    metadata,
    Column("account", Text, primary_key=True),
    Column("expires", Double),  # of the access token; null: not known
    Column("renewed", Double, nullable=False),
    Column("refused", Boolean, nullable=False),  # the app answered 401 to the access token
    Column("claimed", Double),  # when a process began to renew it
    Column("error", Text),
    Column("sealed_refresh_token", LargeBinary),
    info={INTRODUCED_IN: 3},
)

clients = Table(
    # OAuth clients of the endpoint; removed rows stay, so that a list can say what became of one
    "clients",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("secret_hash", LargeBinary, nullable=False),
    Column("scope", Text, nullable=False),  # scopes with spaces between
    Column("created", Double, nullable=False),
    Column("removed", Double),  # null: it may ask for tokens
    info={INTRODUCED_IN: 3},
)

signing_keys = Table(
    # what access tokens are signed with; the newest signs, the others are good until their tokens have expired
    "signing_keys",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("sealed_key", LargeBinary, nullable=False),
    Column("created", Double, nullable=False),
    Column("expires", Double),  # null: it signs
    info={INTRODUCED_IN: 3},
)

client_keys = Table(
    # public keys of clients that have no secret
    "client_keys",
    metadata,
    Column("client", Text, primary_key=True),
    Column("public_key", Text, nullable=False),  # PEM
    info={INTRODUCED_IN: 5},
)
used_assertions = Table(
    # what such clients have proved themselves with, until it is good for nothing more
    "used_assertions",
    metadata,
    Column("id", Text, primary_key=True),  # a digest of the client's id and the assertion's
    Column("expires", Double, nullable=False),
    info={INTRODUCED_IN: 5},
)
revoked_tokens = Table(
    "revoked_tokens",
    metadata,
    Column("id", Text, primary_key=True),  # the token's jti, not the token
    Column("expires", Double, nullable=False),
    info={INTRODUCED_IN: 3},
)

issued_tokens = Table(
    # access tokens that the real project's API gave out through this server
    "issued_tokens",
    metadata,
    Column("digest", Text, primary_key=True),  # SHA-256 of the token, which itself is not kept
    Column("client", Text, nullable=False),
    Column("workspace", Text),
    Column("scope", Text, nullable=False),  # scopes with spaces between
    Column("expires", Double, nullable=False),
    info={INTRODUCED_IN: 4},
)

endpoints = Table(
    # the endpoint's key and the id of each workflow that no file names these for, made at its first serve
    "endpoints",
    metadata,
    Column("source", Text, primary_key=True),
    Column("key", Text, nullable=False, unique=True),
    Column("created", Double, nullable=False),
    info={INTRODUCED_IN: 3},
)

deployed_triggers = Table(
    # event sources that run for an external user
    "deployed_triggers",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("external_user", Text, nullable=False),
    Column("environment", Text, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("created", Double, nullable=False),
    Column("updated", Double, nullable=False),
    Column("due", Double),  # when its timer wakes it; null: nothing does
    Column("sealed_settings", LargeBinary, nullable=False),
    Index("deployed_triggers_user", "external_user", "environment"),
    Index("deployed_triggers_due", "due"),
    info={INTRODUCED_IN: 3},
)

deployed_events = Table(
    # what those emitted, the newest of each
    "deployed_events",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("trigger", Text, nullable=False),
    Column("sealed_event", LargeBinary, nullable=False),
    Index("deployed_events_trigger", "trigger", "number"),
    info={INTRODUCED_IN: 3},
)
