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

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from pdkernel.common.clock import Clock, IdGenerator
from pdkernel.errors import RequestError
from pdkernel.storage.database import Database
from pdkernel.storage.schema import client_keys, clients, used_assertions

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
_MIN_RSA_BITS = 2048


class ClientKeyTable:
    """The keys of a project's clients."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def find(self, client_id: str) -> PublicKey | None:
        """The public key of the client *client_id*, or None."""
        query = select(client_keys.c.public_key).where(client_keys.c.client == client_id)
        with self._database.read() as connection:
            text = connection.execute(query).scalar_one_or_none()
        return None if text is None else parse_public_key(text)

    def consume_assertion(self, client_id: str, assertion_id: str, expires: float) -> bool:
        """Mark an assertion as used until it *expires* (seconds since 1970); False if it was used before."""
        mark = hashlib.sha256(f"{client_id}\n{assertion_id}".encode("utf-8", "surrogatepass")).hexdigest()
        now = self._clock.now().timestamp()
        try:
            with self._database.write() as connection:
                connection.execute(delete(used_assertions).where(used_assertions.c.expires < now))
                connection.execute(insert(used_assertions).values(id=mark, expires=expires))
        except IntegrityError:
            return False
        return True


def insert_key(connection: Connection, client_id: str, key: PublicKey) -> None:
    """Store the public key of a client in the transaction that creates the client."""
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")
    connection.execute(insert(client_keys).values(client=client_id, public_key=pem))


def parse_public_key(text: str) -> PublicKey:
    """
    Parse a public key in PEM: EC on P-256 (for ES256) or RSA (for RS256).

    Raises:
        RequestError: The text is not such a key, or is a private key. The message does not show the text.
    """
    try:
        key = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise RequestError(
            "The file does not contain a public key in PEM.",
            fix="Write the public key of your private key to a file: openssl pkey -in private.pem -pubout",
        ) from None
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _MIN_RSA_BITS:
        return key
    raise RequestError(
        "The key is of a kind that is not supported: expected an EC key on P-256, or an RSA key of 2048 bits or more.",
        fix="Create a key: openssl ecparam -name prime256v1 -genkey -noout -out private.pem",
    )


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
