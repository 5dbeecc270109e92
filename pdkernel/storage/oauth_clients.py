"""
OAuth clients of the endpoint: programs that may request access tokens.

A secret is shown once and stored as its SHA-256. A slow hash (argon2, scrypt) would only slow down requests, because a secret
has 256 random bits. `access_tokens` issues the tokens.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import insert, select, update

from pdkernel.common.clock import Clock, IdGenerator
from pdkernel.errors import RequestError
from pdkernel.storage.client_keys import PublicKey, insert_key, parse_public_key
from pdkernel.storage.database import Database
from pdkernel.storage.schema import clients

ALL_SCOPES = ("*",)
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+\Z")  # RFC 6749, section 3.3
_SECRET_BYTES = 32
_DUMMY_HASH = hashlib.sha256(b"no client").digest()


@dataclass(frozen=True, slots=True)
class OAuthClient:
    """
    A client, without its secret.

    Attributes:
        id: The client's id.
        name: The display name.
        scopes: The scopes that its tokens may have; `*` allows all.
        created_at: When the client was created.
    """

    id: str
    name: str
    scopes: tuple[str, ...]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class NewClient:
    """A new client with its secret, which cannot be read again."""

    client: OAuthClient
    secret: str = field(repr=False)


class OAuthClientTable:
    """The clients of a project."""

    def __init__(self, database: Database, clock: Clock, ids: IdGenerator) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids

    def create(self, name: str = "", scopes: Sequence[str] = ALL_SCOPES) -> NewClient:
        """
        Create a client with a secret.

        Raises:
            RequestError: A scope is invalid.
        """
        return self._create(name, scopes, None)

    def create_with_key(self, public_key: str, name: str = "", scopes: Sequence[str] = ALL_SCOPES) -> OAuthClient:
        """
        Create a client that authenticates with the private key of *public_key* (PEM) and has no secret.

        Raises:
            RequestError: A scope or the key is invalid.
        """
        return self._create(name, scopes, parse_public_key(public_key)).client

    def _create(self, name: str, scopes: Sequence[str], key: PublicKey | None) -> NewClient:
        for scope in scopes:
            if not _SCOPE.match(scope):
                raise RequestError(
                    f"{scope!r} is not a scope.", fix="Use a scope such as connect:accounts:read, or * for all."
                )
        # not from `ids`: a secret must be random, whatever id generator the caller passes
        secret = f"pds_{secrets.token_urlsafe(_SECRET_BYTES)}"
        now = self._clock.now()
        client = OAuthClient(self._ids.new("pdc_", 24), name, tuple(scopes) or ALL_SCOPES, now)
        with self._database.write() as connection:
            connection.execute(
                insert(clients).values(
                    id=client.id,
                    name=name,
                    secret_hash=_hash(secret),
                    scope=" ".join(client.scopes),
                    created=now.timestamp(),
                )
            )
            if key is not None:
                insert_key(connection, client.id, key)
        return NewClient(client, secret)

    def list_clients(self) -> Sequence[OAuthClient]:
        """All clients that were not removed, oldest first."""
        query = select(clients).where(clients.c.removed.is_(None)).order_by(clients.c.created, clients.c.id)
        with self._database.read() as connection:
            return [_client(row) for row in connection.execute(query)]

    def authenticate(self, client_id: str, secret: str) -> OAuthClient | None:
        """The client with the id *client_id* if *secret* is correct; an unknown id takes as long as a wrong secret."""
        query = select(clients).where(clients.c.id == client_id, clients.c.removed.is_(None))
        with self._database.read() as connection:
            row = connection.execute(query).first()
        same = hmac.compare_digest(_hash(secret), _DUMMY_HASH if row is None else row.secret_hash)
        return _client(row) if same and row is not None else None

    def find(self, client_id: str) -> OAuthClient | None:
        """The client with the id *client_id*; None if it does not exist or was removed."""
        query = select(clients).where(clients.c.id == client_id, clients.c.removed.is_(None))
        with self._database.read() as connection:
            row = connection.execute(query).first()
        return None if row is None else _client(row)

    def is_known(self, client_id: str) -> bool:
        """Whether this project has or had a client with the id *client_id*; a removed client counts."""
        with self._database.read() as connection:
            return connection.execute(select(clients.c.id).where(clients.c.id == client_id)).first() is not None

    def remove(self, client_id: str) -> bool:
        """Remove the client; its tokens are refused within seconds. False if the client does not exist."""
        now = self._clock.now().timestamp()
        query = update(clients).where(clients.c.id == client_id, clients.c.removed.is_(None)).values(removed=now)
        with self._database.write() as connection:
            return connection.execute(query).rowcount > 0


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _client(row: Any) -> OAuthClient:
    return OAuthClient(row.id, row.name, tuple(row.scope.split()), datetime.fromtimestamp(row.created, UTC))
